"""How often examples of one batch meet again in the next epoch, against chance.

A simulation of the order of streamed training data on the layout of ImageNet:
its files, cut into streams by the very function that training calls, and
shuffle buffers of tf.data's rule (a random place is emptied and filled again).
1 is what a permutation of the whole data set would give. Beside it the usual
pipeline: 16 files interleaved, one buffer of 256 MiB behind them.

  python -m benchmarks.shuffling
"""

import argparse
import itertools

import numpy as np

from lossbench.data import order

_RECORD_BYTES = 117_000  # of ImageNet, on average


def shuffled(
  streams: np.ndarray, buffer_size: int, rng: np.random.Generator
) -> np.ndarray:
  """Streams [S, n], each behind a shuffle buffer of its own."""
  num_streams, length = streams.shape
  buffer_size = min(buffer_size, length)
  rows, result = np.arange(num_streams), np.empty_like(streams)
  buffer = streams[:, :buffer_size].copy()
  for i in range(length - buffer_size):
    place = rng.integers(0, buffer_size, num_streams)
    result[:, i] = buffer[rows, place]
    buffer[rows, place] = streams[:, buffer_size + i]
  result[:, length - buffer_size :] = rng.permuted(buffer, axis=1)
  return result


def epoch_batches(
  sizes: np.ndarray, *, batch_size: int, window: int, seed: int, epoch: int
) -> np.ndarray:
  """The batch that every example is in, -1 for none, as training draws it.

  Args:
    sizes: examples of every file.
    batch_size: global.
    window: examples held back for shuffling, over all streams.
    seed: of the run.
    epoch: from 0.
  """
  num_streams = order.count_streams(num_files=len(sizes), batch_size=batch_size)
  per_stream = batch_size // num_streams
  stream_size = int(sizes.sum()) // batch_size * per_stream
  segments = order.epoch_segments(
    sizes,
    num_streams=num_streams,
    stream_size=stream_size,
    seed=seed,
    epoch=epoch,
  )
  begin = (np.cumsum(sizes) - sizes)[segments.file] + segments.first
  examples = np.concatenate(
    [
      np.arange(b, b + count)
      for b, count in zip(begin, segments.count, strict=True)
    ]
  )
  rng = np.random.default_rng([seed, epoch])
  streams = shuffled(
    examples.reshape(num_streams, stream_size), window // num_streams, rng
  )
  batch_of = np.full(int(sizes.sum()), -1)
  batch_of[streams] = np.arange(stream_size) // per_stream
  return batch_of


def usual_batches(
  sizes: np.ndarray,
  *,
  batch_size: int,
  window: int,
  seed: int,
  epoch: int,
  cycle: int = 16,
  block: int = 16,
) -> np.ndarray:
  """`epoch_batches` of files interleaved by blocks, then one buffer."""
  rng = np.random.default_rng([seed, epoch])
  starts = np.cumsum(sizes) - sizes
  waiting = iter(rng.permutation(len(sizes)))
  opened = [
    iter(range(starts[f], starts[f] + sizes[f]))
    for f in (next(waiting) for _ in range(min(cycle, len(sizes))))
  ]
  examples: list[int] = []
  while opened:
    for place, file in enumerate(opened):
      taken = [i for _, i in zip(range(block), file, strict=False)]
      examples += taken
      if len(taken) < block:
        following = next(waiting, None)
        opened[place] = (
          iter(())
          if following is None
          else iter(
            range(starts[following], starts[following] + sizes[following])
          )
        )
    if len(examples) == sizes.sum():
      break
  stream = shuffled(np.array([examples]), window, rng)[0]
  batch_of = np.full(int(sizes.sum()), -1)
  used = len(stream) // batch_size * batch_size
  batch_of[stream[:used]] = np.arange(used) // batch_size
  return batch_of


def meeting_ratio(one: np.ndarray, other: np.ndarray) -> float:
  """Pairs that share a batch in both epochs, over those expected by chance.

  Args:
    one: [N] the batch of every example in an epoch, -1 for none.
    other: [N] likewise of another epoch.
  """
  both = (one >= 0) & (other >= 0)
  one, other = one[both], other[both]

  def num_pairs(labels):
    counts = np.bincount(labels).astype(float)
    return (counts * (counts - 1)).sum() / 2

  total = len(one) * (len(one) - 1) / 2
  met_twice = num_pairs(one * (other.max() + 1) + other)
  return met_twice / (num_pairs(one) * num_pairs(other) / total)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--num_examples', type=int, default=1_281_167)
  parser.add_argument('--num_files', type=int, default=1024)
  parser.add_argument('--batch_size', type=int, default=4096)
  parser.add_argument('--num_epochs', type=int, default=4)
  args = parser.parse_args()
  sizes = np.full(args.num_files, args.num_examples // args.num_files)
  sizes[: args.num_examples - sizes.sum()] += 1

  print('| order | window | meets again / chance |')
  print('|---|---:|---:|')
  for name, batches_fn, gibs in [
    ('16 files interleaved, one buffer', usual_batches, [0.25]),
    ('streams', epoch_batches, [0.25, 1, 2, 4, 8]),
  ]:
    for gib in gibs:
      window = int(gib * 2**30 / _RECORD_BYTES)
      epochs = [
        batches_fn(
          sizes, batch_size=args.batch_size, window=window, seed=0, epoch=epoch
        )
        for epoch in range(args.num_epochs)
      ]
      ratios = [
        meeting_ratio(one, other) for one, other in itertools.pairwise(epochs)
      ]
      print(f'| {name} | {gib} GiB | {np.mean(ratios):.3f} |', flush=True)


if __name__ == '__main__':
  main()
