"""The early_stopping binary: what it prints, and what it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from configs import digits_cnn
from lossbench import early_stopping
from lossbench.runs.directory import RunDirectory, write_json
from tests.damage import change_a_digit


def _history(accuracies):
  """Evaluations every second epoch of 13 steps."""
  return [
    {'step': 26 * number, 'epoch': 2.0 * number, 'top1_accuracy': accuracy}
    for number, accuracy in enumerate(accuracies, start=1)
  ]


def _fake_run(path, accuracies, *, seed, kept=(), **overrides):
  """A run directory as training leaves it, with empty checkpoints."""
  config = digits_cnn.get_config('sigmoid')
  config.seed = seed
  config.update(overrides)
  run = RunDirectory(path)
  run.claim(config, num_steps=26)
  run.history_path.write_text(json.dumps(_history(accuracies)))
  for step in kept:
    (run.checkpoints_path / f'{step:09d}').mkdir(parents=True)
  return str(path)


ACCURACIES = (
  (0.50, 0.90, 0.96, 0.90, 0.80, 0.70, 0.60, 0.5),
  (0.40, 0.90, 0.98, 0.94, 0.80, 0.70, 0.60, 0.5),
  (0.60, 0.90, 0.94, 0.95, 0.80, 0.70, 0.60),
)


@pytest.fixture
def runs(tmp_path):
  """Three runs of one configuration; the last is not finished."""
  return [
    _fake_run(
      tmp_path / f'a run {seed}',
      accuracies,
      seed=seed,
      kept=(52, 78) if seed else (52,),
      data_dir=f'/machine{seed}',
    )
    for seed, accuracies in enumerate(ACCURACIES)
  ]


def _run_binary(root, *arguments):
  return subprocess.run(
    [sys.executable, '-m', 'lossbench.early_stopping', *arguments],
    cwd=root,
    env={**os.environ, 'COLUMNS': '60'},
    capture_output=True,
    text=True,
    check=False,
  )


def test_binary_says_which_epoch_and_how_to_use_it(root, runs):
  result = _run_binary(root, *runs)
  assert result.returncode == 0, result.stderr
  assert not result.stderr
  lines = result.stdout.splitlines()
  (best,) = [line for line in lines if line.startswith('Best: ')]
  column = [accuracies[2] for accuracies in ACCURACIES]
  assert best == (
    f'Best: epoch 6 (step 78), holdout accuracy {np.mean(column):.4f} ± '
    f'{np.std(column, ddof=1) / np.sqrt(3):.4f} over 3 runs'
  )
  for run in runs:
    assert (
      f"  python -m lossbench.evaluate --workdir='{run}' --step=78" in lines
    )
  assert '  --config.num_holdout=0 --config.stop_epoch=6' in lines
  assert 'Left out: 1 of 8 evaluations, which not all runs have.' in lines
  assert (
    f'But {runs[0]} did not keep that checkpoint. Runs with '
    '--config.keep_every_epochs=2 do.' in lines
  )
  # The best five epochs and the last that all have, in order.
  rows = [line.split('│')[1:-1] for line in lines if line.startswith('│')]
  assert [int(row[0]) for row in rows] == [4, 6, 8, 10, 12, 14]
  means = [float(row[2]) for row in rows]
  np.testing.assert_allclose(
    means, np.mean([a[1:7] for a in ACCURACIES], 0), atol=5e-5
  )


def test_binary_refuses_with_one_line(root, runs, tmp_path):
  other = _fake_run(tmp_path / 'other', [0.5], seed=9, learning_rate=0.25)
  result = _run_binary(root, *runs, other)
  assert result.returncode == 1
  assert not result.stdout
  assert result.stderr == (
    f'Error: {other} and {runs[0]} are runs of different configurations. '
    'Differing fields: learning_rate: 0.1 there, 0.25 here. Give runs that '
    'differ in their seeds only.\n'
  )


def test_computation_needs_neither_jax_nor_tensorflow(root, runs):
  """They take seconds to import, and jax may take hold of accelerators."""
  program = (
    'import sys\n'
    'from lossbench import early_stopping\n'
    'early_stopping.report(sys.argv[1:])\n'
    "assert not {'jax', 'tensorflow', 'orbax'} & set(sys.modules)\n"
  )
  subprocess.run([sys.executable, '-c', program, *runs], cwd=root, check=True)


def test_last_epoch_beyond_num_epochs_can_be_stopped_at(tmp_path, capsys):
  """1.99 epochs are rounded to 26 steps, which are 2 epochs."""
  run = _fake_run(tmp_path / 'run', [0.5], seed=0, num_epochs=1.99)
  best = early_stopping.report([run])
  assert best.epoch == 2.0
  output = capsys.readouterr().out
  assert 'holdout accuracy 0.5000 over 1 run\n' in output
  assert '--config.stop_epoch=1.99\n' in output


def test_fraction_of_an_epoch_is_printed_whole(tmp_path, capsys):
  run = _fake_run(tmp_path / 'run', [], seed=0)
  history = [{'step': 4, 'epoch': 4 / 13, 'top1_accuracy': 0.5}]
  RunDirectory(run).history_path.write_text(json.dumps(history))
  early_stopping.report([run])
  output = capsys.readouterr().out
  assert '--config.stop_epoch=0.307692307692\n' in output


def test_runs_of_one_seed_are_refused(tmp_path):
  first = _fake_run(tmp_path / 'first', [0.5], seed=3)
  again = _fake_run(tmp_path / 'again', [0.5], seed=3)
  for second in (first, again):
    with pytest.raises(ValueError, match='have the same seed 3') as error:
      early_stopping.report([first, second])
    assert f'{second} and {first}' in str(error.value)


def test_no_runs_are_refused():
  with pytest.raises(ValueError, match='There are no runs'):
    early_stopping.report([])


def test_directory_of_no_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='not a run directory'):
    early_stopping.report([str(tmp_path)])


def test_missing_history_is_named(runs):
  RunDirectory(runs[1]).history_path.unlink()
  with pytest.raises(FileNotFoundError, match=r'has no history\.json') as error:
    early_stopping.report(runs)
  assert runs[1] in str(error.value)


def test_a_changed_digit_of_a_history_is_named_with_the_remedy(runs):
  """It would move the epoch to stop at."""
  path = RunDirectory(runs[1]).history_path
  write_json(path, json.loads(path.read_text()))
  early_stopping.report(runs)
  change_a_digit(path, 'top1_accuracy')
  with pytest.raises(ValueError, match="Run this run's command again") as error:
    early_stopping.report(runs)
  assert str(error.value).startswith(f'{path} is damaged: its content is not')


@pytest.mark.parametrize(
  ('content', 'text'),
  [
    ('[{"step": 26, "epo', 'is not valid JSON'),
    ('{"step": 26}', 'is damaged'),
    ('[26]', 'is damaged'),
    ('[{"step": 26}]', 'is damaged'),
    ('[{"step": "26", "epoch": 2.0}]', 'is damaged'),
    ('[{"step": 26, "epoch": 0}]', 'is damaged'),
  ],
)
def test_damaged_history_is_named(runs, content, text):
  path = RunDirectory(runs[1]).history_path
  path.write_text(content)
  with pytest.raises(ValueError, match=text) as error:
    early_stopping.report(runs)
  assert str(path) in str(error.value)
