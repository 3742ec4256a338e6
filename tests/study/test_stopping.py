"""A study that is asked to stop: all of its runs save, and none has failed."""

import operator
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from lossbench.runs.directory import RunDirectory
from lossbench.runtime.stopping import EXIT_STATUS, STOPPED

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def start(tiny_study_file, tmp_path):
  """Starts a study whose runs take long; ends what is left of it."""
  text = tiny_study_file.read_text()
  file = tmp_path / 'long.py'
  file.write_text(text.replace('num_epochs=2', 'num_epochs=2000'))
  processes = []

  def started(*more):
    process = subprocess.Popen(
      [
        sys.executable,
        '-m',
        'lossbench.study',
        f'--config={file}',
        f'--workdir={tmp_path / "s"}',
        *more,
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    processes.append(process)
    return process

  yield started
  for process in processes:
    process.kill()
    process.communicate()


def _wait_for(condition, process):
  deadline = time.monotonic() + 120
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('flag', 'num_runs'),
  [('--num_workers=0', 1), ('--num_workers=2', 2), ('--runs_per_program=2', 2)],
)
def test_sigterm_saves_what_is_trained_and_a_second_call_continues(
  start, tmp_path, flag, num_runs
):
  runs = tmp_path / 's' / 'runs' / 'tiny'

  def said(pattern):
    logs = [path.read_text() for path in runs.glob('*/seed*/log.txt')]
    return [found for log in logs for found in re.findall(pattern, log)]

  def evaluations():
    texts = [path.read_text() for path in sorted(runs.glob('*/seed*/log.txt'))]
    return [text.count('holdout accuracy') for text in texts]

  process = start(flag)
  # All of them: one that compiles has nothing to save.
  _wait_for(
    lambda: len(evaluations()) == num_runs and min(evaluations()) > 0, process
  )
  for _ in range(2):
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == EXIT_STATUS, output
    assert output.count(STOPPED) == 1
    assert 'Traceback' not in output
    assert not list(runs.rglob('error.json'))
    logs = [path.read_text() for path in runs.glob('*/seed*/log.txt')]
    saved = [re.findall(r'saved step (\d+) of', log)[-1] for log in logs]
    assert len(saved) == num_runs
    assert sorted(map(int, saved)) == sorted(
      RunDirectory(path.parent).last_step
      for path in runs.glob('*/seed*/log.txt')
    )
    if said('Resuming at step'):
      return
    process = start(flag)
    _wait_for(lambda: len(said('Resuming at step')) >= num_runs, process)
    # Its runs take steps, so that there is something to save.
    before = evaluations()
    _wait_for(
      lambda before=before: all(map(operator.gt, evaluations(), before)),
      process,
    )
