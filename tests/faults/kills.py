"""kill -9 at random moments of a digits run: python -m tests.faults.kills.

The final parameters must be bit-identical to those of a run that nobody
disturbed, each time. Prints kills survived of kills tried.
"""

import argparse
import pathlib
import random
import signal
import tempfile
import time

import jax
import numpy as np

from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from tests.faults.processes import RECIPE, run, start


def _params(workdir):
  arrays = load_checkpoint(RunDirectory(workdir), 'last').arrays
  return jax.tree.leaves(arrays)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  rng = random.Random(args.seed)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    command = (
      'main.py',
      *RECIPE,
      '--config.num_epochs=20',
      '--config.eval_every_epochs=0.5',
      '--config.checkpoint_every_steps=2',
      f'--config.data_dir={root / "tfds"}',
    )
    whole, broken = root / 'whole', root / 'broken'
    log = root / 'log'
    assert run(*command, f'--workdir={whole}', num_devices=1, log=log) == 0
    expected = _params(whole)
    num_kills = num_finished = num_in_save = 0
    while num_kills < args.num_kills:
      process = start(*command, f'--workdir={broken}', num_devices=1, log=log)
      while 'Compiling' not in log.read_text() and process.poll() is None:
        time.sleep(0.01)
      # From before the first step to near the end of what is left.
      time.sleep(rng.uniform(0, 6))
      if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_kills += 1
        saves = (broken / 'checkpoints').glob('*tmp*')
        num_in_save += any(True for _ in saves)
      if (
        RunDirectory(broken).last_step >= 400
      ):  # over: once more from the start
        num_finished += 1
        _compare(expected, broken, command, log)
        broken = root / f'broken{num_finished}'
    _compare(expected, broken, command, log)
    print(
      f'{num_kills} of {args.num_kills} kills survived, {num_in_save} of them in '
      f'the middle of a save; runs that ended bit-identical: {num_finished + 1}.'
    )


def _compare(expected, broken, command, log):
  assert run(*command, f'--workdir={broken}', num_devices=1, log=log) == 0
  for a, b in zip(expected, _params(broken), strict=True):
    np.testing.assert_array_equal(a, b)


if __name__ == '__main__':
  main()
