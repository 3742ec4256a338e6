"""What the columns and rows of tables are made of."""

from collections.abc import Callable, Sequence

from lossbench.report import display, looks
from lossbench.report.looks import Key
from lossbench.report.records import (
  Measured,
  NotRun,
  RunRecords,
  StudyRecords,
  Target,
)
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.runs.records import HIGHER, get_measure

_AUGMENTATIONS = ('autoaugment', 'mixup')


def reader(metric: str, **where) -> Callable[[RunRecords], Measured | None]:
  """Reads a metric; `where` as of `RunRecords.measured`."""
  return lambda run: run.measured(metric, **where)


def metric_column(
  group: str,
  metric: str,
  *,
  label: str = '',
  endpoint: str = '',
  training: bool = False,
  **more,
) -> Column:
  """A metric of the runs' own test split, or of images they were trained on."""
  measure = get_measure(metric)
  return Column(
    label=label or measure.title,
    group=group,
    read_fn=reader(metric, endpoint=endpoint, training=training),
    is_percent=display.is_percent(metric),
    direction=measure.direction,
    metric='' if training or endpoint else metric,
    **more,
  )


def split_columns(
  study: StudyRecords, group: str, metric: str, *, endpoint: str = ''
) -> list[Column]:
  """A measure of representations, on training images and on the test split.

  On the former as in the paper, wherever the study measures it there.
  """
  title = get_measure(metric).title
  return [
    metric_column(
      group,
      metric,
      label=f'{title}, {"training" if training else "test"}',
      endpoint=endpoint,
      training=training,
    )
    for training in (True, False)
    if not training or study.measures_training(group)
  ]


def separation_columns(study: StudyRecords, group: str) -> list[Column]:
  """Class separation of the penultimate features."""
  return split_columns(study, group, 'class_separation', endpoint='features')


def training_notes(study: StudyRecords, groups: Sequence[str]) -> list[str]:
  """How to measure on training images what is not to be measured there."""
  return [
    f'{group}: {study.how_to_measure_training(group)}'
    for group in groups
    if not study.measures_training(group)
  ]


def transfer_column(
  group: str, target: Target, label: str, protocol: str = ''
) -> Column:
  """The main metric of a transfer, by the linear probe or another protocol."""
  return Column(
    label=label,
    group=group,
    read_fn=lambda run: run.transferred(target.name, protocol),
    is_percent=True,
    direction=HIGHER,
  )


def targets(study: StudyRecords, group: str) -> list[Target]:
  """Transfers of a group, the relearned source task last."""
  runs = study.runs_of(group)
  found = dict.fromkeys(target for run in runs for target in run.transfer)
  return sorted(found, key=lambda target: target.dataset == runs[0].dataset)


def target_label(study: StudyRecords, group: str, target: Target) -> str:
  """What a transfer is called: of the runs' own task, that it is relearned."""
  if target.dataset == study.runs_of(group)[0].dataset:
    return f'{target.dataset}, relearned from {target.split or "train"}'
  return target.name


def relearning_notes(study: StudyRecords, group: str) -> list[str]:
  """How many of the images a source task is relearned from were seen before."""
  notes = {}
  for run in study.runs_of(group):
    for target in run.transfer:
      record = run.transfers.get(target.name)
      if record is None or target.dataset != run.dataset:
        continue
      seen = f'{record.num_seen:,}' if record.num_seen else 'none'
      notes[
        f'{group}: {target_label(study, group, target)}: '
        f'{record.num_train:,} images, of which the networks were trained on '
        f'{seen}'
      ] = None
  return list(notes)


def augmentation(key: Key) -> str:
  """'autoaugment', 'mixup', both joined by '+', or ''."""
  return '+'.join(sorted(set(key.parts) & set(_AUGMENTATIONS)))


def without_augmentation(key: Key) -> Key:
  """The same objective on plain images."""
  parts = [part for part in key.parts if part not in _AUGMENTATIONS]
  return key._replace(objective='+'.join(parts))


def plain_keys(study: StudyRecords, group: str) -> list[Key]:
  """Rows that are not augmented; those have a table of their own."""
  return [key for key in study.keys(group) if not augmentation(key)]


def all_plain_keys(study: StudyRecords, groups: Sequence[str]) -> list[Key]:
  """The rows of a table over several groups."""
  keys = {key for group in groups for key in plain_keys(study, group)}
  return sorted(keys, key=looks.order)


def evaluated(study: StudyRecords) -> list[str]:
  """Groups that are evaluated, whose rows are plain objectives."""
  return [
    group
    for group in study.groups()
    if plain_keys(study, group)
    and any('evaluate' in run.commands for run in study.runs_of(group))
  ]


def titled(group: str, label: str, groups: Sequence[str]) -> str:
  """A heading, with the group's name where there are several."""
  return f'{group}: {label}' if len(groups) > 1 else label


def require(
  found,
  study: StudyRecords,
  what: str,
  *,
  config: str = 'configs/studies/paper.py',
):
  """Raises NotRun unless the study has something; says which study has."""
  if not found:
    raise NotRun(
      f'{display.NOT_RUN}: the study {study.name!r} has no {what}. '
      f'python -m lossbench.study --config={config} --workdir=STUDY'
    )


def accuracy_columns(
  study: StudyRecords, group: str, groups: Sequence[str]
) -> list[Column]:
  """Top-1 and, of more than five classes, top-5."""
  columns = []
  for metric in ('top1_accuracy', 'top5_accuracy'):
    if metric == 'top5_accuracy' and not any(
      run.measured(metric) for run in study.runs_of(group)
    ):
      continue  # of five classes or fewer there is none
    columns.append(
      metric_column(
        group,
        metric,
        label=titled(group, get_measure(metric).title, groups),
      )
    )
  return columns


def build_metrics_table(
  study: StudyRecords,
  caption: str,
  metrics: Sequence[str],
) -> Table:
  """A column for each metric of each group that is evaluated.

  Args:
    study: to report on.
    caption: of the table.
    metrics: of the own test split.
  """
  groups = evaluated(study)
  require(groups, study, 'evaluated runs')
  columns = [
    metric_column(
      group,
      metric,
      label=titled(group, get_measure(metric).title, groups),
    )
    for group in groups
    for metric in metrics
  ]
  return build_table(
    study,
    caption,
    columns,
    all_plain_keys(study, groups),
    sort=False,
  )
