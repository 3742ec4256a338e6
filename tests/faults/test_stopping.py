"""SIGTERM to programs that have nothing to save, alone and as one of two."""

import shutil
import signal
import time

import pytest

from lossbench.runs.directory import RunDirectory
from lossbench.runtime.stopping import EXIT_STATUS, STOPPED
from tests.faults.processes import RECIPE, start_two, wait_for_text


@pytest.fixture(scope='module', autouse=True)
def late_pair(tmp_path_factory):
  """Two processes of tests/faults/late.py, which sleep during other tests."""
  logs = tmp_path_factory.mktemp('late')
  processes = start_two('-m', 'tests.faults.late', logs=logs)
  yield processes, logs
  for process in processes:
    process.kill()
    process.wait()


def _assert_stopped(processes, logs, *, began):
  """All ended in time, with the status and one line."""
  assert [p.wait(60) for p in processes] == [EXIT_STATUS] * len(processes), [
    log.read_text() for log in logs
  ]
  assert time.monotonic() - began < 15
  for log in logs:
    text = log.read_text()
    assert text.count(STOPPED) == 1, text
    assert 'Traceback' not in text


@pytest.mark.parametrize('index', [0, 1])
def test_one_of_two_is_asked_and_both_stop(index, tmp_path):
  """Also where a main thread waits in a collective and sees no signal."""
  logs = [tmp_path / '0.log', tmp_path / '1.log']
  processes = start_two(
    '-m', 'tests.faults.waiting', num_devices=1, logs=tmp_path
  )
  for log in logs:
    wait_for_text(log, 'waiting', processes)
  began = time.monotonic()
  processes[index].send_signal(signal.SIGTERM)
  _assert_stopped(processes, logs, began=began)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('verb', 'line'),
  [
    ('evaluate', 'Evaluating step'),
    ('compare', '[1/2]'),
    ('transfer', 'Transferring step'),
  ],
)
def test_measurements_by_two_processes_stop(verb, line, tiny_runs, tmp_path):
  runs = [tmp_path / name for name in ('sigmoid_0', 'sigmoid_1')]
  for run in runs:
    shutil.copytree(tiny_runs[run.name], run)
  arguments = {
    'evaluate': [f'--workdir={runs[0]}'],
    'compare': [*map(str, runs), f'--output={tmp_path / "comparison"}'],
    'transfer': [f'--workdir={runs[0]}', '--dataset=digits_high'],
  }[verb]
  logs = [tmp_path / '0.log', tmp_path / '1.log']
  processes = start_two('-m', f'lossbench.{verb}', *arguments, logs=tmp_path)
  wait_for_text(logs[0], line, processes)
  began = time.monotonic()
  processes[1].send_signal(signal.SIGTERM)
  _assert_stopped(processes, logs, began=began)


@pytest.mark.slow
def test_pauses_of_almost_half_of_the_heartbeat_are_survived(
  digits_dir, tmp_path
):
  """By a run of two processes, whichever of them is suspended."""
  workdir = tmp_path / 'run'
  processes = start_two(
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    '--config.num_epochs=12',
    '--config.eval_every_epochs=6',
    '--heartbeat_secs=16',
    f'--workdir={workdir}',
    logs=tmp_path,
  )
  for process, line in zip(processes, ('step 5/', 'step 120/'), strict=True):
    wait_for_text(tmp_path / '0.log', line, processes)
    process.send_signal(signal.SIGSTOP)
    time.sleep(7)
    process.send_signal(signal.SIGCONT)
  statuses = [p.wait(120) for p in processes]
  assert statuses == [0, 0], (tmp_path / '0.log').read_text()
  assert RunDirectory(workdir).last_step == 240


@pytest.mark.slow
def test_a_process_may_come_late_to_the_first_collective(late_pair):
  """As one does whose compiler has less of a processor."""
  processes, logs = late_pair
  statuses = [p.wait(120) for p in processes]
  assert statuses == [0, 0], (logs / '0.log').read_text()
