"""Which tables the paper has, and what is in them."""

import dataclasses
from collections.abc import Callable

from lossbench.report import display, temperatures
from lossbench.report.records import NotRun, RunRecords, StudyRecords
from lossbench.report.tables import Column, Key, Table, build_table

_CALIBRATION = ('nll', 'ece', 'tempered_nll', 'tempered_ece')
_MORE_CALIBRATION = (
  'temperature',
  'brier_score',
  'classwise_ece',
  'adaptive_ece',
)
_COLLAPSE = (
  'angular_visual_hardness',
  'participation_ratio',
  'nc1',
  'nc2_mean_norms',
  'nc2_mean_angles',
  'nc3',
  'nc4',
)
_DETECTION = (
  'max_probability_auroc',
  'max_probability_fpr_at_95_tpr',
  'energy_auroc',
  'energy_fpr_at_95_tpr',
)
_AUGMENTATIONS = ('autoaugment', 'mixup')
_SIGNIFICANCE = (
  'Mean ± standard error over seeds. Bold: the best, and whatever a Welch t-test '
  'does not tell from it (p > 0.05).'
)


def _metric(name: str, **where) -> Callable[[RunRecords], float | None]:
  return lambda run: run.value(name, **where)


def _column(recipe, metric, direction, *, label=None, **more) -> Column:
  return Column(
    label=label or display.metric_label(metric),
    recipe=recipe,
    value_fn=_metric(metric),
    is_percent=display.is_percent(metric),
    direction=direction,
    metric=metric,
    **more,
  )


def _augmentation(objective: str) -> str:
  words = set(objective.split('+')) & set(_AUGMENTATIONS)
  return '+'.join(sorted(words))


def _plain_keys(study: StudyRecords, recipe: str) -> list[Key]:
  """Rows that are not augmented; those have a table of their own."""
  return [key for key in study.keys(recipe) if not _augmentation(key[0])]


def _evaluated(study: StudyRecords) -> list[str]:
  """Groups that are evaluated, whose rows are plain objectives."""
  return [
    recipe
    for recipe in study.recipes()
    if _plain_keys(study, recipe)
    and any('evaluate' in run.commands for run in study.runs_of(recipe))
  ]


def _all_keys(study: StudyRecords, recipes) -> list[Key]:
  keys = {key for recipe in recipes for key in _plain_keys(study, recipe)}
  return sorted(keys, key=display.order)


def _titled(recipe: str, label: str, recipes) -> str:
  return f'{recipe}: {label}' if len(recipes) > 1 else label


def _require(found, study, what, *, config='configs/studies/paper.py'):
  """Raises NotRun unless the study has something; says which study has."""
  if not found:
    raise NotRun(
      f'{display.NOT_RUN}: the study {study.name!r} has no {what}. '
      f'python -m lossbench.study --config={config} --workdir=STUDY'
    )


def table_1(study: StudyRecords) -> Table:
  recipes = [r for r in _evaluated(study) if 'inception' not in r]
  _require(recipes, study, 'evaluated runs')
  columns = []
  for recipe in recipes:
    for metric in ('top1_accuracy', 'top5_accuracy'):
      if metric == 'top5_accuracy' and not any(
        run.value(metric) is not None for run in study.runs_of(recipe)
      ):
        continue  # of five classes or fewer there is none
      label = _titled(recipe, display.metric_label(metric), recipes)
      columns.append(
        _column(
          recipe,
          metric,
          'higher',
          label=label,
          on_examples=metric == 'top1_accuracy',
        )
      )
  return build_table(
    study,
    'table_1',
    'Table 1: accuracy',
    f'Accuracy (%) on the test split. {_SIGNIFICANCE} Against the best: its '
    'p-value, the same with Holm’s correction for all tests of the column, and '
    'the 95 % interval of the difference in points, by paired bootstrap over '
    'examples.',
    columns,
    _all_keys(study, recipes),
  )


