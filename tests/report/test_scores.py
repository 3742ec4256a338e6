"""Scores of files as rows of a report, alone and beside a study."""

import numpy as np
import pytest

from lossbench.arrays.scores import Named, open_models, score_models
from lossbench.comparison import printing
from lossbench.report import figures
from lossbench.report.__main__ import write_report
from lossbench.report.reading import load_study
from lossbench.report.tables import accuracy, detection, rendering
from tests.damage import change_a_digit

NAMES = ('softmax', 'softmax', 'theirs', 'theirs')
COMMAND = 'python -m lossbench.score --predictions=...'


@pytest.fixture(scope='module')
def scores(tmp_path_factory):
  """Two seeds of either of two models, logits alone: 50 examples, 6 classes."""
  path = tmp_path_factory.mktemp('scores')
  rng = np.random.default_rng(0)
  labels = rng.integers(6, size=50)
  predictions, noise = [], []
  for index, name in enumerate(NAMES):
    logits = rng.normal(size=(50, 6)) + (index + 1) * np.eye(6)[labels]
    np.savez(path / f'{index}.npz', logits=logits, labels=labels)
    np.savez(path / f'noise{index}.npz', logits=rng.normal(size=(20, 6)))
    predictions.append(Named(name, str(path / f'{index}.npz')))
    noise.append(Named('noise', str(path / f'noise{index}.npz')))
  found = score_models(
    open_models(predictions, ood=noise),
    output=str(path / 'scores'),
    command=COMMAND,
    num_cka_examples=50,
    minibatch_size=8,
  )
  return path / 'scores', found


def test_models_are_rows_and_files_of_one_name_seeds(scores):
  path, found = scores
  study = load_study(path)
  assert study.problems == ()
  assert study.rerun_command == f'{COMMAND}, with files that hold it'
  for build, metric in (
    (accuracy.build, 'top1_accuracy'),
    (detection.build, 'energy_auroc'),
  ):
    table = build(study)
    assert set(table.rows) == {'Softmax', 'theirs'}
    [column] = [
      i
      for i, column in enumerate(table.columns)
      if column.label in ('top-1', 'noise, AUROC, energy')
    ]
    values = [
      next(r.value for r in [*own, *others['noise']] if r.name == metric)
      for own, others in zip(found.records, found.others, strict=True)
    ]
    cells = dict(zip(table.rows, table.cells, strict=True))
    assert cells['Softmax'][column].mean == pytest.approx(np.mean(values[:2]))
    assert cells['theirs'][column].mean == pytest.approx(np.mean(values[2:]))
    assert cells['Softmax'][column].num_seeds == 2
  assert study.comparison('predictions').seeds == (0, 1, 0, 1)


def test_a_comparison_without_features_is_printed(scores, capsys):
  printing.print_tables(scores[1].comparison)
  printed = capsys.readouterr().out
  assert 'same top-1 prediction' in printed
  assert 'linear CKA of features' not in printed


def test_beside_a_study(scores, synthetic_study, monkeypatch):
  monkeypatch.setattr(figures, 'FIGURES', figures.FIGURES[:1])
  path, _ = scores
  output = synthetic_study / 'both'
  text = write_report(synthetic_study, path, output=output).read_text()
  assert 'A &lt;synthetic&gt; study · Predictions in 4 files' in text
  assert '4 of 4 runs have results;\nfiles of predictions, lossbench' in text
  assert (output / 'tables' / 'scores-table_1.csv').exists()
  assert (output / 'tables' / 'synthetic-table_1.csv').exists()
  assert (output / 'figures' / 'scores-figure_1-predictions.png').exists()
  # No command is named that nobody could call.
  for line in text.splitlines():
    assert not (COMMAND in line and '--config' in line)
  table = accuracy.build(load_study(path))
  assert 'Softmax' in rendering.to_markdown(table, title='Table 1')


def test_scores_of_other_files_are_left_out(scores, tmp_path):
  """As a study leaves out numbers of other checkpoints."""
  path, _ = scores
  name = 'runs/predictions/theirs/seed0/eval/predictions-test/metrics.json'
  content = (path / name).read_text()
  try:
    change_a_digit(path / name, 'value')
    problems = load_study(path).problems
  finally:
    (path / name).write_text(content)
  assert any(name in p and 'damaged' in p and COMMAND in p for p in problems)
  with pytest.raises(
    FileNotFoundError, match=r'--output of python -m lossbench'
  ):
    load_study(tmp_path)
