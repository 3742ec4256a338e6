"""A synthetic study gives exactly the expected text."""

import csv
import dataclasses
import io
import json

import pytest
from scipy import stats

from lossbench.metrics.records import create_record
from lossbench.report import paper_tables, tables
from lossbench.report.records import NotRun, load_study
from tests.report.conftest import ACCURACY, write_metrics


def _rows(table):
  return tables.to_markdown(table).splitlines()[2:]


def test_table_1_to_the_letter(synthetic_study):
  table = paper_tables.table_1(load_study(synthetic_study))
  p = stats.ttest_ind(
    ACCURACY['dropout'], ACCURACY['sigmoid'], equal_var=False
  ).pvalue
  q = stats.ttest_ind(
    ACCURACY['softmax'], ACCURACY['sigmoid'], equal_var=False
  ).pvalue
  assert p > 0.05 > q
  # Sigmoid and dropout have the same mean, so the first of them is the best.
  rows = _rows(table)
  assert rows[0] == (
    '| | top-1 | top-1, published | against the best | top-5 | '
    'top-5, published |'
  )
  assert rows[2].startswith('| Dropout | **78.20 ± 0.21** | – | ')
  assert rows[3].startswith('| Sigmoid | **78.20 ± 0.12** | 77.9 ± 0.05 | ')
  assert rows[4].startswith('| Softmax | 77.20 ± 0.12 | 77.0 ± 0.06 | p = ')
  assert 'Holm' in rows[4]
  assert table.notes == ()


def test_tests_are_scipys_in_the_csv(synthetic_study):
  table = paper_tables.table_1(load_study(synthetic_study))
  rows = list(csv.DictReader(io.StringIO(tables.to_csv(table))))
  by_row = {r['row']: r for r in rows if r['column'] == 'top-1'}
  best = next(
    name for name in ('Dropout', 'Sigmoid') if not by_row[name]['p_value']
  ).lower()
  expected = stats.ttest_ind(
    ACCURACY['softmax'], ACCURACY[best], equal_var=False
  )
  softmax = by_row['Softmax']
  assert float(softmax['p_value']) == expected.pvalue
  assert float(softmax['mean']) == pytest.approx(0.772)
  assert float(softmax['difference']) == pytest.approx(-0.01)
  assert softmax['bold'] == 'False'
  low, high = float(softmax['interval_low']), float(softmax['interval_high'])
  assert low < -0.01 < high < 0
  assert softmax['published'] == '77.0 ± 0.06'


def test_latex_is_escaped_and_complete(synthetic_study):
  text = tables.to_latex(paper_tables.table_1(load_study(synthetic_study)))
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
  table = paper_tables.table_1(load_study(synthetic_study))
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
  table = paper_tables.table_1(load_study(synthetic_study))
  assert _rows(table)[-2 - 2 * len(table.notes) + 1].startswith(
    '| Sigmoid | not run'
  )


def test_other_tables(synthetic_study):
  study = load_study(synthetic_study)
  assert '| Softmax | 77.20 ± 0.12 | 77.0 ± 0.06 | 0.200 ± 0.000 |' in _rows(
    paper_tables.table_2(study)
  )
  transfer = paper_tables.table_3(study)
  labels = [column.label for column in transfer.columns]
  assert labels == [
    'food101',
    'cifar10',
    'imagenet2012, relearned from holdout',
  ]
  assert '| Sigmoid | 69.00 ± 0.00 | 89.00 ± 0.00 | 61.00 ± 0.00 |' in _rows(
    transfer
  )
  ood = paper_tables.table_b2(study)
  assert [column.label for column in ood.columns] == [
    'imagenet_a, top-1 (of 200)',
    'imagenet_c',
  ]
  calibration = paper_tables.table_b3(study)
  softmax = next(row for row in _rows(calibration) if '| Softmax' in row)
  assert softmax.split(' | ')[3] == 'not run'  # NaN predictions
  for build in (
    paper_tables.table_4,
    paper_tables.table_b1,
    paper_tables.table_c1,
    paper_tables.table_c2,
  ):
    with pytest.raises(NotRun, match='not run'):
      build(study)