def table_2(study: StudyRecords) -> Table:
  recipes = _evaluated(study)
  _require(recipes, study, 'evaluated runs')
  columns = []
  for recipe in recipes:
    columns.append(
      _column(
        recipe,
        'top1_accuracy',
        'higher',
        label=_titled(recipe, 'top-1', recipes),
      )
    )
    columns.append(
      Column(
        label=_titled(recipe, 'class separation (R²)', recipes),
        recipe=recipe,
        value_fn=_metric('class_separation', endpoint='features'),
      )
    )
  return build_table(
    study,
    'table_2',
    'Table 2: class separation',
    'R² (eq. 11) of the penultimate features on the test split (the paper: of the '
    f'training set), beside top-1 accuracy (%). {_SIGNIFICANCE}',
    columns,
    _all_keys(study, recipes),
  )


def _transfer_column(recipe, target, label) -> Column:
  return Column(
    label=label,
    recipe=recipe,
    value_fn=lambda run: run.transfer_value(target),
    is_percent=True,
    direction='higher',
  )


def _targets(study: StudyRecords, recipe: str) -> list[str]:
  """Transfers of a group, the relearned source task last."""
  targets = dict.fromkeys(
    target for run in study.runs_of(recipe) for target in run.transfer
  )
  own = study.runs_of(recipe)[0].dataset
  return sorted(targets, key=lambda target: target.split(':')[0] == own)


def _target_label(study: StudyRecords, recipe: str, target: str) -> str:
  dataset, _, split = target.partition(':')
  if dataset == study.runs_of(recipe)[0].dataset:
    return f'{dataset}, relearned from {split}'
  return target


def table_3(study: StudyRecords) -> Table:
  recipes = [r for r in _evaluated(study) if _targets(study, r)]
  _require(recipes, study, 'transfer')
  columns = [
    _transfer_column(
      recipe,
      target,
      _titled(recipe, _target_label(study, recipe, target), recipes),
    )
    for recipe in recipes
    for target in _targets(study, recipe)
  ]
  return build_table(
    study,
    'table_3',
    'Table 3: transfer',
    'Accuracy (%) of L2-regularised logistic regression on fixed penultimate '
    f'features; mean per class where the field reports it. {_SIGNIFICANCE}',
    columns,
    _all_keys(study, recipes),
  )


def table_4(study: StudyRecords) -> Table:
  found = temperatures.sweeps(study)
  _require(
    found,
    study,
    'runs over temperatures',
    config='configs/studies/temperature.py',
  )
  rows = sorted({temperature for sweep in found for temperature in sweep.keys})
  names = [sweep.recipe for sweep in found]
  columns, runs = [], []
  for sweep in found:
    objectives = {key[0] for key in sweep.keys.values()}
    if len(objectives) > 1:  # with and without scaling of the loss
      objectives = {key[0].split('+')[0] for key in sweep.keys.values()}
    name = f'{sweep.recipe}, {display.objective_label(objectives.pop())}'
    runs += [dataclasses.replace(r, recipe=name) for r in sweep.study.runs]
    of_sweep = [
      _column(name, 'top1_accuracy', 'higher'),
      Column(
        label='class separation (R²)',
        recipe=name,
        value_fn=_metric('class_separation', endpoint='features'),
      ),
    ]
    of_sweep += [
      _transfer_column(
        name, target, _target_label(sweep.study, sweep.recipe, target)
      )
      for target in reversed(_targets(sweep.study, sweep.recipe))
    ]
    columns += [
      dataclasses.replace(
        column,
        label=_titled(name, column.label, names),
        key_fn=lambda key, sweep=sweep: sweep.keys.get(float(key[1]), key),
      )
      for column in of_sweep
    ]
  return build_table(
    dataclasses.replace(study, runs=tuple(runs)),
    'table_4',
    'Table 4: temperature',
    'Over the temperature τ of the softmax over cosines: top-1 accuracy (%), '
    'class separation, accuracy (%) of relearned and transferred classifiers. '
    f'{_SIGNIFICANCE}',
    columns,
    [('', f'{temperature:g}') for temperature in rows],
    sort=False,
    row_label_fn=lambda key: f'τ = {key[1]}',
  )


def table_b1(study: StudyRecords) -> Table:
  recipes = [r for r in _evaluated(study) if 'inception' in r]
  _require(recipes, study, 'Inception v3 runs')
  columns = [
    _column(recipe, metric, 'higher', on_examples=metric == 'top1_accuracy')
    for recipe in recipes
    for metric in ('top1_accuracy', 'top5_accuracy')
  ]
  return build_table(
    study,
    'table_b1',
    'Table B.1: accuracy of Inception v3',
    f'Accuracy (%) on the test split. {_SIGNIFICANCE}',
    columns,
    _all_keys(study, recipes),
  )


