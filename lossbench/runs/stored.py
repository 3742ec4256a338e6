"""Which checkpoint 'best', 'last' or a number means, from small files alone.

For those who ask of many runs, or beside a process that has the accelerators:
opening Orbax's manager takes hold of them. `Checkpointer` answers alike.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lossbench.runs.directory import RunDirectory, parse_json
from lossbench.runtime import storage

# The measure of the best checkpoint.
BEST_METRIC = 'top1_accuracy'


class StoredCheckpoint(NamedTuple):
  """What tells a checkpoint from any other.

  Attributes:
    step: optimiser steps taken.
    fingerprint: eight hexadecimal digits, of the checksums of its arrays.
  """

  step: int
  fingerprint: str


def fingerprint_of(checksums: Mapping[str, int]) -> str:
  """Eight hexadecimal digits that tell arrays from any others."""
  text = json.dumps(dict(checksums), sort_keys=True)
  return f'{zlib.crc32(text.encode()):08x}'


def find_checkpoint(run: RunDirectory, step: str) -> StoredCheckpoint | None:
  """The checkpoint that `step` means; None if there is none or it is damaged.

  Args:
    run: the run directory.
    step: 'best' by holdout accuracy, of equals the latest; 'last'; or a number.
  """
  steps = run.committed_steps
  if step == 'best':
    number = _best_stored_step(run, steps)
  elif step == 'last':
    number = max(steps, default=None)
  else:
    number = int(step) if step.isdigit() else None
  record = None if number is None else _whole_record(run, number)
  if record is None:
    return None
  return StoredCheckpoint(number, fingerprint_of(record['crc32']))


def read_record(path: storage.Path) -> dict[str, Any]:
  """What lies beside a checkpoint's arrays, verified.

  Args:
    path: of the checkpoint.

  Returns:
    'history', one record per evaluation on the holdout so far; 'crc32', the
    checksum of every array; 'step'.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is not what was saved.
  """
  record = parse_json((path / 'meta' / 'metadata').read_bytes())
  kinds = {'crc32': dict, 'history': list}
  if not isinstance(record, dict) or not all(
    isinstance(record.get(name), kind) for name, kind in kinds.items()
  ):
    raise ValueError('it has no history or no checksums')
  return record


def best_step(
  steps: Sequence[int], history: Sequence[Mapping[str, float]]
) -> int | None:
  """The step of highest holdout accuracy, of equals the latest; or None.

  Of a network that was imported, which took no step here, its only one.

  Args:
    steps: to choose from.
    history: one record per evaluation.
  """
  scores = {
    record['step']: record[BEST_METRIC]
    for record in history
    if record['step'] in steps and math.isfinite(record[BEST_METRIC])
  }
  only = 0 if list(steps) == [0] else None
  return max(scores, key=lambda step: (scores[step], step), default=only)


def _whole_record(run: RunDirectory, step: int) -> dict[str, Any] | None:
  """The record of a checkpoint; None where it is damaged."""
  try:
    return read_record(run.checkpoints_path / f'{step:09d}')
  except (OSError, ValueError):
    return None


def _best_stored_step(run: RunDirectory, steps: Sequence[int]) -> int | None:
  # The newest checkpoint knows the evaluations of all before it; a damaged one
  # is none to choose.
  while steps:
    record = _whole_record(run, steps[-1])
    if record is not None:
      return best_step(steps, record['history'])
    steps = steps[:-1]
  return None
