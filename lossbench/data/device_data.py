"""A whole small data set in device memory, and the order to draw it in.

For data that fit (digits, CIFAR) a step sends only a batch of indices to the
devices; images are gathered, augmented and normalised there.
"""

import functools
from collections.abc import Iterator

import numpy as np

from lossbench.data.order import epoch_seed


@functools.lru_cache(maxsize=2)
def permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  """The order of an epoch, int32 [num_examples]; a function of its arguments."""
  generator = np.random.Generator(np.random.PCG64(epoch_seed(seed, epoch)))
  return generator.permutation(num_examples).astype(np.int32)


def index_batches(
  *,
  num_examples: int,
  batch_size: int,
  seed: int,
  start_step: int,
  num_steps: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Indices of this process's examples for steps start_step .. num_steps - 1.

  Every epoch is a new permutation, a function of (seed, epoch) alone: the
  global batch of a step is the same on any number of processes. Examples that
  do not fill an epoch's last batch are left out of that epoch.

  Args:
    num_examples: in the data set.
    batch_size: global, divisible by `process_count`.
    seed: of the order.
    start_step: first step to yield.
    num_steps: of the whole run.
    process_index: of this process.
    process_count: of the run.

  Yields:
    index int32 [batch_size / process_count].

  Raises:
    ValueError: if the examples cannot fill one batch.
  """
  steps_per_epoch = num_examples // batch_size
  if steps_per_epoch == 0:
    raise ValueError(
      f'{num_examples} examples cannot fill one batch of {batch_size}. Lower '
      '--config.batch_size.'
    )
  local_size = batch_size // process_count
  for step in range(start_step, num_steps):
    epoch, offset = divmod(step, steps_per_epoch)
    order = permutation(num_examples, seed, epoch)
    first = offset * batch_size + process_index * local_size
    yield {'index': order[first : first + local_size]}
