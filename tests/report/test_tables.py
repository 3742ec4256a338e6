"""A synthetic study gives exactly the expected text."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from scipy import stats

from lossbench.report.bootstrap import Effect
from lossbench.report.looks import Key
from lossbench.report.reading import load_study
from lossbench.report.records import NotRun
from lossbench.report.statistics import Welch
from lossbench.report.tables import (
  accuracy,
  augmentation,
  building,
  calibration,
  classes,
  collapse,
  combinations,
  corruptions,
  detection,
  finetuning,
  inception,
  more_calibration,
  rendering,
  separation,
  shifts,
  temperature,
  transfer,
)
from lossbench.runs.records import create_record
from tests.report.conftest import ACCURACY, write_metrics


def _rows(table):
  return rendering.to_markdown(table, title='T').splitlines()[2:]


def _texts(table):
  """Row -> heading -> what is printed there."""
  headings, rows = rendering.extended(table)
  return {
    label: {
      heading: text for heading, (text, _) in zip(headings, row, strict=True)
    }
    for label, row in zip(table.rows, rows, strict=True)
  }


def test_table_1_to_the_letter(synthetic_study):
  table = accuracy.build(load_study(synthetic_study))
  # Sigmoid and dropout have the same mean, so the first of them is the best.
  rows = _rows(table)
  assert rows[0] == (
    '| | top-1 | top-1, published | Δ Softmax | top-5 | top-5, published | '
    'Δ Softmax |'
  )
  assert rows[2].startswith('| Dropout | **78.20 ± 0.21** | – | +1.0 [+')
  assert rows[3].startswith(
    '| Sigmoid | **78.20 ± 0.12** | 77.9 ± 0.05 | +1.0 [+'
  )
  assert rows[4].startswith('| Softmax | 77.20 ± 0.12 | 77.0 ± 0.06 | – | ')
  # Top-5 was the same for all seeds and its examples are not known.
  assert '[nothing varies over seeds]' in rows[2]
  assert table.caption == (
    'Accuracy (%) on the test split. Mean ± standard error over seeds. Bold: the '
    'best, and whatever has 0 in the 95 % interval of its difference from the '
    'best. Δ: the difference from the row named and its 95 % interval, by '
    'bootstrap over seeds and examples. 3 seeds each, 1,000 examples.'
  )
  assert '| Sigmoid − Softmax | top-1 | 3 | +1.0 [+' in '\n'.join(rows)


def test_statistics_in_the_csv(synthetic_study):
  """Welch's is SciPy's; the interval is what crossed variances say."""
  table = accuracy.build(load_study(synthetic_study))
  rows = list(csv.DictReader(io.StringIO(rendering.to_csv(table))))
  by_row = {r['row']: r for r in rows if r['column'] == 'top-1'}
  sigmoid = by_row['Sigmoid']
  expected = stats.ttest_ind(
    ACCURACY['sigmoid'], ACCURACY['softmax'], equal_var=False
  )
  assert float(sigmoid['p_value']) == pytest.approx(expected.pvalue)
  assert float(sigmoid['p_holm']) >= float(sigmoid['p_value'])
  assert float(sigmoid['mean']) == pytest.approx(0.782)
  assert float(sigmoid['difference']) == pytest.approx(0.01)
  assert sigmoid['reference'] == 'Softmax'
  assert sigmoid['interval_over'] == 'seeds and examples'
  # Right are the first 770, 772, 774 and 780, 782, 784 of 1000, so the shares
  # of seeds differ by 1/3, 2/3, 1, 2/3 and 1/3 on 2, 2, 6, 2 and 2 examples.
  low, high = float(sigmoid['interval_low']), float(sigmoid['interval_high'])
  of_examples = ((4 / 9 + 4 * 4 / 9 + 6) / 1000 - 0.01**2) / 1000
  of_seeds = 2 * 0.002**2 / 3
  half = (high - low) / 2
  assert half > 0.9 * stats.norm.ppf(0.975) * np.sqrt(of_examples)
  assert half < 1.1 * stats.t.ppf(0.975, 8) * np.sqrt(of_examples + of_seeds)
  # 5 standard deviations, times 1 - 3 / (4 dof - 1) nearly.
  assert float(sigmoid['hedges_g']) == pytest.approx(3.989, rel=1e-3)
  assert by_row['Softmax']['difference'] == ''
  assert by_row['Softmax']['bold'] == 'False'
  assert by_row['Softmax']['published'] == '77.0 ± 0.06'


def test_test_and_interval_that_disagree_are_named(synthetic_study):
  """As of top-1 where few examples tell more than few seeds, or fewer."""
  table = transfer.build(load_study(synthetic_study))
  assert not any('Welch' in note for note in table.notes)
  effect = Effect(0.01, variance=1e-5, dof=9, over='seeds and examples')
  cells = tuple(
    tuple(
      dataclasses.replace(
        cell, difference=effect, test=Welch(0.04 if index else 0.06)
      )
      for index, cell in enumerate(row)
    )
    for row in table.cells
  )
  assert effect.excludes_zero
  [note] = building._disagreements(
    dataclasses.replace(table, cells=cells[2:], rows=table.rows[2:])
  )
  assert f'of {table.rows[2]}, food101: the test asks' in note


def test_without_softmax_the_best_is_the_reference(synthetic_study):
  for path in synthetic_study.glob('runs/*/softmax/*/eval/*/metrics.json'):
    path.unlink()
  table = accuracy.build(load_study(synthetic_study))
  assert table.references[0] == 'Dropout'
  assert 'Δ Dropout' in _rows(table)[0]


def test_latex_is_escaped_and_complete(synthetic_study):
  table = accuracy.build(load_study(synthetic_study))
  text = rendering.to_latex(table, title='Table 1', label='table_1')
  assert r'\toprule' in text
  assert r'\textbf{78.20 $\pm$ 0.12}' in text
  assert r'Accuracy (\%)' in text
  body = text[text.index(r'\begin{tabular}') : text.index(r'\end{tabular}')]
  rows = [line for line in body.splitlines() if line.endswith(r'\\')]
  assert len(rows) == 4
  assert len({row.count('&') for row in rows}) == 1
  assert text.isascii() or '’' in text


def test_missing_seeds_are_counted_and_name_their_command(synthetic_study):
  run = synthetic_study / 'runs/imagenet_resnet50/sigmoid/seed2'
  for path in (run / 'eval').glob('*/metrics.json'):
    path.unlink()
  (run / 'error.json').write_text('{"stage": "train", "error": "no disk"}')
  table = accuracy.build(load_study(synthetic_study))
  sigmoid = next(row for row in _rows(table) if 'Sigmoid' in row)
  assert '78.10 ± 0.10 (2 of 3)' in sigmoid
  assert table.notes == (
    'imagenet_resnet50, Sigmoid: seed 2 not run (train: no disk). '
    'python -m lossbench.study --config=configs/studies/synthetic.py '
    f'--workdir={synthetic_study} --only=imagenet_resnet50/sigmoid/',
  )


def test_objectives_without_any_run_say_so(synthetic_study):
  for path in synthetic_study.glob('runs/*/sigmoid/*/eval/*/metrics.json'):
    path.unlink()
  table = accuracy.build(load_study(synthetic_study))
  assert _texts(table)['Sigmoid']['top-1'] == 'not run'


def test_other_tables(synthetic_study):
  study = load_study(synthetic_study)
  assert (
    '| Softmax | 77.20 ± 0.12 | 77.0 ± 0.06 | – | 0.250 ± 0.000 | – '
    '| 0.200 ± 0.000 | – |' in _rows(separation.build(study))
  )
  transferred = transfer.build(study)
  labels = [column.label for column in transferred.columns]
  assert labels == [
    'food101',
    'cifar10',
    'imagenet2012, relearned from holdout',
  ]
  nothing = 'nothing varies over seeds'
  assert (
    f'| Sigmoid | 69.00 ± 0.00 | -1.00 [{nothing}] | 89.00 ± 0.00 | -1.00 '
    f'[{nothing}] | 61.00 ± 0.00 | +1.00 [{nothing}] |'
  ) in _rows(transferred)
  ood = shifts.build(study)
  assert [column.label for column in ood.columns] == [
    'imagenet_a, top-1 (of its classes)',
    'imagenet_c',
  ]
  for build in (
    temperature.build,
    inception.build,
    combinations.build,
    augmentation.build,
  ):
    with pytest.raises(NotRun, match='not run'):
      build(study)


def test_other_ways_to_transfer_have_tables_of_their_own(synthetic_study):
  study = load_study(synthetic_study)
  texts = _texts(transfer.build_neighbours(study))
  assert texts['Sigmoid']['food101'] == '63.00 ± 0.00'
  few = transfer.build_few_shots(study)
  texts = _texts(few)['Softmax']
  assert texts['food101, 1 a class'] == '35.00 ± 0.00'
  assert texts['food101, 5 a class'] == 'n/a: few'
  assert texts['food101, 10 a class'] == 'not run'
  assert any('is at most 1.23 points' in note for note in few.notes)
  texts = _texts(finetuning.build(study))
  assert texts['Dropout']['food101'] == '80.20 ± 0.00'
  assert study.runs[0].is_evaluated
  for path in synthetic_study.glob('runs/*/softmax/*/eval/finetune-*/*'):
    path.unlink()
  study = load_study(synthetic_study)
  assert _texts(finetuning.build(study))['Softmax']['food101'] == 'not run'
  assert not study.runs[0].is_evaluated
  _rewrite(synthetic_study, lambda run: run.pop('finetune'))
  with pytest.raises(NotRun, match='has no fine-tuning'):
    finetuning.build(load_study(synthetic_study))


def _rewrite(root, change):
  path = root / 'study.json'
  study = json.loads(path.read_text())
  for run in study['runs']:
    change(run)
  path.write_text(json.dumps(study))


def _vary(run, field, value):
  run['settings'] = {f'objective.{field}': value}
  run['varied'] = [f'objective.{field}']


def test_temperatures_are_rows_in_ascending_order(synthetic_study):
  def change(run):
    place = list(ACCURACY).index(run['objective'])
    _vary(run, 'temperature', (0.1, 0.05, 0.01)[place])
    run['objective'] = 'cosine_softmax'
    if place:  # two groups, as where some temperatures scale the loss
      run['objective'] += '+scale_by_temperature'
      run['group'] = 'scaled'

  _rewrite(synthetic_study, change)
  table = temperature.build(load_study(synthetic_study))
  assert table.rows == ('τ = 0.01', 'τ = 0.05', 'τ = 0.1')
  assert [cell.mean for cell, *_ in table.cells] == pytest.approx(
    [0.782, 0.782, 0.772]
  )


def test_other_objectives_and_recipes_are_other_sweeps(synthetic_study):
  def change(run):
    _vary(run, 'temperature', 0.05)
    if run['objective'] == 'dropout':
      run['recipe'] = 'another.py'

  _rewrite(synthetic_study, change)
  table = temperature.build(load_study(synthetic_study))
  assert table.rows == ('τ = 0.05',)
  means = [
    cell.mean
    for column, cell in zip(table.columns, table.cells[0], strict=True)
    if column.label.endswith('top-1')
  ]
  assert means == pytest.approx([0.772, 0.782, 0.782])


def test_variants_are_rows(synthetic_study):
  def change(run):
    _vary(run, 'learning_rate', 0.1)

  _rewrite(synthetic_study, change)
  table = accuracy.build(load_study(synthetic_study))
  assert 'Softmax (learning_rate=0.1)' in table.rows


def test_tables_are_sorted_by_imagenet(synthetic_study):
  study = load_study(synthetic_study)
  other = [
    dataclasses.replace(run, group='cifar100_wrn16_8') for run in study.runs
  ]
  study = dataclasses.replace(study, runs=(*other, *study.runs))
  assert study.groups() == ('imagenet_resnet50', 'cifar100_wrn16_8')
  table = accuracy.build(study)
  assert table.columns[0].group == 'imagenet_resnet50'


def _write_detection(root, dataset, value, **about):
  for run in root.glob('runs/*/*/*'):
    write_metrics(
      run / 'eval' / f'{dataset}-validation',
      [create_record('energy_auroc', value, n=5, **about)],
      dataset=dataset,
      split='validation',
    )


def test_detection_averages_no_incomplete_family(synthetic_study):
  """Two of imagenet_c's 75 were measured: there is no mean of them."""
  for severity in (1, 2):
    _write_detection(
      synthetic_study, f'imagenet_c_fog_{severity}', severity / 10
    )
  with pytest.raises(NotRun):
    detection.build(load_study(synthetic_study))
  note = 'not available: 2 of 75 corruptions'
  _write_detection(synthetic_study, 'imagenet_c', None, note=note)
  table = detection.build(load_study(synthetic_study))
  assert [c.label for c in table.columns] == ['imagenet_c, AUROC, energy']
  assert _rows(table)[2] == '| Softmax | n/a: 2 of 75 corruptions |'
  _write_detection(synthetic_study, 'imagenet_c', 0.9)
  table = detection.build(load_study(synthetic_study))
  assert table.cells[0][0].mean == pytest.approx(0.9)


