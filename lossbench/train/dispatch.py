"""How many steps the devices are given at once, and the batches of these steps.

Where the training data live on the devices a step needs nothing of the host but
a few indices, so that one call may take several. How many changes no number:
it is data of one program.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lossbench.runtime import devices
from lossbench.train.inputs import TrainInputs, prefetch_to_devices
from lossbench.train.plan import Plan

# More of them save less than a hundredth of the dispatch of one.
_MAX_STEPS = 16
# Signals, stalls and progress are looked at between calls.
_MAX_SECS = 0.5


class Dispatch(NamedTuple):
  """What a call of the compiled step takes besides state, data and numbers.

  Attributes:
    batch: on the devices, [devices, ...]; of several steps [devices, steps,
      ...].
    count: () if the program takes one step, else how many of them to take.
  """

  batch: dict[str, Any]
  count: tuple[np.int32, ...]


class Pace:
  """How many steps to dispatch at once, by how long they take.

  All processes of a run must say the same, so that only a single one looks at
  its clock.

  Args:
    plan: of the run; nothing is dispatched across a step after which something
      is written.
    fixed: how many, or 0 for as many as take half a second.
    one_by_one: whether a call takes one step, because its batch is streamed or
      because a profile counts them.
  """

  def __init__(self, plan: Plan, *, fixed: int, one_by_one: bool):
    self._plan = plan
    self._most = 1 if one_by_one else max_steps(fixed)
    self._measured = not fixed and jax.process_count() == 1
    self._now = 1 if self._measured else self._most

  def observe(self, steps_per_sec: float):
    """Takes note of how fast steps are."""
    if self._measured:
      self._now = int(np.clip(_MAX_SECS * steps_per_sec, 1, self._most))

  def last_step(self, step: int) -> int:
    """The last of the steps to dispatch after this one."""
    ahead = range(step + 1, min(step + self._now, self._plan.num_steps))
    stops = (s for s in ahead if self._plan.should_stop(s))
    return next(stops, min(step + self._now, self._plan.num_steps))


def max_steps(fixed: int) -> int:
  """Steps that one program can take, from --config.steps_per_dispatch."""
  return fixed or _MAX_STEPS


class Batches:
  """The batches of a run from a step on, in the order of the steps.

  Args:
    inputs: of the run.
    start_step: steps taken before.
    num_steps: of the whole run.
    size: steps that one call of the program can take; 0 for a program of one
      step.
  """

  def __init__(
    self, inputs: TrainInputs, start_step: int, num_steps: int, *, size: int
  ):
    batches = inputs.batches_fn(start_step, num_steps)
    self._size = size
    self._batches: Iterator[Any] = (
      batches if size else prefetch_to_devices(batches)
    )

  def take(self, count: int) -> Dispatch:
    """The next batches.

    Args:
      count: of steps, at most `size`; 1 if that is 0.
    """
    if not self._size:
      return Dispatch(next(self._batches), ())
    taken = list(itertools.islice(self._batches, count))
    # What is beyond `count` is never looked at.
    taken += taken[-1:] * (self._size - count)
    batch = {
      name: devices.shard_steps(np.stack([batch[name] for batch in taken]))
      for name in taken[0]
    }
    return Dispatch(batch, (np.int32(count),))
