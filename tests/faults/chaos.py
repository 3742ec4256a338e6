"""Faults at random moments: python -m tests.faults.chaos --num_faults=100.

They are those of `kinds`, done to the subjects of `subjects`: runs of one and of two
processes, a study with two workers and a run in a bucket. After each the same
command is given again, as a supervisor does. Final parameters must be those of a
run that nobody disturbed, bit for bit, and so must the tables of a study. Prints
faults survived of faults injected, by kind, and ends with status 1 unless all of
them were. What cannot be done on a machine is named as LEFT OUT: full disks where
small ones may not be mounted, which takes root, and buckets without
fake-gcs-server. Every subject has random numbers of its own, so that --only gives
it the faults that it has among the others.
"""

import argparse
import collections
import pathlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from lossbench.data import datasets
from lossbench.runtime.progress import Progress
from tests.faults.kinds import NotSurvivedError, Scene
from tests.faults.subjects import (
  PARTS,
  NotAvailableError,
  Setting,
  Subject,
)

_MAX_STARTS = 8  # without a fault in between; more is no progress
# Of a deck of cards with every fault of a subject, those that are in it more often.
_MORE = (
  'kill -9',
  'kill -9',
  'SIGTERM',
  'damaged checkpoint',
  'lost object of a checkpoint',
)


def split(num_faults: int) -> dict[str, int]:
  """Subject -> how many faults of so many are done to it."""
  numbers, percent = {}, 0
  for name, part in PARTS.items():
    before, percent = percent, percent + part.percent
    numbers[name] = num_faults * percent // 100 - num_faults * before // 100
  return numbers


class Chaos:
  """Injects faults into one subject after the other and keeps count.

  Args:
    num_faults: in all.
    seed: of their moments and kinds.
    root: a directory for everything.
  """

  def __init__(self, *, num_faults: int, seed: int, root: pathlib.Path):
    self._seed = seed
    self._rng = random.Random(seed)
    self._root = root
    self._deck: list[str] = []
    self._progress = Progress(0, num_faults)
    self.injected: collections.Counter[str] = collections.Counter()
    self.survived: collections.Counter[str] = collections.Counter()
    self.runs: collections.Counter[str] = collections.Counter()
    self.identical: collections.Counter[str] = collections.Counter()
    self.failures: list[str] = []
    self.left_out: dict[str, str] = {}
    self.stop_secs: list[float] = []

  def torment(self, subject: Subject, num_faults: int):
    """Run after run of a subject, until so many faults are injected."""
    self._rng = random.Random(f'{self._seed} {subject.name}')
    self._deck = []
    for fault, reason in subject.left_out.items():
      self.leave_out(f'{subject.name}: {fault}', reason)
    expected = self.expect(subject)
    last = self.injected.total() + num_faults
    while self.injected.total() < last:
      self.disturb(subject, expected, last=last)

  def leave_out(self, what: str, reason: str):
    """Says that something is not done, and why; the report repeats it."""
    self.left_out[what] = reason
    print(f'LEFT OUT: {what}: {reason}', flush=True)

  def expect(self, subject: Subject) -> Any:
    """What an undisturbed run gives."""
    folder = self._folder(subject, 'whole')
    with subject.place(folder) as workdir:
      scene = Scene(workdir, self._rng, subject.start(workdir, folder))
      statuses = scene.wait()
      if any(statuses):
        raise RuntimeError(f'undisturbed: {statuses}: {_last_lines(folder)}')
      return subject.result(workdir)

  def disturb(self, subject: Subject, expected: Any, *, last: int):
    """One run, from its first step to its result, under faults.

    Args:
      subject: what is run.
      expected: its result.
      last: no more faults once so many are injected.
    """
    self.runs[subject.name] += 1
    folder = self._folder(subject, f'broken{self.runs[subject.name]}')
    done: list[str] = []
    with subject.place(folder) as workdir:
      scene = Scene(workdir, self._rng, stop_secs=self.stop_secs)
      try:
        self._live(subject, scene, folder, done, last)
        if not _same(expected, subject.result(workdir)):
          raise NotSurvivedError('the result is another one')
      except (NotSurvivedError, ValueError, OSError) as error:
        self._fail(subject, f'after {done}: {error}')
        _copy(workdir, folder / 'kept')
      else:
        self.survived.update(done)
        self.identical[subject.name] += 1
      finally:
        scene.kill()

  def print_report(self):
    """What was survived, by kind, and which results were those expected."""
    for fault, number in sorted(self.injected.items()):
      print(f'{fault}: {self.survived[fault]} of {number} survived')
    if self.stop_secs:
      print(f'SIGTERM: the slowest answer took {max(self.stop_secs):.1f} s')
    for name, number in self.runs.items():
      print(f'{name}: {self.identical[name]} of {number} bit-identical')
    for what, reason in self.left_out.items():
      print(f'LEFT OUT: {what}: {reason}')
    survived, injected = self.survived.total(), self.injected.total()
    print(f'{survived} of {injected} faults survived.', flush=True)

  def _fail(self, subject: Subject, what: str):
    self.failures.append(f'{subject.name}: {what}')
    print(f'NOT SURVIVED: {self.failures[-1]}', flush=True)

  def _folder(self, subject: Subject, name: str) -> pathlib.Path:
    folder = self._root / subject.name.replace(' ', '_') / name
    folder.mkdir(parents=True)
    return folder

  def _live(self, subject, scene, folder, done, last):
    """Starts the command again and again, until it ends with status 0."""
    starts = 0
    while starts < _MAX_STARTS:
      refused = dict(scene.put_back)
      scene.processes = subject.start(scene.workdir, folder)
      starts += 1
      begun = self._rng.choice(subject.begun)
      scene.wait_for_text(folder / '0.log', begun)
      while self.injected.total() < last:
        if not self._inject(subject, scene, folder, done):
          break
        starts = 0
      statuses = scene.wait()
      for path, content in refused.items():
        path.write_bytes(content)
        del scene.put_back[path]
      if not any(statuses):
        return
    raise NotSurvivedError(f'it ends with {statuses}: {_last_lines(folder)}')

  def _inject(self, subject, scene, folder, done) -> bool:
    """Whether a fault was injected."""
    deadline = time.monotonic() + self._rng.uniform(0, subject.max_secs)
    while time.monotonic() < deadline:
      if scene.is_over:
        return False
      time.sleep(0.02)
    for _ in range(2 * len(subject.faults)):  # until one finds something to do
      name = self._draw(subject)
      try:
        found = subject.faults[name](scene)
      except NotSurvivedError as error:  # this one; what was before goes on
        self._fail(subject, f'{name}: {error}: {_last_lines(folder)}')
        shutil.copytree(folder, f'{folder}_{len(self.failures)}')
        scene.kill()
      else:
        if not found:
          continue
        done.append(name)
      self.injected[name] += 1
      _, position = self._progress.tick(self.injected.total())
      print(f'fault {position}: {subject.name}: {name}', flush=True)
      return True
    return False

  def _draw(self, subject: Subject) -> str:
    if not self._deck:
      more = [name for name in _MORE if name in subject.faults]
      self._deck = [*subject.faults, *more]
      self._rng.shuffle(self._deck)
    return self._deck.pop()