def test_corruptions_are_columns_and_incomplete_means_none(synthetic_study):
  table = corruptions.build(load_study(synthetic_study))
  assert len(table.columns) == 5 + 15
  texts = _texts(table)['Sigmoid']
  assert texts['imagenet_c, fog'].strip('*') == '48.20 ± 0.12'
  assert texts['imagenet_c, severity 2'] == 'n/a: 1 of 15 data sets'
  assert texts['imagenet_c, snow'] == 'not run'


def test_combinations_are_a_matrix_of_holdout_accuracies(synthetic_study):
  def change(run):
    if run['objective'] == 'dropout':
      run['objective'] = 'softmax+dropout'

  _rewrite(synthetic_study, change)
  table = combinations.build(load_study(synthetic_study))
  assert table.rows == ('Softmax', 'Sigmoid')
  assert [column.label for column in table.columns] == ['alone', 'Dropout']
  assert '| Sigmoid | **78.20 ± 0.12** | +1.0 [' in '\n'.join(_rows(table))


def test_augmentations_are_columns(synthetic_study):
  def change(run):
    if run['objective'] == 'dropout':
      run['objective'] = 'sigmoid+mixup'

  _rewrite(synthetic_study, change)
  rows = _rows(augmentation.build(load_study(synthetic_study)))
  assert 'mixup: top-1, published' in rows[0]
  assert any('78.5 ± 0.07' in row for row in rows)


