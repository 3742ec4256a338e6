"""Checkpoints that survive kills, full disks and flipped bits.

On top of Orbax's `CheckpointManager`: the last N, the best by holdout accuracy
and, if asked, those at fixed intervals are kept. Every array's CRC-32 is stored
and verified, since Orbax restores altered bytes without a word, and so is one of
the record beside them: step, history and checksums. Which checkpoint is the best
follows from that history; Orbax's own file of metrics, of version 0.1, has no
checksum and is not read.
"""

import contextlib
import dataclasses
import errno
import os
import shutil
import threading
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

from lossbench.runs.directory import RunDirectory, sealed
from lossbench.runs.stored import best_step, fingerprint_of, read_record
from lossbench.runtime import devices, storage
from lossbench.runtime.console import LOGGER
from lossbench.runtime.processes import everywhere, first_says

PyTree = Any
# A pytree that Flax turns into dictionaries, with a leaf `step`: TrainState.
StateT = TypeVar('StateT')

History = list[dict[str, float]]

# Orbax tells the saves of a process apart by the number of the latest.
_in_turn = threading.Lock()
# Longer than any disk takes; then many processes stop waiting for a save.
_SAVE_SECS = 300
# Of a checkpoint's small files, in blocks of the disk.
_METADATA_BYTES = 2**18


class DamagedCheckpointError(ValueError):
  """A checkpoint is not what was saved."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A verified checkpoint in host memory.

  Attributes:
    step: optimiser steps taken.
    arrays: the state as nested dictionaries of NumPy arrays.
    history: one record per evaluation on the holdout so far.
    fingerprint: as `Checkpointer.fingerprint`.
  """

  step: int
  arrays: dict[str, PyTree]
  history: History
  fingerprint: str

  def restore_into(self, state: StateT) -> StateT:
    """A state like `state` with this checkpoint's values, on the host."""
    return flax.serialization.from_state_dict(state, self.arrays)

  @property
  def eval_variables(self) -> dict[str, PyTree]:
    """The variables that evaluation uses: the averages where they are kept."""
    kept = self.arrays['ema'] or self.arrays
    return {name: kept[name] for name in ('params', 'batch_stats')}


@dataclasses.dataclass(frozen=True)
class HostState:
  """A state to be saved, on the host.

  Attributes:
    step: optimiser steps taken.
    arrays: the state as nested dictionaries of NumPy arrays.
    crc32: checksums of the arrays, by their paths.
  """

  step: int
  arrays: dict[str, PyTree]
  crc32: dict[str, int]


def to_host(state: PyTree) -> HostState:
  """Most of the work of a save; needs no other process, and may be in a thread.

  Args:
    state: a `TrainState` with a leading device axis, as the train step returns
      it.
  """
  return on_host(devices.unreplicate(state))


def on_host(state: PyTree) -> HostState:
  """A `TrainState` that is on the host already, to be saved."""
  arrays = flax.serialization.to_state_dict(state)
  return HostState(int(state.step), arrays, _checksums(arrays))


def _checksums(arrays: PyTree) -> dict[str, int]:
  return {
    jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(value))
    for path, value in jax.tree_util.tree_leaves_with_path(arrays)
  }


class _KeepBest(ocp.checkpoint_managers.PreservationPolicy):
  """Keeps the best of the checkpoints by a history that is set from outside."""

  def __init__(self):
    self.history: History = []

  def should_preserve(self, checkpoints, *, context):
    del context
    best = best_step([info.step for info in checkpoints], self.history)
    return [info.step == best for info in checkpoints]


