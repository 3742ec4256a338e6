"""Workers that share a tuning: killed, suspended, stopped, without a database."""

import collections
import signal
import time

import pytest

from lossbench.runtime.stopping import EXIT_STATUS
from tests.tuning.fake_worker import BEST, NUM_POINTS, TIMING

_DONE = f'{NUM_POINTS} {BEST}\n'


@pytest.fixture
def tried(tmp_path):
  """Tells how often each point was begun, and by how many processes."""

  def tell():
    log = tmp_path / 'log'
    lines = log.read_text().splitlines() if log.exists() else []
    points = collections.Counter(line.split()[1] for line in lines)
    return points, {line.split()[0] for line in lines}

  return tell


def _wait_until(condition, *workers):
  deadline = time.monotonic() + 60
  while not condition():
    for worker in workers:
      assert worker.poll() is None, worker.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _finish(*workers):
  """Waits for the end of workers; what each said of its work."""
  texts = []
  for worker in workers:
    output, errors = worker.communicate(timeout=90)
    assert worker.returncode == 0, errors
    assert 'Traceback' not in errors
    assert output == _DONE
    texts.append(errors)
  return texts


@pytest.fixture
def storage(postgres) -> str:
  """An empty database of a server."""
  return postgres.new_database()


@pytest.mark.parametrize('database', ['file', 'server'])
def test_two_workers_try_every_point_once(
  start_worker, tried, request, database
):
  """The file lies in the workdir."""
  storage = request.getfixturevalue('storage') if database == 'server' else ''
  _finish(*[start_worker(secs=0.1, storage=storage) for _ in '12'])
  points, processes = tried()
  assert len(points) == NUM_POINTS
  assert set(points.values()) == {1}
  assert len(processes) == 2


def test_a_killed_worker_loses_only_its_trial(start_worker, tried):
  first = start_worker(secs=0.4)
  _wait_until(lambda: tried()[0].total() >= 3, first)
  first.kill()
  first.wait()
  _finish(start_worker(secs=0))
  points, _ = tried()
  assert len(points) == NUM_POINTS
  assert sorted(points.values())[-2:] == [1, 2]  # the one at hand, again


def test_a_suspended_worker_loses_no_point(start_worker, tried, storage):
  """Suspended for longer than the grace, as a laptop or a virtual machine."""
  first = start_worker(secs=0.5, storage=storage)
  _wait_until(lambda: tried()[0].total() >= 3, first)
  first.send_signal(signal.SIGSTOP)
  before, _ = tried()
  [last] = list(before)[-1:]
  second = start_worker(secs=0.02, storage=storage)
  # The suspended worker's point comes last, after the grace.
  _wait_until(lambda: tried()[0][last] == 2, second)
  first.send_signal(signal.SIGCONT)
  [errors, _] = _finish(first, second)
  assert 'Suspended for too long' in errors
  points, _ = tried()
  assert len(points) == NUM_POINTS
  assert sorted(points.values())[-2:] == [1, 2]


def test_signs_of_life_go_on_after_a_restart_of_the_server(
  start_worker, tried, storage, postgres
):
  """Else another worker would take the point of a living one."""
  long = 4 + 3 * TIMING.grace_secs
  first = start_worker(secs=f'{long},0', storage=storage)
  _wait_until(lambda: tried()[0].total() == 1, first)
  second = start_worker(secs=0.02, storage=storage)
  # Of the coarse grid nothing is left but the point of the first.
  _wait_until(lambda: tried()[0].total() == 9, first, second)
  postgres.stop()
  postgres.start()
  time.sleep(2 * TIMING.grace_secs)
  assert tried()[0].total() == 9
  _finish(first, second)
  assert set(tried()[0].values()) == {1}


def test_a_worker_waits_for_a_server_that_is_away(
  start_worker, tried, storage, postgres
):
  worker = start_worker(secs=0.1, storage=storage)
  _wait_until(lambda: tried()[0].total() == 3, worker)
  postgres.stop()
  time.sleep(1)
  postgres.start()
  [errors] = _finish(worker)
  assert errors.count('The database of the trials does not answer') == 1
  assert set(tried()[0].values()) == {1}


def test_asked_to_stop(start_worker, tried, storage):
  """The point is free at once, also to workers on other machines."""
  for count, number in enumerate((signal.SIGTERM, signal.SIGINT), start=1):
    worker = start_worker(secs=60, storage=storage)
    _wait_until(lambda count=count: tried()[0].total() == count, worker)
    assert len(tried()[0]) == 1
    began = time.monotonic()
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=15)
    assert time.monotonic() - began < 5
    assert worker.returncode == EXIT_STATUS
    assert errors.splitlines()[-1].endswith(
      'Asked to stop. Run the same command again to continue.'
    )
    assert 'Traceback' not in errors
  _finish(start_worker(secs=0, storage=storage))
  assert sorted(tried()[0].values())[-2:] == [1, 3]