def test_augmentations_of_their_own_groups_are_one_table(synthetic_study):
  """As where AutoAugment has other seeds; a holdout's runs are not in it."""

  def change(run):
    if run['objective'] == 'dropout':
      run['objective'], run['group'] = 'sigmoid+mixup', 'with_mixup'
    if run['objective'] == 'softmax' and run['seed'] == 2:
      run['objective'], run['group'] = 'sigmoid+mixup', 'holdout'
      run['commands'].pop('evaluate')

  _rewrite(synthetic_study, change)
  study = load_study(synthetic_study)
  table = augmentation.build(study)
  assert {column.group for column in table.columns} == {'imagenet_resnet50'}
  sigmoid = _texts(table)['Sigmoid']
  assert sigmoid['standard: top-1'] == '78.20 ± 0.12'
  assert sigmoid['mixup: top-1'].strip('*') == '78.20 ± 0.21'
  assert sigmoid['mixup: top-1, published'] == '78.5 ± 0.07'


def _row(table, label):
  return next(row for row in _rows(table) if row.startswith(f'| {label} |'))


def test_measured_but_undefined_says_why(synthetic_study):
  table = calibration.build(load_study(synthetic_study))
  cells = _row(table, 'Softmax').split(' | ')
  assert 'n/a: NaN predictions' in cells
  assert not any('not run' in note for note in table.notes)
  # Of the numbers that are shown the notes are shown too.
  assert 'ECE, tempered: fitted on this split' in table.notes
  rows = list(csv.DictReader(io.StringIO(rendering.to_csv(table))))
  assert rows[2]['undefined'] == 'NaN predictions'