class Checkpointer:
  """Saves and restores one run's states; use it as a context manager.

  Leaving the context waits for saves that are under way.

  Args:
    directory: of the checkpoints, one folder a step.
    keep_last: how many of the newest to keep; the best is kept besides.
    keep_every_steps: checkpoints at its multiples are kept too; 0 = none.
    read_only: open without touching anything, for evaluation.
  """

  def __init__(
    self,
    directory: storage.Path,
    *,
    keep_last: int = 2,
    keep_every_steps: int = 0,
    read_only: bool = False,
  ):
    managers = ocp.checkpoint_managers

    self._keep_best = _KeepBest()
    policies = [managers.LatestN(keep_last), self._keep_best]
    if keep_every_steps:
      policies.append(managers.EveryNSteps(keep_every_steps))
    self._directory = directory
    self._failed = False
    self._manager = ocp.CheckpointManager(
      storage.absolute(directory),
      item_handlers={
        'state': ocp.PyTreeCheckpointHandler(),
        'meta': ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        step_format_fixed_length=9,
        cleanup_tmp_directories=not read_only,
        # Not the files of metrics that version 0.1 wrote.
        lightweight_initialize=True,
        read_only=read_only,
        create=not read_only,
        async_options=ocp.AsyncOptions(timeout_secs=_SAVE_SECS),
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    if self._failed:
      # Closing would raise the same error once more, or wait for processes
      # that wait for this one; those notice when it is gone.
      if jax.process_count() == 1:
        with contextlib.suppress(Exception):
          self._manager.close()
    else:
      with self._saving():
        self._manager.close()

  @property
  def steps(self) -> list[int]:
    """Steps that have a checkpoint, ascending; not verified."""
    return sorted(self._manager.all_steps())

  @property
  def best_step(self) -> int | None:
    """The step of highest holdout accuracy, None without any evaluation.

    By the newest history that is not damaged; those that are, are reported.

    Raises:
      ValueError: if there are checkpoints but all their histories are damaged.
    """
    steps = self.steps
    damaged = []
    for step in reversed(steps):
      try:
        history = self._read_record(step)['history']
      except ValueError as error:
        LOGGER.error('%s. Its evaluation does not count.', error)
        damaged.append(step)
        continue
      return best_step([s for s in steps if s not in damaged], history)
    if damaged:
      raise self._all_damaged(damaged)
    return None

  def save(self, state: HostState, *, history: History) -> int:
    """Starts saving a state; returns its step.

    Args:
      state: of `to_host`.
      history: one record per evaluation on the holdout so far: step, epoch and
        metrics. Stored beside the state; says which checkpoint is the best.
    """
    step, arrays = state.step, state.arrays
    history = list(history)  # written later, when the caller's may be longer
    record = {'step': step, 'history': history, 'crc32': state.crc32}
    self._keep_best.history = history
    with self._saving(), _in_turn:
      self._check_space(arrays)
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(arrays),
          meta=ocp.args.JsonSave(sealed(record)),
        ),
      )
      if devices.chosen() is not None:  # others may save at the same time
        self._manager.wait_until_finished()
    return step

  def wait(self):
    """Waits until the last save is on the disk; raises OSError if it failed."""
    with self._saving():
      self._manager.wait_until_finished()

  def _check_space(self, arrays: PyTree):
    """Raises OSError where a checkpoint cannot fit.

    A write that fails in the background leaves many processes waiting for one
    another.
    """
    if storage.is_remote(self._directory) or jax.process_index() > 0:
      return
    num_bytes = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(arrays))
    needed = 1.1 * num_bytes + _METADATA_BYTES
    if shutil.disk_usage(self._directory).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  @contextlib.contextmanager
  def _saving(self):
    """Says in one line why a save, possibly the one before, has failed."""
    try:
      yield
    except Exception as error:  # see `restore`
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      # TensorStore's reasons are long, and end with the system's.
      full = 'No space left on device', 'RESOURCE_EXHAUSTED'
      if any(words in str(error) for words in full):
        reason = 'No space left on device'
      self._failed = True
      raise OSError(
        f'A checkpoint could not be written to {self._directory}: '
        f'{reason[:300]}. Those before it are kept: mend the '
        f'{"access" if storage.is_remote(self._directory) else "disk"} and run '
        'the same command again to resume.'
      ) from error

  def resolve(self, step: str) -> int:
    """The number of the step that 'best', 'last' or a number asks for.

    Raises:
      FileNotFoundError: if there is no checkpoint, or not this one; lists those
        that are there.
      ValueError: if `step` is none of these, or nothing was evaluated.
    """
    steps, run = self.steps, self._directory.parent
    if not steps:
      raise FileNotFoundError(
        f'{run} has no checkpoints yet. Train first, with main.py.'
      )
    if step == 'last':
      return steps[-1]
    if step == 'best':
      best_step = self.best_step
      if best_step is None:
        raise ValueError(
          f'{run} has no best checkpoint, for it was trained without a '
          'holdout. Use --step=last.'
        )
      return best_step
    if not step.isdigit():
      raise ValueError(
        f"--step must be 'best', 'last' or a number; got {step!r}."
      )
    if int(step) not in steps:
      raise FileNotFoundError(
        f'{run} has no checkpoint of step {step}. It has: '
        f'{", ".join(map(str, steps))}.'
      )
    return int(step)

  def fingerprint(self, step: int) -> str:
    """Eight hexadecimal digits that tell a checkpoint from any other.

    Made of the stored checksums: no array is read.

    Raises:
      FileNotFoundError: if it was deleted since it was listed.
      DamagedCheckpointError: if the checkpoint's metadata cannot be read.
    """
    return fingerprint_of(self._read_record(step)['crc32'])

  def _read_record(self, step: int) -> dict[str, Any]:
    """Calls `stored.read_record`; names what is damaged or was deleted."""
    try:
      return read_record(self._path(step))
    except (OSError, ValueError) as error:
      raise self._unreadable(step, error) from error

  def _path(self, step: int) -> storage.Path:
    return self._directory / f'{step:09d}'

  def _unreadable(self, step: int, error: Exception) -> Exception:
    path = self._path(step)
    if not path.exists():
      return FileNotFoundError(
        f'Checkpoint {path} was deleted while it was read, for the run is still '
        'being trained and keeps its best and its newest only. Wait for its end'
        ', or train with --config.keep_every_epochs.'
      )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    # A bucket keeps objects whole or loses them. Whatever else fails is the way
    # to it, and must not make anybody delete what was saved.
    lost = isinstance(error, FileNotFoundError) or 'NOT_FOUND' in str(error)
    if storage.is_remote(path) and not lost:
      return OSError(
        f'checkpoint {path} cannot be read now: {reason}. It is kept: run the '
        'same command again.'
      )
    return DamagedCheckpointError(f'checkpoint {path} is damaged: {reason}')

  def restore(self, step: int) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Raises:
      FileNotFoundError: if it was deleted since it was listed.
      OSError: if a bucket does not answer.
      DamagedCheckpointError: a ValueError, if it is in any way; says how.
    """
    record = self._read_record(step)
    expected = record['crc32']
    try:
      tree = self._manager.item_metadata(step).state
      tree = getattr(tree, 'tree', tree)
      arrays = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeRestore(
            jax.tree.map(
              lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree
            ),
            restore_args=jax.tree.map(
              lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
            ),
          )
        ),
      ).state
      found = _checksums(arrays)
    except Exception as error:
      # Orbax raises bare Exception, ValueError, KeyError or JSONDecodeError
      # for truncated or missing files, so nothing narrower will do.
      raise self._unreadable(step, error) from error
    altered = [name for name, crc in expected.items() if found.get(name) != crc]
    if altered or len(found) != len(expected):
      raise DamagedCheckpointError(
        f'checkpoint {self._path(step)} is damaged: the bytes '
        f'of {(altered or ["some arrays"])[0]} are not those that were saved '
        '(CRC-32 differs)'
      )
    return Checkpoint(
      step=step,
      arrays=arrays,
      history=record['history'],
      fingerprint=fingerprint_of(expected),
    )

  def restore_last(self, *, final_step: int | None = None) -> Checkpoint | None:
    """The newest undamaged checkpoint, or None if there is none to go on from.

    Damaged ones are reported and, once an older one has been read, deleted, so
    that their steps can be saved again.

    Args:
      final_step: of the run. Where that is reached the best one is verified too,
        and if it is damaged training goes on from before it.

    Raises:
      OSError: if a bucket does not answer; nothing is deleted then.
      ValueError: if there are checkpoints but all of them are damaged.
    """
    checkpoint, damaged = self._newest_whole(first_says(self.steps))
    if damaged and checkpoint is None:
      raise self._all_damaged(damaged)
    for bad_step in damaged:
      LOGGER.error(
        'Using step %d instead of the damaged step %d.',
        checkpoint.step,
        bad_step,
      )
      self._manager.delete(bad_step)
    if checkpoint is not None and checkpoint.step == final_step:
      [best] = first_says([self.best_step or final_step])
      if best != final_step and self._restore_whole(best) is None:
        return self._go_back(best)
    return checkpoint

  def _restore_whole(self, step: int) -> Checkpoint | None:
    """A checkpoint; None, on all processes, if on one of them it is damaged."""
    checkpoint = None
    try:
      checkpoint = self.restore(step)
    except ValueError as error:
      LOGGER.error('%s', error)
    # All processes resume at one step, or they would wait for ever.
    return checkpoint if everywhere(checkpoint is not None) else None

  def _newest_whole(
    self, steps: Sequence[int]
  ) -> tuple[Checkpoint | None, list[int]]:
    """The newest undamaged checkpoint of these, and the damaged after it."""
    damaged = []
    for step in reversed(steps):
      checkpoint = self._restore_whole(step)
      if checkpoint is not None:
        return checkpoint, damaged
      damaged.append(step)
    return None, damaged

  def _go_back(self, step: int) -> Checkpoint | None:
    """The newest undamaged checkpoint before a step; deletes all after it."""
    steps = first_says(self.steps)
    checkpoint, _ = self._newest_whole([s for s in steps if s < step])
    before = 0 if checkpoint is None else checkpoint.step
    LOGGER.error(
      'The best checkpoint, of step %d, is damaged. Going back to step %d, which '
      'makes it again.',
      step,
      before,
    )
    # The last one first: a run without it is not over, whatever stops this.
    for other in reversed(steps):
      if other > before:
        self._manager.delete(other)
    return checkpoint

  def _all_damaged(self, steps: Sequence[int]) -> ValueError:
    return ValueError(
      f'All checkpoints in {self._directory} are damaged (steps {list(steps)}). '
      'Remove the directory to train from the start.'
    )


def open_checkpoints(run: RunDirectory) -> Checkpointer:
  """The checkpoints of a run, to be read; use it as a context manager.

  Raises:
    FileNotFoundError: if the run has none.
  """
  if not run.checkpoints_path.is_dir():
    raise FileNotFoundError(
      f'{run.path} has no checkpoints. Train first, with main.py.'
    )
  return Checkpointer(run.checkpoints_path, read_only=True)


def load_checkpoint(run: RunDirectory, step: str) -> Checkpoint:
  """Reads one checkpoint of a run.

  Args:
    run: the run directory.
    step: 'best', 'last' or a number.

  Raises:
    FileNotFoundError: if there are no checkpoints, or not this one; lists
      those that are there.
    ValueError: if `step` is none of these, or the checkpoint is damaged.
  """
  with open_checkpoints(run) as checkpointer:
    return checkpointer.restore(checkpointer.resolve(step))
