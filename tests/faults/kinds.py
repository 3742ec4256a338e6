"""Kinds of faults that `chaos` injects: to processes, files, disks and networks."""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from etils import epath

from lossbench.runs.directory import RunDirectory
from lossbench.runtime.stopping import EXIT_STATUS
from tests.faults.buckets import Bucket

MAX_SECS = 900  # of one command; longer is a hang
_STOP_SECS = 15  # for an answer to SIGTERM
_MAX_PAUSE_SECS = 60
_FULL_SECS = 20  # that a disk stays full, unless everybody has given up
_MAX_NETWORK_SECS = 15
# For those who have met a full disk or a bad network to give up or go on. Asked to
# stop in between, they end with what they met.
_SETTLE_SECS = 5


class NotSurvivedError(Exception):
  """A fault did what no fault may do."""


@dataclasses.dataclass
class Scene:
  """Where faults happen: a run, and those who work at it.

  Attributes:
    workdir: of the run.
    rng: random numbers.
    processes: of the command that was started last.
    put_back: a damaged configuration is refused, for whose is the directory then?
      file -> content, which is put back when the refusal was seen.
    stop_secs: what answers to SIGTERM took.
  """

  workdir: epath.Path
  rng: random.Random
  processes: list[subprocess.Popen] = dataclasses.field(default_factory=list)
  put_back: dict[epath.Path, bytes] = dataclasses.field(default_factory=dict)
  stop_secs: list[float] = dataclasses.field(default_factory=list)

  @property
  def is_over(self) -> bool:
    """Whether nobody works at it any more."""
    return all(process.poll() is not None for process in self.processes)

  def wait(self, secs: float = MAX_SECS) -> list[int]:
    """The statuses of all processes, once they have ended."""
    deadline = time.monotonic() + secs
    try:
      return [
        process.wait(max(0, deadline - time.monotonic()))
        for process in self.processes
      ]
    except subprocess.TimeoutExpired as error:
      raise NotSurvivedError(f'it hangs: no end after {secs:.0f} s') from error

  def wait_for_text(self, log: pathlib.Path, text: str):
    """Returns once a log contains a text, or one of the processes has ended."""
    while text not in log.read_text(errors='replace'):
      if any(process.poll() is not None for process in self.processes):
        return
      time.sleep(0.02)

  def kill(self):
    """Ends everybody, as a power failure does."""
    for process in self.processes:
      if process.poll() is None:
        for pid in _family(process):
          _signal(pid, signal.SIGKILL)
        process.wait()


# Does its harm and returns when that is over: whether there was something to do
# it to.
Fault = Callable[[Scene], bool]


def _family(process: subprocess.Popen) -> list[int]:
  """A process and, of a study, its workers."""
  path = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
  try:
    return [process.pid, *map(int, path.read_text().split())]
  except OSError:
    return [process.pid]


def _signal(pid: int, number: signal.Signals):
  with contextlib.suppress(ProcessLookupError):
    os.kill(pid, number)


def _kill(scene: Scene) -> bool:
  process = scene.rng.choice(scene.processes)
  if process.poll() is not None:
    return False
  pid = scene.rng.choice(_family(process))
  _signal(pid, signal.SIGKILL)
  if pid == process.pid:
    process.wait()
  return True


def _terminate(scene: Scene) -> bool:
  if any(p.poll() is not None for p in scene.processes):
    return False  # what the others end with is the fault before
  began = time.monotonic()
  scene.rng.choice(scene.processes).send_signal(signal.SIGTERM)
  statuses = set(scene.wait())
  secs = time.monotonic() - began
  scene.stop_secs.append(secs)
  if statuses - {0, EXIT_STATUS}:
    raise NotSurvivedError(f'SIGTERM ended with {statuses}')
  if secs > _STOP_SECS:
    raise NotSurvivedError(f'SIGTERM took {secs:.0f} s')
  return True


def _pause(scene: Scene) -> bool:
  process = scene.rng.choice(scene.processes)
  if process.poll() is not None:
    return False
  pids = _family(process)
  for pid in pids:
    _signal(pid, signal.SIGSTOP)
  time.sleep(scene.rng.uniform(1, _MAX_PAUSE_SECS))
  for pid in pids:
    _signal(pid, signal.SIGCONT)
  return True


def _wait_while(condition: Callable[[], bool], scene: Scene):
  """Returns when it no longer holds, or nobody works any more."""
  while condition() and not scene.is_over:
    time.sleep(0.05)