def _same(a, b) -> bool:
  if isinstance(a, dict):
    return a == b
  return len(a) == len(b) and all(map(np.array_equal, a, b))


def _copy(source: epath.Path, target: pathlib.Path):
  for folder, _, names in source.walk():
    copies = target / folder.relative_to(source)
    copies.mkdir(parents=True, exist_ok=True)
    for name in names:
      (copies / name).write_bytes((folder / name).read_bytes())


def _last_lines(folder) -> str:
  return ' '.join(
    ' '.join(path.read_text(errors='replace').splitlines()[-3:])
    for path in sorted(folder.glob('*.log'))
  )


def run_chaos(numbers: Mapping[str, int], *, seed: int, setting: Setting):
  """Injects faults into subjects in turn; reports.

  Args:
    numbers: subject -> faults that are done to it.
    seed: of their moments and kinds.
    setting: of all subjects.

  Returns:
    A `Chaos`, with all counts.
  """
  chaos = Chaos(num_faults=sum(numbers.values()), seed=seed, root=setting.root)
  try:
    for name, number in numbers.items():
      try:
        with PARTS[name].open_fn(setting) as subject:
          chaos.torment(subject, number)
      except NotAvailableError as error:
        chaos.leave_out(f'{name} ({number} faults)', str(error))
  finally:  # whatever it was stopped by
    chaos.print_report()
  return chaos


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_faults', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--only',
    action='append',
    choices=PARTS,
    help='Only the faults of this subject; repeat for several.',
  )
  args = parser.parse_args()
  logging.set_verbosity(logging.ERROR)  # of Orbax
  root = pathlib.Path(tempfile.mkdtemp(prefix='chaos'))
  data_dir = str(root / 'tfds')
  datasets.open_dataset('digits', data_dir=data_dir)
  numbers = split(args.num_faults)
  chaos = run_chaos(
    {name: numbers[name] for name in args.only or PARTS},
    seed=args.seed,
    setting=Setting(root, data_dir, num_epochs=20),
  )
  if chaos.failures:
    sys.exit(f'Not survived, kept in {root}:\n' + '\n'.join(chaos.failures))
  shutil.rmtree(root)


if __name__ == '__main__':
  main()
