"""A disk that fills up in the middle of a save, on a small tmpfs."""

import os
import subprocess
import time

import pytest

from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from tests.faults.processes import RECIPE, run, start_two


@pytest.fixture
def small_disk(tmp_path):
  """A disk of two megabytes."""
  path = tmp_path / 'disk'
  path.mkdir()
  if (
    os.geteuid() != 0
    or subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', path],
      capture_output=True,
      check=False,
    ).returncode
  ):
    pytest.skip('mounting a tmpfs is not allowed here')
  yield path
  subprocess.run(['umount', path], check=True)


def test_a_full_disk_is_one_line_and_loses_nothing(
  small_disk, digits_dir, tmp_path
):
  workdir, log = small_disk / 'run', tmp_path / 'log'
  command = (
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    '--config.checkpoint_every_steps=1',
    '--config.keep_checkpoints=1000',  # more than there is room for
    f'--workdir={workdir}',
  )
  status = run(*command, log=log)
  text = log.read_text()
  assert status == 1, text
  assert 'Traceback' not in text
  last_line = text.strip().splitlines()[-1]
  assert last_line.startswith('Error: ')
  assert 'No space left on device' in last_line
  assert str(workdir) in last_line
  # With room the same command goes on from the last whole checkpoint.
  run_directory = RunDirectory(workdir)
  assert 0 < run_directory.last_step < 60
  subprocess.run(
    ['mount', '-o', 'remount,size=64m', 'tmpfs', small_disk], check=True
  )
  assert run(*command, log=log) == 0, log.read_text()
  assert 'Resuming at step' in log.read_text()
  assert load_checkpoint(run_directory, 'last').step == 60


@pytest.mark.slow
def test_a_full_disk_ends_all_processes(small_disk, digits_dir, tmp_path):
  """Only the first writes; the other must not wait for it for ever."""
  processes = start_two(
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    '--config.checkpoint_every_steps=1',
    '--config.keep_checkpoints=1000',
    f'--workdir={small_disk / "run"}',
    logs=tmp_path,
  )
  assert processes[0].wait(120) == 1
  began = time.monotonic()
  text = (tmp_path / '0.log').read_text()
  assert 'No space left on device' in text.strip().splitlines()[-1]
  assert processes[1].wait(60) != 0
  assert time.monotonic() - began < 60