def test_held_out_temperatures_have_columns_where_they_were_measured(
  synthetic_study,
):
  table = calibration.build(load_study(synthetic_study))
  assert len(table.columns) == 4
  assert 'delete their eval/evaluation.json' in table.caption
  for run in synthetic_study.glob('runs/*/sigmoid/*'):
    path = run / 'eval' / 'imagenet2012-validation'
    metrics = json.loads((path / 'metrics.json').read_text())
    added = create_record('held_out_tempered_nll', 0.8, n=1000, note='T')
    metrics['metrics'].append(added.to_json())
    (path / 'metrics.json').write_text(json.dumps(metrics))
  table = calibration.build(load_study(synthetic_study))
  assert [column.label for column in table.columns[2:]] == [
    'NLL, tempered',
    'ECE, tempered',
    'NLL, tempered (held-out)',
    'ECE, tempered (held-out)',
  ]
  texts = _texts(table)
  assert '0.800' in texts['Sigmoid']['NLL, tempered (held-out)']
  assert texts['Softmax']['NLL, tempered (held-out)'] == 'not run'
  assert '; and (held-out) for the lowest on other examples.' in table.caption


def test_accuracies_by_class_have_a_table_where_they_were_measured(
  synthetic_study,
):
  with pytest.raises(NotRun, match=r'delete their eval/evaluation\.json'):
    classes.build(load_study(synthetic_study))
  for run in synthetic_study.glob('runs/*/sigmoid/*'):
    path = run / 'eval' / 'imagenet2012-validation' / 'metrics.json'
    metrics = json.loads(path.read_text())
    for name, value in (('mean', 0.7), ('worst', 0.25)):
      added = create_record(f'{name}_class_accuracy', value, n=1000)
      metrics['metrics'].append(added.to_json())
    path.write_text(json.dumps(metrics))
  texts = _texts(classes.build(load_study(synthetic_study)))
  assert '70.0' in texts['Sigmoid']['mean class accuracy']
  assert '25.0' in texts['Sigmoid']['worst class accuracy']
  assert texts['Softmax']['worst class accuracy'] == 'not run'


