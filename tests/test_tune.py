"""The command: one real search, and being stopped in the middle of one."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lossbench.runtime.stopping import EXIT_STATUS

ROOT = pathlib.Path(__file__).parents[1]


def _command(digits_dir, workdir, *more):
  """Two learning rates and the fine grid around one, of the tiny model."""
  return [
    sys.executable,
    '-m',
    'lossbench.tune',
    '--config=configs/digits_cnn.py:softmax',
    f'--config.data_dir={digits_dir}',
    '--config.model.width=4',
    '--config.batch_size=64',
    '--config.num_epochs=2',
    '--config.eval_every_epochs=1',
    f'--workdir={workdir}',
    '--num_seeds=2',
    '--search=weight_decay=-4:-4:1',
    '--search=learning_rate=-1:0:1',
    *more,
  ]


def test_a_real_search_reproduces_with_its_override_line(digits_dir, tmp_path):
  command = _command(digits_dir, tmp_path / 't', '--allow=data')
  result = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / 't' / 'tuning.json').read_text())
  assert found['overrides'] in result.stdout
  best = found['trials'][0]
  name = ','.join(f'{k}={v:g}' for k, v in best['values'].items())
  finals = []
  for seed in range(2):
    run = tmp_path / 't' / 'runs' / name / f'seed{seed}'
    config = json.loads((run / 'config.json').read_text())
    assert config['seed'] == seed
    [start] = json.loads((run / 'run.json').read_text())['starts']
    assert start['allowed'] == ['data']
    assert config['learning_rate'] == best['values']['learning_rate']
    history = json.loads((run / 'history.json').read_text())
    finals.append(history[-1]['top1_accuracy'])
  assert best['holdout_accuracy'] == pytest.approx(sum(finals) / 2)
  assert not list((tmp_path / 't').glob('runs/*/seed*/eval'))  # never tested


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle_of_a_run_it_saves(number, digits_dir, tmp_path):
  """No step that was taken is lost."""
  # Long enough to be caught in the middle.
  command = _command(digits_dir, tmp_path / 't', '--config.num_epochs=300')
  process = subprocess.Popen(
    command, cwd=ROOT, stderr=subprocess.PIPE, text=True
  )
  try:
    deadline = time.monotonic() + 100
    while not list((tmp_path / 't').glob('runs/*/seed0/history.json')):
      assert process.poll() is None, process.stderr.read()
      assert time.monotonic() < deadline
      time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
  finally:
    process.kill()
  assert time.monotonic() - began < 15
  assert process.returncode == EXIT_STATUS
  assert 'Traceback' not in errors
  [line] = [line for line in errors.splitlines() if 'sked to stop' in line]
  assert 'Run the same command again' in line
  [checkpoints] = (tmp_path / 't').glob('runs/*/seed0/checkpoints')
  assert [path for path in checkpoints.iterdir() if path.name.isdigit()]
