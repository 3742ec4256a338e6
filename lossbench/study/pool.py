"""Who does which task of a study: this process, its devices, or several.

A task is a run, with all its missing stages, or a comparison. Tasks never fail:
their errors are results.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER
from lossbench.runtime.stopping import STOPPED, Stopped, stop_on_signals
from lossbench.study import stages
from lossbench.study.plan import PlannedComparison, PlannedRun, Study

_STOP_SECS = 12  # for workers to save; checkpoints are whole or not there


class Event(NamedTuple):
  """What a worker says.

  Attributes:
    worker: its number.
    task: name of the run or comparison.
    stage: what it does; '' once the task is over.
    text: newest line of the log; once the task is over, its error or ''.
    more: whether what is left of the task is for others to do.
  """

  worker: int
  task: str
  stage: str
  text: str
  more: bool = False


Task = PlannedRun | PlannedComparison


def _do(
  study: Study, task: Task, on_status: stages.OnStatus, *, alone: bool = False
) -> str:
  if isinstance(task, PlannedRun):
    return stages.do_run(study, task, on_status, alone=alone)
  return stages.do_comparison(study, task, on_status)


def _program(task: Task) -> str:
  return task.program if isinstance(task, PlannedRun) else task.name


def do_here(
  study: Study,
  tasks: Sequence[Task],
  on_event: Callable[[Event], None],
  *,
  alone: bool = False,
):
  """Does tasks one after the other, in this process.

  Args:
    study: of the tasks.
    tasks: to do.
    on_event: told what happens.
    alone: whether the runs are those of one device.
  """
  for task in tasks:

    def on_status(stage, text, task=task):
      on_event(Event(0, task.name, stage, text))

    try:
      with stages.logged_by_runs():
        error = _do(study, task, on_status, alone=alone)
    except Stopped:
      raise  # which has been said
    except SystemExit:
      LOGGER.warning(STOPPED)  # training said so in the run's log.txt only
      raise
    on_event(Event(0, task.name, '', error))


def train_on_devices(
  study: Study,
  runs: Sequence[PlannedRun],
  on_event: Callable[[Event], None],
  *,
  num_runs: int,
):
  """Trains runs in this process, each on one device; `num_runs` at once.

  To the outside a device is a worker. What else is missing of the runs is left
  for `do_here`, on all devices.
  """
  # Not above: it imports TensorFlow, and workers import this module.
  from lossbench.train.side_by_side import train_side_by_side

  queue, programs = _Queue(runs), {}
  telling = threading.Lock()

  def take(number):
    run = queue.take(programs.get(number, ''))
    if run is not None:
      programs[number] = run.program
    return run

  def train(number, run, notice):
    def on_status(stage, text):
      with telling:
        on_event(Event(number, run.name, stage, text))

    error = stages.train_run(study, run, on_status, notice=notice)
    with telling:
      on_event(Event(number, run.name, '', error, more=not error))

  with stages.logged_by_runs():
    train_side_by_side(take, train, num_runs=num_runs)


def do_in_workers(
  study: Study,
  tasks: Sequence[Task],
  on_event: Callable[[Event], None],
  *,
  num_workers: int,
):
  """Does tasks in processes of their own, which live as long as there are any.

  A worker that dies (out of memory, a crash of a library) costs the task at
  hand, which is reported, and is replaced. Whatever ends this function ends the
  workers, and is waited for: runs that are being trained save.

  Args:
    study: of the tasks.
    tasks: to do, in any order.
    on_event: told what happens.
    num_workers: processes.
  """
  queue = _Queue(tasks)
  workers: dict[int, _Worker] = {}
  try:
    for number in range(min(num_workers, len(tasks))):
      workers[number] = _Worker(study, number, num_workers)
      workers[number].start(queue.take(''))
    while any(worker.task is not None for worker in workers.values()):
      for worker in _ready(workers.values()):
        for event in worker.events():
          on_event(event)
        if worker.task is not None:
          continue
        task = queue.take(worker.program)
        if task is None:
          continue
        if not worker.alive:
          _close([worker])
          workers[worker.number] = _Worker(study, worker.number, num_workers)
        workers[worker.number].start(task)
  finally:
    _close(workers.values())


class _Queue:
  """Hands out tasks so that few workers compile the same program."""

  def __init__(self, tasks: Sequence[Task]):
    self._tasks = list(tasks)
    self._begun: set[str] = set()

  def take(self, program: str) -> Task | None:
    """The next task: of this program, else of one nobody has begun, else any."""
    if not self._tasks:
      return None

    def preference(task):
      other = _program(task)
      return 0 if other == program else 1 if other not in self._begun else 2

    task = min(self._tasks, key=preference)
    self._tasks.remove(task)
    self._begun.add(_program(task))
    return task


class _Worker:
  """A process that does one task after the other."""

  def __init__(self, study: Study, number: int, num_workers: int):
    context = multiprocessing.get_context('spawn')
    self.number = number
    self.program = ''
    self.task: Task | None = None
    self._connection, theirs = context.Pipe()
    self._log = contextlib.ExitStack()
    log = self._log.enter_context(
      storage.appended(study.workdir / f'worker{number}.log')
    )
    self._process = context.Process(
      target=_work, args=(theirs, study, number, log), daemon=True
    )
    with _cores_shared(num_workers):
      self._process.start()
    theirs.close()

  @property
  def alive(self) -> bool:
    return self._process.is_alive()

  @property
  def connection(self) -> multiprocessing.connection.Connection:
    return self._connection

  def start(self, task: Task):
    self.task, self.program = task, _program(task)
    # A process that has just died is found out by `events`.
    with contextlib.suppress(OSError):
      self._connection.send(task)

  def events(self) -> Iterator[Event]:
    """What there is to read; ends a task of a process that has died."""
    try:
      while self.task is not None and self._connection.poll():
        event = Event(*self._connection.recv())
        if not event.stage:
          self.task = None
        yield event
    except (EOFError, OSError):
      self._process.join()
      task, self.task = self.task, None
      yield Event(
        self.number,
        task.name,
        '',
        f'the worker died with exit code {self._process.exitcode}. Run the '
        'same command again to continue.',
      )

  def tell_to_stop(self):
    """An idle one ends by itself, a busy one is asked to save."""
    if self.task is not None:
      self._process.terminate()
    self._connection.close()

  def join(self, deadline: float):
    """Waits for its end; one that does not come is killed."""
    self._process.join(max(0, deadline - time.monotonic()))
    if self._process.is_alive():
      self._process.kill()
      self._process.join()
    self._log.close()


def _close(workers: Iterable[_Worker]):
  """Ends all workers within `_STOP_SECS`."""
  workers = list(workers)
  deadline = time.monotonic() + _STOP_SECS
  for worker in workers:
    worker.tell_to_stop()
  for worker in workers:
    worker.join(deadline)


def _ready(workers) -> list[_Worker]:
  busy = [worker for worker in workers if worker.task is not None]
  ready = multiprocessing.connection.wait([w.connection for w in busy])
  return [worker for worker in busy if worker.connection in ready]


def _work(connection, study: Study, number: int, log: pathlib.Path):
  """The main function of a worker."""
  # What libraries print would tear the table to pieces.
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
    os.dup2(file, stream.fileno())
  # A terminal's Ctrl-C goes to the study too, which then tells the workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  with stop_on_signals(signal.SIGTERM):
    _do_tasks(connection, study, number)


def _do_tasks(connection, study: Study, number: int):
  """Does what is sent until the study is over."""
  while True:
    try:
      task = connection.recv()
    except (EOFError, OSError):
      return

    def send(stage, text, task=task):
      try:
        connection.send((number, task.name, stage, text))
      except OSError:
        # The study was killed; that is no failure of the run, which saves.
        signal.raise_signal(signal.SIGTERM)

    with stages.logged_by_runs():
      error = _do(study, task, send)
    send('', error)


@contextlib.contextmanager
def _cores_shared(num_workers: int) -> Iterator[None]:
  """Programs that are started within it do not fight for the CPU's cores."""
  share = len(os.sched_getaffinity(0)) // num_workers
  changed = {}
  if num_workers > 1:
    # Of NumPy's products and eigenvalues, whose threads spin while they wait.
    for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
      changed[name] = os.environ.get(name, str(max(1, share)))
    if share <= 1:
      # One core each: threads of one program would only wait for one another.
      flags = os.environ.get('XLA_FLAGS', '')
      changed['XLA_FLAGS'] = f'{flags} --xla_cpu_multi_thread_eigen=false'
  before = {name: os.environ.get(name) for name in changed}
  os.environ.update(changed)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
