"""Faults at random moments: python -m tests.faults.chaos --num_faults=100.

Kills, SIGTERM, pauses, full disks and damaged files (a flipped bit, truncated,
deleted) meet runs of one and of two processes and a study with two workers. After
each the same command is given again, as a supervisor does. Final parameters must
be those of a run that nobody disturbed, bit for bit, and so must the tables of a
study. Prints faults survived of faults injected, by kind, and ends with status 1
unless all of them were. Full disks are small ones in memory, which only root may
mount; others go without this fault, and are told.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

from lossbench.data import datasets
from lossbench.report import reading, records
from lossbench.report.tables import TABLES, rendering
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from lossbench.runtime.progress import Progress
from lossbench.runtime.stopping import EXIT_STATUS
from tests.faults.processes import RECIPE, start, start_two
from tests.study.conftest import CONFIG

_MAX_STARTS = 8  # without a fault in between; more is no progress
_MAX_SECS = 900  # of one command; longer is a hang
_STOP_SECS = 15  # for an answer to SIGTERM
_MAX_PAUSE_SECS = 60
_FULL_SECS = 20  # that a disk stays full, unless everybody has given up
_DISK = '64m'


class NotSurvivedError(Exception):
  """A fault did what no fault may do."""


@dataclasses.dataclass(frozen=True)
class Subject:
  """What faults are done to.

  Attributes:
    name: for the report.
    start: (directory, folder of logs) -> processes, of which each may be hit.
    result: directory -> what must not depend on faults.
    max_secs: a fault comes within so many of the beginning of work.
    begun: what a log says once there is something to disturb.
  """

  name: str
  start: Callable[[pathlib.Path, pathlib.Path], list[subprocess.Popen]]
  result: Callable[[pathlib.Path], Any]
  max_secs: float
  begun: str


def _parameters(workdir: pathlib.Path) -> list[np.ndarray]:
  checkpoint = load_checkpoint(RunDirectory(workdir), 'last')
  return jax.tree.leaves(checkpoint.arrays)


def _tables(workdir: pathlib.Path) -> dict[str, str]:
  """All tables of a study's report, as CSV, and all of its predictions."""
  study = reading.load_study(workdir)
  if study.problems:
    raise NotSurvivedError(f'problems of the study: {study.problems}')
  found = {}
  for spec in TABLES:
    with contextlib.suppress(records.NotRun):
      found[spec.name] = rendering.to_csv(spec.build(study))
  return found


def _same(a, b) -> bool:
  if isinstance(a, dict):
    return a == b
  return len(a) == len(b) and all(map(np.array_equal, a, b))


def _subjects(root: pathlib.Path, num_epochs: int) -> list[Subject]:
  data_dir = str(root / 'tfds')
  datasets.open_dataset('digits', data_dir=data_dir)
  file = root / 'study.py'
  file.write_text(
    CONFIG.format(data_dir=data_dir).replace(
      'num_epochs=2', f'num_epochs={max(2, num_epochs // 2)}'
    )
  )
  training = (
    'main.py',
    *RECIPE,
    f'--config.num_epochs={num_epochs}',
    '--config.eval_every_epochs=0.5',
    '--config.checkpoint_every_steps=4',
    f'--config.data_dir={data_dir}',
  )

  def start_run(workdir, logs):
    command = (*training, f'--workdir={workdir}')
    return [start(*command, num_devices=1, log=logs / '0.log')]

  def start_pair(workdir, logs):
    command = (*training, f'--workdir={workdir}')
    return start_two(*command, num_devices=1, logs=logs)

  def start_study(workdir, logs):
    command = (f'--config={file}', f'--workdir={workdir}', '--num_workers=2')
    return [
      start(
        '-m', 'lossbench.study', *command, num_devices=1, log=logs / '0.log'
      )
    ]

  return [
    Subject('run', start_run, _parameters, 6, 'Compiling'),
    Subject('two processes', start_pair, _parameters, 8, 'Compiling'),
    Subject('study', start_study, _tables, 40, ''),
  ]


# (directory, processes, random numbers) -> whether there was something to do it
# to. It returns when the fault is over.
Fault = Callable[[pathlib.Path, list[subprocess.Popen], random.Random], bool]


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


def _kill(workdir, processes, rng) -> bool:
  pid = rng.choice(_family(rng.choice(processes)))
  _signal(pid, signal.SIGKILL)
  return True


def _terminate(workdir, processes, rng) -> bool:
  if any(p.poll() is not None for p in processes):
    return False  # what the others end with is the fault before
  rng.choice(processes).send_signal(signal.SIGTERM)
  began = time.monotonic()
  statuses = {p.wait(_MAX_SECS) for p in processes}
  secs = time.monotonic() - began
  if statuses - {0, EXIT_STATUS}:
    raise NotSurvivedError(f'SIGTERM ended with {statuses}')
  if secs > _STOP_SECS:
    raise NotSurvivedError(f'SIGTERM took {secs:.0f} s')
  return True