def test_captions_tell_what_intervals_are_over(synthetic_study):
  for path in synthetic_study.glob('runs/*/dropout/seed[12]/eval/*/metrics.*'):
    path.unlink()
  for path in synthetic_study.glob('runs/*/*/*/eval/transfer-*/metrics.json'):
    record = json.loads(path.read_text())
    if 'softmax' in str(path):  # some spread
      record['metrics'][0]['value'] += int(path.parts[-4][-1]) / 100
    path.write_text(json.dumps(record))
  study = load_study(synthetic_study)
  assert (
    'by bootstrap over seeds and examples; over examples alone beside a single '
    'seed.'
  ) in accuracy.build(study).caption
  assert 'by bootstrap over seeds. ' in transfer.build(study).caption


def test_one_undefined_seed_is_named_and_in_no_mean(synthetic_study):
  """As of a temperature at the end of its search."""
  for run in synthetic_study.glob('runs/*/*/*'):
    bound = run.match('softmax/seed1')
    note = 'not available: the NLL falls up to the end' if bound else ''
    path = run / 'eval' / 'imagenet2012-validation'
    write_metrics(
      path,
      [
        create_record('top1_accuracy', 0.7, n=1000),
        create_record('temperature', None if bound else 1.5, n=1000, note=note),
      ],
      dataset='imagenet2012',
      split='validation',
    )
  table = more_calibration.build(load_study(synthetic_study))
  assert '1.50 ± 0.00 (2 of 3)' in _row(table, 'Softmax')
  assert (
    'imagenet_resnet50, Softmax, temperature: seed 1 n/a: the NLL falls up to '
    'the end'
  ) in table.notes


def test_temperatures_of_version_0_1_at_a_bound_are_marked(synthetic_study):
  """It wrote the end of its search as if it were an optimum."""
  for run in synthetic_study.glob('runs/*/softmax/*'):
    write_metrics(
      run / 'eval' / 'imagenet2012-validation',
      [create_record('temperature', 0.01, n=1000)],
      dataset='imagenet2012',
      split='validation',
    )
  table = more_calibration.build(load_study(synthetic_study))
  assert '| n/a: the NLL falls up to the end of the search, 0.01 |' in _row(
    table, 'Softmax'
  )


def test_digits_follow_the_standard_error(synthetic_study):
  """Hardness on ImageNet: 0.00081 and so on, not 0.001 ± 0.000."""
  cell = _row(collapse.build(load_study(synthetic_study)), 'Softmax')
  assert cell.split(' | ')[2] == '0.000830 ± 0.000012'