def _ood_columns(study, recipe, metrics, recipes) -> list[Column]:
  """A column for every data set (corruptions: their mean) that was measured."""
  own = study.runs_of(recipe)[0].dataset
  measured, families = {}, set()
  for run in study.runs_of(recipe):
    for row in run.metrics.itertuples():
      if row.dataset == own or row.dataset.startswith('transfer-'):
        continue
      if row.dataset.endswith('_c'):
        families.add(row.dataset)
      if row.metric in metrics:
        measured.setdefault(row.metric, set()).add(row.dataset)
  columns = []
  for dataset, metric, members in sorted(_averaged(measured, families)):
    label = dataset
    if metric != 'top1_accuracy':
      label += f', {display.metric_label(metric)}'
    columns.append(
      Column(
        label=_titled(recipe, label, recipes),
        recipe=recipe,
        value_fn=lambda run, metric=metric, members=members: _mean_value(
          run, metric, members
        ),
        is_percent=True,
        direction='lower' if 'fpr' in metric else 'higher',
      )
    )
  return columns


def _averaged(measured, families):
  """Yields (data set, metric, data sets to average) of the OOD tables."""
  for metric, datasets in measured.items():
    for dataset in datasets:
      if not any(dataset.startswith(f'{family}_') for family in families):
        yield dataset, metric, (dataset,)
    for family in families - datasets:
      members = sorted(d for d in datasets if d.startswith(f'{family}_'))
      if members:
        yield family, metric, tuple(members)


def _mean_value(run: RunRecords, metric: str, datasets) -> float | None:
  values = [run.value(metric, dataset=dataset) for dataset in datasets]
  return None if None in values else sum(values) / len(values)


def _ood_table(study, name, title, caption, metrics) -> Table:
  recipes = [
    r for r in _evaluated(study) if _ood_columns(study, r, metrics, ())
  ]
  _require(recipes, study, 'measurements out of distribution')
  columns = [
    column
    for recipe in recipes
    for column in _ood_columns(study, recipe, metrics, recipes)
  ]
  return build_table(
    study,
    name,
    title,
    f'{caption} {_SIGNIFICANCE}',
    columns,
    _all_keys(study, recipes),
  )


def table_b2(study: StudyRecords) -> Table:
  return _ood_table(
    study,
    'table_b2',
    'Table B.2: accuracy out of distribution',
    'Top-1 accuracy (%); of corruptions (…_c) the mean over all of them and their '
    'severities.',
    ('top1_accuracy', 'subset_top1_accuracy', 'real_accuracy'),
  )


def table_detection(study: StudyRecords) -> Table:
  return _ood_table(
    study,
    'table_ood_detection',
    'OOD detection (beyond the paper)',
    'How well the maximum probability and the energy tell the test split from '
    'other data sets (%); of corruptions (…_c) the mean.',
    _DETECTION,
  )


def _metrics_table(study, name, title, caption, metrics, direction) -> Table:
  recipes = _evaluated(study)
  _require(recipes, study, 'evaluated runs')
  columns = [
    _column(
      recipe,
      metric,
      'neutral' if metric == 'temperature' else direction,
      label=_titled(recipe, display.metric_label(metric), recipes),
    )
    for recipe in recipes
    for metric in metrics
  ]
  if direction != 'neutral':
    caption = f'{caption} {_SIGNIFICANCE}'
  return build_table(
    study,
    name,
    title,
    caption,
    columns,
    _all_keys(study, recipes),
    sort=False,
  )


def table_b3(study: StudyRecords) -> Table:
  return _metrics_table(
    study,
    'table_b3',
    'Table B.3: calibration',
    'NLL in nats and ECE (15 bins) on the test split, before and after scaling '
    'the temperature for the lowest NLL on that split. Sigmoid’s probabilities '
    'are normalised over the classes; squared error’s outputs were never trained '
    'to be log-odds: read its rows with care.',
    _CALIBRATION,
    'lower',
  )