def _pause(workdir, processes, rng) -> bool:
  pids = _family(rng.choice(processes))
  for pid in pids:
    _signal(pid, signal.SIGSTOP)
  time.sleep(rng.uniform(1, _MAX_PAUSE_SECS))
  for pid in pids:
    _signal(pid, signal.SIGCONT)
  return True


def _fill_disk(workdir, processes, rng) -> bool:
  if not workdir.parent.is_mount():
    return False
  filler = workdir.parent / 'filler'
  with contextlib.suppress(OSError), filler.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(2**16))
  deadline = time.monotonic() + _FULL_SECS
  while time.monotonic() < deadline and any(
    p.poll() is None for p in processes
  ):
    time.sleep(0.1)
  filler.unlink()
  return True


def _flip(path: pathlib.Path, rng):
  content = bytearray(path.read_bytes())
  if content:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def _truncate(path: pathlib.Path, rng):
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(len(content) + 1)])


def _delete(path: pathlib.Path, rng):
  path.unlink()


# A damaged configuration is refused, for whose is the directory then? It is put
# back, as the refusal says.
_configs: list[tuple[pathlib.Path, bytes]] = []


def _put_back_configs():
  while _configs:
    path, content = _configs.pop()
    path.write_bytes(content)


def _damage(find_fn: Callable[[pathlib.Path], list]) -> Fault:
  """Kills everything, as a power failure does, and damages one file."""

  def fault(workdir, processes, rng) -> bool:
    if not find_fn(workdir):
      return False
    for process in processes:
      for pid in _family(process):
        _signal(pid, signal.SIGKILL)
      process.wait()
    found = sorted(path for path in find_fn(workdir) if path.is_file())
    if not found:
      return False
    path = rng.choice(found)
    if path.name == 'config.json':
      _configs.append((path, path.read_bytes()))
    rng.choice([_flip, _truncate, _delete])(path, rng)
    return True

  return fault


def _named(name: str) -> Callable[[pathlib.Path], list]:
  return lambda workdir: list(workdir.rglob(name))


