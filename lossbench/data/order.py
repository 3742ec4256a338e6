"""Where the order of training data comes from: (seed, epoch) and nothing else.

Streamed data come from files that are read from front to back, so an epoch is
cut into streams, which are read side by side and shuffled each for itself; a
batch takes as many examples from one as from another. All of it is independent
of who reads: processes share the places of a batch out between them.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# So many files are read at once, over all processes. More mix better for the
# same window, but each begins somewhere within a file.
MAX_STREAMS = 128


def epoch_seed(seed: int, epoch: int) -> int:
  """A well-mixed seed in [0, 2^31) for the order of one epoch."""
  return int(_words(seed, epoch, 1)[0])


def stream_seeds(seed: int, epoch: int, *, num_streams: int) -> np.ndarray:
  """Seeds in [0, 2^31) of the streams of an epoch, int64 [num_streams]."""
  return _words(seed, epoch, num_streams + 1)[1:]


def _words(seed, epoch, count):
  words = np.random.SeedSequence([seed, epoch]).generate_state(count)
  return (words >> 1).astype(np.int64)


def count_streams(*, num_files: int, batch_size: int) -> int:
  """The number of streams an epoch is cut into: the most that divide a batch.

  Not above `MAX_STREAMS` nor the number of files, as a stream that began in the
  middle of a file would read the part before it in vain.
  """
  limit = min(MAX_STREAMS, num_files, batch_size)
  return max(n for n in range(1, limit + 1) if batch_size % n == 0)


class Segments(NamedTuple):
  """Parts of files that streams read one after another.

  Attributes:
    file: [S] int64, the position of the file.
    first: [S] int64, its first example that is read.
    count: [S] int64, how many are read.
    splits: [streams + 1] int64; stream i is splits[i] .. splits[i + 1] - 1.
  """

  file: np.ndarray
  first: np.ndarray
  count: np.ndarray
  splits: np.ndarray


def epoch_segments(
  sizes: Sequence[int],
  *,
  num_streams: int,
  stream_size: int,
  seed: int,
  epoch: int,
) -> Segments:
  """Cuts the files of an epoch, in random order, into streams of equal length.

  What is left of the last files is not read in this epoch. As streams are cut
  without regard to where files end, they come to the ends of their files at
  different times, so that examples of equal position in two files do not meet
  in every epoch.

  Args:
    sizes: examples of every file.
    num_streams: into how many.
    stream_size: examples of each, together at most the sum of `sizes`.
    seed: of the run.
    epoch: from 0.
  """
  sizes = np.asarray(sizes, np.int64)
  if num_streams * stream_size > sizes.sum():
    raise ValueError(
      f'{sizes.sum()} examples are too few for {num_streams} streams of '
      f'{stream_size}.'
    )
  generator = np.random.Generator(np.random.PCG64(epoch_seed(seed, epoch)))
  order = generator.permutation(len(sizes))
  ends = np.cumsum(sizes[order])
  starts = ends - sizes[order]
  cuts = np.arange(num_streams + 1) * stream_size
  file, first, count, splits = [], [], [], [0]
  for low, high in itertools.pairwise(cuts):
    part = slice(
      np.searchsorted(ends, low, 'right'), np.searchsorted(starts, high, 'left')
    )
    begin = np.maximum(starts[part], low)
    file.append(order[part])
    first.append(begin - starts[part])
    count.append(np.minimum(ends[part], high) - begin)
    splits.append(splits[-1] + len(begin))
  return Segments(
    *(np.concatenate(parts).astype(np.int64) for parts in (file, first, count)),
    splits=np.array(splits, np.int64),
  )


class Share(NamedTuple):
  """What one process contributes to every batch.

  Attributes:
    streams: [n], those that it reads.
    low: [n] int64, the first of a stream's examples of a batch that it takes.
    high: [n] int64, and the one behind the last.
  """

  streams: np.ndarray
  low: np.ndarray
  high: np.ndarray


def process_share(
  *, batch_size: int, num_streams: int, process_index: int, process_count: int
) -> Share:
  """The streams, or parts of them, that lie in a process's part of a batch.

  Example i of stream s stands at place s * batch_size / num_streams + i of the
  batch; processes have consecutive places. Where one stream serves several
  processes, each reads it and leaves the others' examples undecoded.

  Args:
    batch_size: global; divisible by the numbers of streams and of processes.
    num_streams: of `count_streams`.
    process_index: of this process.
    process_count: of the run.
  """
  per_stream = batch_size // num_streams
  local_size = batch_size // process_count
  begin = process_index * local_size
  streams = np.arange(
    begin // per_stream, -(-(begin + local_size) // per_stream)
  )
  offset = begin - streams * per_stream
  return Share(
    streams=streams,
    low=np.maximum(offset, 0),
    high=np.minimum(offset + local_size, per_stream),
  )