def table_more_calibration(study: StudyRecords) -> Table:
  return _metrics_table(
    study,
    'table_more_calibration',
    'More calibration (beyond the paper)',
    'Temperature of the lowest NLL, Brier score, class-wise ECE, ECE with bins of '
    'equal mass.',
    _MORE_CALIBRATION,
    'lower',
  )


def table_collapse(study: StudyRecords) -> Table:
  return _metrics_table(
    study,
    'table_neural_collapse',
    'Geometry of the features (beyond the paper)',
    'Angular visual hardness, participation ratio and neural collapse (Papyan et '
    'al. 2020) on the test split. Mean ± standard error over seeds.',
    _COLLAPSE,
    'neutral',
  )


def table_c1(study: StudyRecords) -> Table:
  combined = [
    run
    for run in study.runs
    if '+' in run.objective and not _augmentation(run.objective)
  ]
  recipes = list(dict.fromkeys(run.recipe for run in combined))
  _require(
    recipes,
    study,
    'combined objectives',
    config='configs/studies/combinations.py',
  )
  recipe = recipes[0]
  keys = [
    key
    for key in study.keys(recipe)
    if not _augmentation(key[0]) and not key[1]
  ]
  heads = list(dict.fromkeys(key[0].split('+')[0] for key in keys))
  added = list(dict.fromkeys('+'.join(key[0].split('+')[1:]) for key in keys))
  columns = [
    Column(
      label=display.objective_label(addend) if addend else 'alone',
      recipe=recipe,
      value_fn=lambda run: run.holdout_accuracy,
      is_percent=True,
      direction='higher',
      key_fn=lambda key, addend=addend: (
        f'{key[0]}+{addend}' if addend else key[0],
        key[1],
      ),
    )
    for addend in added
  ]
  return build_table(
    study,
    'table_c1',
    'Table C.1: combinations',
    'Best accuracy (%) on the holdout at any time in training; columns are added '
    f'to rows. {_SIGNIFICANCE}',
    columns,
    [(head, '') for head in heads],
    sort=False,
  )


def table_c2(study: StudyRecords) -> Table:
  recipes = [
    recipe
    for recipe in study.recipes()
    if any(_augmentation(key[0]) for key in study.keys(recipe))
    and any('evaluate' in run.commands for run in study.runs_of(recipe))
  ]
  _require(
    recipes,
    study,
    'runs with AutoAugment or mixup',
    config='configs/studies/augmentation.py',
  )
  columns = []
  for recipe in recipes:
    augmentations = dict.fromkeys(
      _augmentation(key[0]) for key in study.keys(recipe)
    )
    for augmentation in augmentations:
      suffix = f'+{augmentation}' if augmentation else ''
      name = (
        display.objective_label(augmentation) if augmentation else 'standard'
      )
      columns += [
        _column(
          recipe,
          metric,
          'higher',
          label=f'{name}: {display.metric_label(metric)}',
          key_fn=lambda key, suffix=suffix: (key[0] + suffix, key[1]),
        )
        for metric in ('top1_accuracy', 'top5_accuracy')
      ]
  keys = dict.fromkeys(
    (
      '+'.join(w for w in key[0].split('+') if w not in _AUGMENTATIONS),
      key[1],
    )
    for recipe in recipes
    for key in study.keys(recipe)
  )
  return build_table(
    study,
    'table_c2',
    'Table C.2: AutoAugment and mixup',
    f'Accuracy (%) on the test split. {_SIGNIFICANCE}',
    columns,
    list(keys),
    sort=False,
  )


# In the paper's order, then ours.
TABLES: tuple[tuple[str, Callable[[StudyRecords], Table]], ...] = (
  ('Table 1: accuracy', table_1),
  ('Table 2: class separation', table_2),
  ('Table 3: transfer', table_3),
  ('Table 4: temperature', table_4),
  ('Table B.1: accuracy of Inception v3', table_b1),
  ('Table B.2: accuracy out of distribution', table_b2),
  ('Table B.3: calibration', table_b3),
  ('Table C.1: combinations', table_c1),
  ('Table C.2: AutoAugment and mixup', table_c2),
  ('OOD detection (beyond the paper)', table_detection),
  ('More calibration (beyond the paper)', table_more_calibration),
  ('Geometry of the features (beyond the paper)', table_collapse),
)