def test_geometry_is_of_training_images_beside_the_test_split(synthetic_study):
  table = collapse.build(load_study(synthetic_study))
  texts = _texts(table)['Sigmoid']
  assert texts['dead units, training'] == '0.250 ± 0.000'
  assert texts['dead units, test'] == '0.125 ± 0.000'
  assert texts['nc1, training'] == '1.50 ± 0.00'
  assert texts['nc1, test'] == 'not run'
  assert 'a property of training data' in table.caption
  assert 'arXiv:2202.08384' in table.caption


def test_a_study_of_before_has_the_test_split_alone_and_says_so(
  synthetic_study,
):
  for run in synthetic_study.glob('runs/*/*/*/eval/*-training/metrics.json'):
    run.unlink()
  _rewrite(
    synthetic_study, lambda run: run['commands'].pop('evaluate training')
  )
  table = separation.build(load_study(synthetic_study))
  assert [column.label for column in table.columns] == [
    'top-1',
    'class separation (R²), test',
  ]
  [note] = table.notes
  assert note.startswith('imagenet_resnet50: not run: training examples; ')
  assert note.endswith('.imagenet_resnet50.num_train_examples=50000')


def test_no_test_without_spread(synthetic_study):
  for run in synthetic_study.glob('runs/*/*/*'):
    write_metrics(
      run / 'eval' / 'imagenet2012-validation',
      [
        create_record(
          'top1_accuracy', 0.7 + 0.001 * run.match('dropout/*'), n=1000
        )
      ],
      dataset='imagenet2012',
      split='validation',
    )
    (run / 'eval/imagenet2012-validation/predictions.npz').unlink()
  table = accuracy.build(load_study(synthetic_study))
  assert table.rows[0] == 'Dropout'
  for label in ('Softmax', 'Sigmoid'):
    assert '| 70.00 ± 0.00 |' in _row(table, label)  # not bold
  assert '+0.10 [nothing varies over seeds]' in _row(table, 'Dropout')
  tests = [row for row in _rows(table) if row.startswith('| Dropout − Softmax')]
  assert '| – (neither varies over seeds) | – | – | – |' in tests[0]


def test_captions_count_seeds_and_examples(synthetic_study):
  study = load_study(synthetic_study)
  assert accuracy.build(study).caption.endswith(
    ' 3 seeds each, 1,000 examples.'
  )
  ood = shifts.build(study)
  assert ood.caption.endswith(' 3 seeds each.')
  assert ood.notes == (
    'imagenet_a, top-1 (of its classes): 7,500 examples',
    'imagenet_c: 75 examples',
  )
  assert (
    'imagenet_resnet50: imagenet2012, relearned from holdout: 50 images, of '
    'which the networks were trained on 30'
  ) in transfer.build(study).notes


def _two_groups(root, change):
  """The same runs as a group of their own beside."""
  study = load_study(root)
  runs = [dataclasses.replace(run, key=change(run.key)) for run in study.runs]
  others = [dataclasses.replace(run, group='cifar100_wrn16_8') for run in runs]
  return dataclasses.replace(study, runs=(*runs, *others))


def test_combinations_of_every_group(synthetic_study):
  def change(key):
    return Key('softmax+dropout') if key.objective == 'dropout' else key

  table = combinations.build(_two_groups(synthetic_study, change))
  assert [column.label for column in table.columns] == [
    'imagenet_resnet50: alone',
    'imagenet_resnet50: Dropout',
    'cifar100_wrn16_8: alone',
    'cifar100_wrn16_8: Dropout',
  ]


def test_augmentations_of_two_groups_have_headings_of_their_own(
  synthetic_study,
):
  def change(key):
    return Key('sigmoid+mixup') if key.objective == 'dropout' else key

  table = augmentation.build(_two_groups(synthetic_study, change))
  labels = [column.label for column in table.columns]
  assert len(set(labels)) == len(labels) == 8
  assert 'cifar100_wrn16_8: mixup: top-5' in labels


def test_inception_is_known_by_its_model(synthetic_study):
  def change(run):
    run['model'] = 'inception_v3'

  _rewrite(synthetic_study, change)
  study = load_study(synthetic_study)
  assert inception.build(study).rows[0] == 'Dropout'
  with pytest.raises(NotRun):
    accuracy.build(study)
