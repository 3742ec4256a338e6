"""What `chaos` does faults to: runs, a study, a run in a bucket."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from etils import epath

from lossbench.report import reading, records
from lossbench.report.tables import TABLES, rendering
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from tests.faults import kinds
from tests.faults.buckets import PATIENCE, Bucket
from tests.faults.processes import RECIPE, start, start_two
from tests.study.conftest import CONFIG

_DISK = '64m'
# Of a run and its study, which records can be damaged.
_RECORDS = ('history.json', 'run.json', 'config.json')


class NotAvailableError(Exception):
  """Something that faults are done to, or by, cannot be had on this machine."""


@dataclasses.dataclass(frozen=True)
class Setting:
  """Where subjects live, and how long.

  Attributes:
    root: an empty directory.
    data_dir: TFDS directory with digits.
    num_epochs: of the runs.
  """

  root: pathlib.Path
  data_dir: str
  num_epochs: int


@dataclasses.dataclass(frozen=True)
class Subject:
  """What faults are done to.

  Attributes:
    name: for the report.
    start: (directory, folder of logs) -> processes, of which each may be hit.
    place: folder -> context manager of a directory that is not there yet.
    result: directory -> what must not depend on faults.
    faults: name -> what is done to it.
    left_out: fault that belongs there -> why it cannot be done here.
    max_secs: a fault comes within so many of the beginning of work.
    begun: what a log says once there is something to disturb; one of these is
      drawn at each start.
  """

  name: str
  start: Callable[[epath.Path, pathlib.Path], list[subprocess.Popen]]
  place: Callable[[pathlib.Path], contextlib.AbstractContextManager[epath.Path]]
  result: Callable[[epath.Path], Any]
  faults: Mapping[str, kinds.Fault]
  left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
  max_secs: float = 6
  # A machine that others use may compile for longer than `max_secs`.
  begun: tuple[str, ...] = ('Compiling', 'ETA')


def _parameters(workdir: epath.Path) -> list[np.ndarray]:
  """All arrays of the last checkpoint."""
  checkpoint = load_checkpoint(RunDirectory(workdir), 'last')
  return jax.tree.leaves(checkpoint.arrays)


def _tables(workdir: epath.Path) -> dict[str, str]:
  """All tables of a study's report, as CSV."""
  study = reading.load_study(workdir)
  if study.problems:
    raise kinds.NotSurvivedError(f'problems of the study: {study.problems}')
  found = {}
  for spec in TABLES:
    with contextlib.suppress(records.NotRun):
      found[spec.name] = rendering.to_csv(spec.build(study))
  return found


def _training(setting: Setting, *overrides: str) -> tuple[str, ...]:
  return (
    'main.py',
    *RECIPE,
    f'--config.num_epochs={setting.num_epochs}',
    f'--config.data_dir={setting.data_dir}',
    *(f'--config.{override}' for override in overrides),
  )


# Checkpoints as often as a kill can hope to meet one.
_OFTEN = ('eval_every_epochs=0.5', 'checkpoint_every_steps=4')


@contextlib.contextmanager
def folder_place(folder: pathlib.Path) -> Iterator[epath.Path]:
  """A place on the disk of `folder`."""
  yield epath.Path(folder / 'disk' / 'work')


@contextlib.contextmanager
def _small_disk(folder: pathlib.Path) -> Iterator[epath.Path]:
  """A disk of its own, in memory, so that it can be filled."""
  path = folder / 'disk'
  path.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', f'size={_DISK}', 'tmpfs', str(path)]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise NotAvailableError(done.stderr.strip())
  try:
    yield epath.Path(path / 'work')
  finally:
    subprocess.run(['umount', '-l', str(path)], check=True)


def _on_disk(setting: Setting, *, also: tuple[str, ...] = ()) -> dict[str, Any]:
  """Fields of a subject that has a disk; a small one where that is allowed."""
  probe = setting.root / 'probe'
  probe.mkdir(parents=True, exist_ok=True)
  place, left_out = _small_disk, {}
  try:
    with _small_disk(probe):
      pass
  except (NotAvailableError, OSError) as error:
    place, left_out = folder_place, {'full disk': f'no small disk: {error}'}
  finally:
    (probe / 'disk').rmdir()
  faults = kinds.on_disk(records=(*_RECORDS, *also), can_be_filled=not left_out)
  return {'place': place, 'faults': faults, 'left_out': left_out}


@contextlib.contextmanager
def _run(setting: Setting) -> Iterator[Subject]:
  command = _training(setting, *_OFTEN)

  def start_run(workdir, logs):
    log = logs / '0.log'
    return [start(*command, f'--workdir={workdir}', num_devices=1, log=log)]

  yield Subject('run', start_run, result=_parameters, **_on_disk(setting))


@contextlib.contextmanager
def _two_processes(setting: Setting) -> Iterator[Subject]:
  command = _training(setting, *_OFTEN)

  def start_pair(workdir, logs):
    return start_two(*command, f'--workdir={workdir}', num_devices=1, logs=logs)

  yield Subject(
    'two processes', start_pair, result=_parameters, **_on_disk(setting)
  )


@contextlib.contextmanager
def _study(setting: Setting) -> Iterator[Subject]:
  file = setting.root / 'study.py'
  epochs = max(2, setting.num_epochs // 2)
  file.write_text(
    CONFIG.format(data_dir=setting.data_dir).replace(
      'num_epochs=2', f'num_epochs={epochs}'
    )
  )
  command = ('-m', 'lossbench.study', f'--config={file}', '--num_workers=2')

  def start_study(workdir, logs):
    log = logs / '0.log'
    return [start(*command, f'--workdir={workdir}', num_devices=1, log=log)]

  yield Subject(
    'study',
    start_study,
    result=_tables,
    max_secs=40,
    begun=('',),
    **_on_disk(setting, also=('metrics.json',)),
  )


@contextlib.contextmanager
def _bucket(setting: Setting) -> Iterator[Subject]:
  command = _training(
    setting, 'eval_every_epochs=2', 'checkpoint_every_steps=20'
  )

  def start_run(workdir, logs):
    log = logs / '0.log'
    return [start(*command, f'--workdir={workdir}', num_devices=1, log=log)]

  @contextlib.contextmanager
  def place(folder):
    yield epath.Path('gs://bucket') / folder.name

  with contextlib.ExitStack() as stack:
    try:
      bucket = stack.enter_context(Bucket(setting.root))
    except (ImportError, RuntimeError) as error:  # no binary, or none that runs
      raise NotAvailableError(f'no bucket: {error}') from error
    stack.enter_context(
      mock.patch.dict(os.environ, {**bucket.environment, **PATIENCE})
    )
    faults = kinds.in_bucket(bucket, records=_RECORDS)
    yield Subject('bucket', start_run, place, result=_parameters, faults=faults)


class Part(NamedTuple):
  """A subject's part of all faults.

  Attributes:
    percent: of the faults.
    open_fn: setting -> context manager of the subject. Raises
      `NotAvailableError`.
  """

  percent: int
  open_fn: Callable[[Setting], contextlib.AbstractContextManager[Subject]]


PARTS = {
  'run': Part(34, _run),
  'two processes': Part(26, _two_processes),
  'study': Part(20, _study),
  'bucket': Part(20, _bucket),
}