def _wait(secs: float, scene: Scene):
  deadline = time.monotonic() + secs
  _wait_while(lambda: time.monotonic() < deadline, scene)


def _fill_disk(scene: Scene) -> bool:
  filler = pathlib.Path(scene.workdir.parent) / 'filler'
  with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(2**16))
  _wait(_FULL_SECS, scene)
  filler.unlink()
  _wait(_SETTLE_SECS, scene)
  return True


def _failing_network(bucket: Bucket, action: int | str) -> Fault:
  """Lets all requests to a bucket fail for seconds, or some of them."""

  def fault(scene) -> bool:
    failing = bucket.inject(action, every=scene.rng.choice([1, 2, 5]))
    _wait(scene.rng.uniform(1, _MAX_NETWORK_SECS), scene)
    _wait_while(lambda: not failing.count, scene)
    bucket.faults.clear()
    _wait(_SETTLE_SECS, scene)
    return failing.count > 0

  return fault


def _flip(path: epath.Path, rng: random.Random):
  content = bytearray(path.read_bytes())
  if content:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def _truncate(path: epath.Path, rng: random.Random):
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(max(1, len(content)))])


def _lose(path: epath.Path, rng: random.Random):
  del rng
  path.unlink()


# What may happen to a file. A bucket keeps objects whole, or loses them.
_ON_DISK = (_flip, _truncate, _lose)
_IN_BUCKET = (_lose,)


def _damage(
  find_fn: Callable[[epath.Path], Sequence[epath.Path]],
  ways: Sequence[Callable[[epath.Path, random.Random], None]],
) -> Fault:
  """Kills everybody, as a power failure does, and damages one file."""

  def find(scene):
    return [
      path
      for path in find_fn(scene.workdir)
      if not (scene.put_back and path.name == 'config.json')  # one at a time
    ]

  def fault(scene) -> bool:
    if not find(scene):
      return False
    scene.kill()
    found = sorted(find(scene))
    if not found:
      return False
    path = scene.rng.choice(found)
    if path.name == 'config.json':
      scene.put_back[path] = path.read_bytes()
    scene.rng.choice(ways)(path, scene.rng)
    return True

  return fault


def _files(directory: epath.Path) -> list[epath.Path]:
  return [
    folder / name for folder, _, names in directory.walk() for name in names
  ]


def _named(name: str) -> Callable[[epath.Path], list[epath.Path]]:
  return lambda workdir: [p for p in _files(workdir) if p.name == name]


def _of_checkpoints(workdir: epath.Path) -> list[epath.Path]:
  """Files of all checkpoints but the oldest one of each run, to go back to."""
  runs = [
    RunDirectory(folder)
    for folder, names, _ in workdir.walk()
    if 'checkpoints' in {name.rstrip('/') for name in names}
  ]
  return [
    file
    for run in runs
    for step in run.committed_steps[1:]
    for file in _files(epath.Path(run.checkpoints_path) / f'{step:09d}')
  ]


_TO_PROCESSES: dict[str, Fault] = {
  'kill -9': _kill,
  'SIGTERM': _terminate,
  'SIGSTOP, up to a minute': _pause,
}


def on_disk(*, records: Sequence[str], can_be_filled: bool) -> dict[str, Fault]:
  """Faults of runs on a disk.

  Args:
    records: names of files that are damaged as well.
    can_be_filled: whether the disk is a small one of its own.
  """
  return {
    **_TO_PROCESSES,
    **({'full disk': _fill_disk} if can_be_filled else {}),
    'damaged checkpoint': _damage(_of_checkpoints, _ON_DISK),
    **{f'damaged {name}': _damage(_named(name), _ON_DISK) for name in records},
  }


def in_bucket(bucket: Bucket, *, records: Sequence[str]) -> dict[str, Fault]:
  """Faults of runs in a bucket.

  Args:
    bucket: in which they are.
    records: names of files that are lost as well.
  """
  return {
    **_TO_PROCESSES,
    'answers 503': _failing_network(bucket, 503),
    'dropped connections': _failing_network(bucket, 'drop'),
    'stalled requests': _failing_network(bucket, 'stall'),
    'lost object of a checkpoint': _damage(_of_checkpoints, _IN_BUCKET),
    **{f'lost {name}': _damage(_named(name), _IN_BUCKET) for name in records},
  }