def _rewrite(root, change):
  path = root / 'study.json'
  study = json.loads(path.read_text())
  for run in study['runs']:
    change(run)
  path.write_text(json.dumps(study))


def test_temperatures_are_rows_in_ascending_order(synthetic_study):
  def change(run):
    place = list(ACCURACY).index(run['objective'])
    run['variant'] = f'temperature={(0.1, 0.05, 0.01)[place]}'
    run['objective'] = 'cosine_softmax'
    if place:  # two groups, as where some temperatures scale the loss
      run['objective'] += '+scale_by_temperature'
      run['recipe'] = 'scaled'

  _rewrite(synthetic_study, change)
  table = paper_tables.table_4(load_study(synthetic_study))
  assert table.rows == ('τ = 0.01', 'τ = 0.05', 'τ = 0.1')
  assert [cell.mean for cell, *_ in table.cells] == pytest.approx(
    [0.782, 0.782, 0.772]
  )


def test_other_objectives_and_recipes_are_other_sweeps(synthetic_study):
  def change(run):
    run['variant'] = 'temperature=0.05'
    if run['objective'] == 'dropout':
      run['recipe_file'] = 'another.py'

  _rewrite(synthetic_study, change)
  table = paper_tables.table_4(load_study(synthetic_study))
  assert table.rows == ('τ = 0.05',)
  means = [cell.mean for cell in table.cells[0][::5]]
  assert means == pytest.approx([0.772, 0.782, 0.782])


def test_variants_are_rows(synthetic_study):
  def change(run):
    run['variant'] = 'learning_rate=0.1'

  _rewrite(synthetic_study, change)
  table = paper_tables.table_1(load_study(synthetic_study))
  assert 'Softmax (learning_rate=0.1)' in table.rows


def test_tables_are_sorted_by_imagenet(synthetic_study):
  study = load_study(synthetic_study)
  other = [
    dataclasses.replace(run, recipe='cifar100_wrn16_8') for run in study.runs
  ]
  study = dataclasses.replace(study, runs=(*other, *study.runs))
  assert study.recipes() == ('imagenet_resnet50', 'cifar100_wrn16_8')
  table = paper_tables.table_1(study)
  assert table.columns[0].recipe == 'imagenet_resnet50'


def test_detection_of_corruptions_is_a_mean(synthetic_study):
  for run in synthetic_study.glob('runs/*/*/*'):
    for place in (1, 2):
      write_metrics(
        run / 'eval' / f'imagenet_c_fog_{place}-validation',
        [create_record('energy_auroc', place / 10, n=5)],
        dataset=f'imagenet_c_fog_{place}',
        split='validation',
      )
  table = paper_tables.table_detection(load_study(synthetic_study))
  assert [c.label for c in table.columns] == ['imagenet_c, AUROC, energy']
  assert table.cells[0][0].mean == pytest.approx(0.15)


def test_combinations_are_a_matrix_of_holdout_accuracies(synthetic_study):
  def change(run):
    if run['objective'] == 'dropout':
      run['objective'] = 'softmax+dropout'

  _rewrite(synthetic_study, change)
  table = paper_tables.table_c1(load_study(synthetic_study))
  assert table.rows == ('Softmax', 'Sigmoid')
  assert [column.label for column in table.columns] == ['alone', 'Dropout']
  assert _rows(table)[-1] == '| Sigmoid | **78.20 ± 0.12** | – |'


def test_augmentations_are_columns(synthetic_study):
  def change(run):
    if run['objective'] == 'dropout':
      run['objective'] = 'sigmoid+mixup'

  _rewrite(synthetic_study, change)
  rows = _rows(paper_tables.table_c2(load_study(synthetic_study)))
  assert 'mixup: top-1, published' in rows[0]
  assert any('78.5 ± 0.07' in row for row in rows)
