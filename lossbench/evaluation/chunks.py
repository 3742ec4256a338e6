"""Rows in chunks of one length, so that one compiled program serves all."""

from collections.abc import Iterator

import numpy as np

_SIZE = 4096  # examples whose probabilities are on the device at once
_MAX_BYTES = 2**26  # of a chunk, where examples are large


def split(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
  """Chunks of arrays [N, ...] of equal length, each with its mask [B].

  What is indexed like an array is one, also where its rows are on a disk.
  The last is filled up with copies of its first row, which is no NaN that was
  not there before; its mask is 0 there.
  """
  num_rows = len(arrays[0])
  row_bytes = sum(array[0].nbytes for array in arrays)
  size = min(_SIZE, num_rows, max(1, _MAX_BYTES // max(1, row_bytes)))
  for first in range(0, num_rows, size):
    parts = [array[first : first + size] for array in arrays]
    short = size - len(parts[0])
    mask = np.arange(size) < size - short
    yield *[np.concatenate([p, p[:1].repeat(short, 0)]) for p in parts], mask
