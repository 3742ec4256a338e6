"""The programs as a user runs them: kill, resume, and refuse with one line."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from lossbench.runs.checkpoints import Checkpointer
from lossbench.train import loop
from tests.faults import processes

# A run that is short but saves at almost every step, so that a kill at any
# moment is likely to fall into a save.
OVERRIDES = ('eval_every_epochs=0.5', 'checkpoint_every_steps=2')
RECIPE = (
  *processes.RECIPE,
  *(f'--config.{override}' for override in OVERRIDES),
)


def _start(root, *arguments, **environment):
  return subprocess.Popen(
    [sys.executable, *arguments],
    cwd=root,
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _run(root, *arguments, **environment):
  process = _start(root, *arguments, **environment)
  output, _ = process.communicate(timeout=300)
  return process.returncode, output


def _final(workdir):
  with Checkpointer(workdir / 'checkpoints', read_only=True) as checkpointer:
    step = checkpointer.steps[-1]
    return step, checkpointer.restore(step).arrays


def _wait_for(process, condition):
  """Waits for the condition, unless the process ends first."""
  deadline = time.monotonic() + 200
  while not condition() and process.poll() is None:
    assert time.monotonic() < deadline, 'the run made no progress'
    time.sleep(0.005)  # a save takes longer


def test_killed_runs_resume_bit_identical(root, digits_dir, tmp_path):
  """kill -9 while training, and again in the middle of a save."""
  data = f'--config.data_dir={digits_dir}'
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  config = processes.recipe_config(digits_dir, *OVERRIDES)
  loop.train(config, workdir=str(whole))
  command = ('main.py', *RECIPE, data, f'--workdir={broken}')
  checkpoints = broken / 'checkpoints'

  def newest():
    steps = [int(p.name) for p in checkpoints.glob('0' + '[0-9]' * 8)]
    return max(steps, default=0)

  process = _start(root, *command)
  _wait_for(process, lambda: newest() >= 10)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  killed_at = newest()
  assert 10 <= killed_at < 60

  process = _start(root, *command)
  _wait_for(
    process,
    lambda: (
      newest() >= killed_at + 10
      and any(checkpoints.glob('*.orbax-checkpoint-tmp/*'))
    ),
  )
  process.send_signal(signal.SIGKILL)
  output, _ = process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert 'Resuming at step' in output

  status, output = _run(root, *command)
  assert status == 0, output
  assert 'Resuming at step' in output
  step, expected = _final(whole)
  assert step == 60
  found_step, found = _final(broken)
  assert found_step == step
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
  ('arguments', 'text'),
  [
    (
      ('--config=configs/digits_cnn.py:sigmiod',),
      "Unknown objective 'sigmiod'. Known: arcface,",
    ),
    (
      ('--config=configs/digits_cnn.py', '--config.batchsize=3'),
      "no field 'batchsize'. Did you mean 'batch_size'?",
    ),
    (
      ('--config=configs/digits_cnn.py', '--config.batch_size=many'),
      '--config.batch_size=many is not a whole number. Give for example '
      '--config.batch_size=100.',
    ),
    (
      (
        '--config=configs/digits_cnn.py',
        '--config.objective.label_smoothing.alpha=0.1',
      ),
      "no field 'label_smoothing'",
    ),
    (('--config=configs/digits_cnn.py:softmax+sigmoid',), 'both losses'),
    (
      ('--config=configs/nothing.py', '--config.seed=1'),
      '--config=configs/nothing.py: there is no such recipe. Give a .py file',
    ),
    (
      ('--config', 'configs/nothing.py'),
      '--config=configs/nothing.py: there is no such recipe. Give a .py file',
    ),
    (
      ('--config=configs/studies/digits.py:sigmoid',),
      '--config=configs/studies/digits.py takes nothing after a colon.',
    ),
    (
      ('--config=configs/cifar10_small.py:sigmoid+mixup',),
      "This recipe has no 'mixup'. Leave it out",
    ),
    (
      ('--config=configs/studies/digits.py',),
      'run python -m lossbench.study --config=configs/studies/digits.py.',
    ),
  ],
)
def test_mistakes_on_the_command_line_are_one_line(
  root, tmp_path, arguments, text
):
  status, output = _run(
    root, 'main.py', *arguments, f'--workdir={tmp_path}/run'
  )
  assert status == 1
  (line,) = output.strip().splitlines()
  assert line.startswith('Error: ')
  assert text in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_missing_accelerator_is_one_line(root, tmp_path, platform):
  status, output = _run(
    root,
    'main.py',
    '--config=configs/digits_cnn.py',
    f'--workdir={tmp_path}/run',
    JAX_PLATFORMS=platform,
  )
  assert status == 1
  (line,) = output.strip().splitlines()
  assert line.startswith(f'Error: With JAX_PLATFORMS={platform} JAX finds no')
  assert 'Set JAX_PLATFORMS=cpu to compute on the CPU' in line
  assert not (tmp_path / 'run').exists()


def test_libtpu_on_a_machine_without_a_tpu_is_one_line(root, tmp_path):
  package = tmp_path / 'packages' / 'libtpu'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text("def get_library_path():\n  return ''\n")
  status, output = _run(
    root,
    'main.py',
    '--config=configs/digits_cnn.py',
    f'--workdir={tmp_path}/run',
    JAX_PLATFORMS='tpu',
    PYTHONPATH=str(package.parent),
  )
  assert status == 1
  (line,) = output.strip().splitlines()
  assert line.startswith('Error: libtpu is installed, but this is no TPU host')
  assert 'Set JAX_PLATFORMS=cpu to compute on the CPU' in line
  assert not (tmp_path / 'run').exists()


def test_missing_data_and_unwritable_workdir_are_one_line(
  root, digits_dir, tmp_path
):
  status, output = _run(
    root,
    '-m',
    'lossbench.evaluate',
    f'--workdir={tmp_path}',
  )
  assert status == 1
  assert output.strip().splitlines()[-1].startswith('Error: ')
  assert 'is not a run directory' in output

  (tmp_path / 'file').write_text('in the way')
  status, output = _run(
    root,
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    f'--workdir={tmp_path}/file/run',
  )
  assert status == 1
  assert 'cannot be written to' in output.strip().splitlines()[-1]