def _of_checkpoints(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Files of all checkpoints but the oldest one of each run, to go back to."""
  return [
    file
    for folder in workdir.rglob('checkpoints')
    for path in sorted(folder.glob('[0-9]' * 9))[1:]
    for file in path.rglob('*')
  ]


FAULTS: dict[str, Fault] = {
  'kill -9': _kill,
  'SIGTERM': _terminate,
  'SIGSTOP, up to a minute': _pause,
  'full disk': _fill_disk,
  'damaged checkpoint': _damage(_of_checkpoints),
  'damaged history.json': _damage(_named('history.json')),
  'damaged run.json': _damage(_named('run.json')),
  'damaged metrics.json': _damage(_named('metrics.json')),
  'damaged config.json': _damage(_named('config.json')),
}
# A deck of cards, shuffled again and again.
_DECK = (*FAULTS, 'kill -9', 'kill -9', 'SIGTERM', 'damaged checkpoint')


class Chaos:
  """Injects faults and keeps count.

  Args:
    num_faults: to inject.
    seed: of their moments and kinds.
    root: a directory for everything.
  """

  def __init__(self, *, num_faults: int, seed: int, root: pathlib.Path):
    self._rng = random.Random(seed)
    self._root = root
    self._deck: list[str] = []
    self._num_faults = num_faults
    self._progress = Progress(0, num_faults)
    self.injected: collections.Counter[str] = collections.Counter()
    self.survived: collections.Counter[str] = collections.Counter()
    self.runs: collections.Counter[str] = collections.Counter()
    self.identical: collections.Counter[str] = collections.Counter()
    self.failures: list[str] = []

  @property
  def num_injected(self) -> int:
    """So far."""
    return self.injected.total()

  def _draw(self) -> str:
    if not self._deck:
      self._deck = list(_DECK)
      self._rng.shuffle(self._deck)
    return self._deck.pop()

  def expect(self, subject: Subject) -> Any:
    """What an undisturbed run gives."""
    folder = self._folder(subject, 'whole')
    self._finish(subject.start(folder / 'work', folder), folder)
    return subject.result(folder / 'work')

  def disturb(self, subject: Subject, expected: Any, number: int, last: int):
    """One run, from its first step to its result, under faults.

    Args:
      subject: what is run.
      expected: its result.
      number: of this run.
      last: no more faults once so many are injected.
    """
    folder = self._folder(subject, f'broken{number}')
    done: list[str] = []
    self.runs[subject.name] += 1
    with _small_disk(folder / 'disk') as disk:
      workdir = disk / 'work'
      try:
        self._live(subject, workdir, folder, done, last)
        if not _same(expected, subject.result(workdir)):
          raise NotSurvivedError('the result is another one')
      except (NotSurvivedError, ValueError, OSError) as error:
        self.failures.append(f'{subject.name}: after {done}: {error}')
        print(f'NOT SURVIVED: {self.failures[-1]}', flush=True)
        if workdir.exists():
          shutil.copytree(workdir, folder / 'kept', dirs_exist_ok=True)
      else:
        self.survived.update(done)
        self.identical[subject.name] += 1

  def print_report(self):
    """What was survived, by kind, and which results were those expected."""
    for fault, number in sorted(self.injected.items()):
      print(f'{fault}: {self.survived[fault]} of {number} survived')
    for name, number in self.runs.items():
      print(f'{name}: {self.identical[name]} of {number} bit-identical')
    print(f'{self.survived.total()} of {self.num_injected} faults survived.')

  def _folder(self, subject: Subject, name: str) -> pathlib.Path:
    folder = self._root / subject.name.replace(' ', '_') / name
    folder.mkdir(parents=True)
    return folder

  def _live(self, subject, workdir, folder, done, last):
    starts = 0
    while starts < _MAX_STARTS:
      processes = subject.start(workdir, folder)
      starts += 1
      _wait_until_begun(subject, processes, folder)
      while self.num_injected < last:
        if not self._inject(subject, workdir, processes, done):
          break
        starts = 0
      statuses = self._wait(processes)
      _put_back_configs()
      if not any(statuses):
        return
    raise NotSurvivedError(f'it ends with {statuses}: {_last_lines(folder)}')

  def _inject(self, subject, workdir, processes, done) -> bool:
    """Whether a fault was injected."""
    deadline = time.monotonic() + self._rng.uniform(0, subject.max_secs)
    while time.monotonic() < deadline:
      if all(p.poll() is not None for p in processes):
        return False
      time.sleep(0.02)
    for _ in _DECK:  # until one finds something to disturb
      name = self._draw()
      try:
        if FAULTS[name](workdir, processes, self._rng):
          break
      except NotSurvivedError:
        self.injected[name] += 1
        raise
    else:
      return False
    done.append(name)
    self.injected[name] += 1
    _, position = self._progress.tick(self.num_injected)
    print(f'fault {position}: {subject.name}: {name}', flush=True)
    return True

  def _wait(self, processes) -> list[int]:
    try:
      return [p.wait(_MAX_SECS) for p in processes]
    except subprocess.TimeoutExpired as error:
      for process in processes:
        process.kill()
      raise NotSurvivedError('it hangs') from error

  def _finish(self, processes, folder):
    statuses = self._wait(processes)
    if any(statuses):
      raise RuntimeError(f'undisturbed: {statuses}: {_last_lines(folder)}')


def _wait_until_begun(subject, processes, folder):
  log = folder / '0.log'
  while subject.begun not in log.read_text(errors='replace'):
    if any(p.poll() is not None for p in processes):
      return
    time.sleep(0.02)


def _last_lines(folder) -> str:
  return ' '.join(
    ' '.join(path.read_text(errors='replace').splitlines()[-3:])
    for path in sorted(folder.glob('*.log'))
  )


@contextlib.contextmanager
def _small_disk(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A disk of its own where that is allowed, so that it can be filled."""
  path.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', f'size={_DISK}', 'tmpfs', str(path)]
  mounted = os.geteuid() == 0 and not (
    subprocess.run(command, capture_output=True, check=False).returncode
  )
  try:
    yield path
  finally:
    if mounted:
      subprocess.run(['umount', '-l', str(path)], check=True)


def run_chaos(
  *,
  num_faults: int,
  seed: int,
  root: pathlib.Path,
  num_epochs: int = 20,
  names: tuple[str, ...] = ('run', 'two processes', 'study'),
) -> Chaos:
  """Injects faults into all subjects in turn, a share into each; reports.

  Args:
    num_faults: in all.
    seed: of their moments and kinds.
    root: an empty directory.
    num_epochs: of the runs.
    names: of the subjects.
  """
  chaos = Chaos(num_faults=num_faults, seed=seed, root=root)
  subjects = [s for s in _subjects(root, num_epochs) if s.name in names]
  try:
    for index, subject in enumerate(subjects, start=1):
      expected = chaos.expect(subject)
      last, number = num_faults * index // len(subjects), 0
      while chaos.num_injected < last:
        number += 1
        chaos.disturb(subject, expected, number, last)
  finally:  # whatever it was stopped by
    chaos.print_report()
  return chaos


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_faults', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--only', action='append', help="'run', 'two processes' or 'study'."
  )
  args = parser.parse_args()
  logging.set_verbosity(logging.ERROR)  # of Orbax
  root = pathlib.Path(tempfile.mkdtemp(prefix='chaos'))
  chaos = run_chaos(
    num_faults=args.num_faults,
    seed=args.seed,
    root=root,
    **({'names': tuple(args.only)} if args.only else {}),
  )
  if chaos.failures:
    sys.exit(f'Not survived, kept in {root}:\n' + '\n'.join(chaos.failures))
  shutil.rmtree(root)


if __name__ == '__main__':
  main()
