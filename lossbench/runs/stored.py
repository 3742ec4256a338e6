"""Which checkpoint 'best', 'last' or a number means, from small files alone.

For those who ask of many runs, or beside a process that has the accelerators:
opening Orbax's manager takes hold of them. `Checkpointer` answers alike.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lossbench.runs.directory import RunDirectory, read_json

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
  steps = _steps(run)
  if step == 'best':
    number = _best_step(run, steps)
  elif step == 'last':
    number = max(steps, default=None)
  else:
    number = int(step) if step.isdigit() else None
  meta = None if number is None else _read_meta(run, number)
  if meta is None:
    return None
  return StoredCheckpoint(number, fingerprint_of(meta['crc32']))


def _steps(run: RunDirectory) -> list[int]:
  if not run.checkpoints_path.is_dir():
    return []
  names = [path.name for path in run.checkpoints_path.iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


def _read_meta(run: RunDirectory, step: int) -> dict[str, Any] | None:
  """What is stored beside the arrays; None where it is damaged."""
  path = run.checkpoints_path / f'{step:09d}' / 'meta' / 'metadata'
  try:
    meta = read_json(path)
  except (OSError, ValueError):
    return None
  kinds = {'crc32': dict, 'history': list}
  whole = isinstance(meta, dict) and all(
    isinstance(meta.get(name), kind) for name, kind in kinds.items()
  )
  return meta if whole else None


def _best_step(run: RunDirectory, steps: Sequence[int]) -> int | None:
  # The newest checkpoint knows the evaluations of all before it.
  metas = (_read_meta(run, step) for step in reversed(steps))
  newest = next(filter(None, metas), {'history': []})
  scores = {
    record['step']: record[BEST_METRIC]
    for record in newest['history']
    if record['step'] in steps and math.isfinite(record[BEST_METRIC])
  }
  return max(scores, key=lambda step: (scores[step], step), default=None)
