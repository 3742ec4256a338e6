"""Seeds and streams of epochs: fixed for all time, nothing lost or twice."""

import numpy as np
import pytest

from benchmarks import shuffling
from configs import imagenet_resnet50
from lossbench.data import order
from lossbench.data.order import epoch_seed


def test_is_numpys_seed_sequence():
  """From NumPy's documented SeedSequence, so never to change by accident."""
  for seed, epoch in [(0, 0), (0, 1), (7, 300), (2**40, 2)]:
    word = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
    assert epoch_seed(seed, epoch) == int(word) // 2


def test_fits_signed_seeds_of_tensorflow():
  seeds = [epoch_seed(seed, 3) for seed in range(2000)]
  assert min(seeds) >= 0
  assert max(seeds) < 2**31
  assert max(seeds) > 2**30  # the top bit is in use


def test_no_two_epochs_share_an_order():
  """Not even across seeds, as seed + epoch would."""
  seeds = {epoch_seed(s, epoch) for s in range(50) for epoch in range(50)}
  assert len(seeds) == 2500


def test_seeds_of_streams_differ_from_one_another_and_the_epochs():
  seeds = [
    seed
    for epoch in range(20)
    for seed in (
      epoch_seed(3, epoch),
      *order.stream_seeds(3, epoch, num_streams=50),
    )
  ]
  assert len(set(seeds)) == len(seeds)
  assert min(seeds) >= 0
  assert max(seeds) < 2**31


@pytest.mark.parametrize(
  ('num_files', 'batch_size', 'expected'),
  # ImageNet; one file; a batch whose divisors are few; files fewer than those.
  [
    (1024, 4096, 128),
    (1, 128, 1),
    (1000, 254, 127),
    (1000, 127, 127),
    (7, 20, 5),
    (3, 1, 1),
  ],
)
def test_streams_are_as_many_as_divide_the_batch(
  num_files, batch_size, expected
):
  found = order.count_streams(num_files=num_files, batch_size=batch_size)
  assert found == expected


@pytest.mark.parametrize('stream_size', [1, 7, 12])
def test_streams_have_one_length_and_share_nothing(stream_size):
  sizes = [5, 0, 9, 30, 1, 6]
  segments = order.epoch_segments(
    sizes, num_streams=4, stream_size=stream_size, seed=1, epoch=2
  )
  read = []
  for begin, end in zip(segments.splits[:-1], segments.splits[1:], strict=True):
    parts = zip(
      segments.file[begin:end],
      segments.first[begin:end],
      segments.count[begin:end],
      strict=True,
    )
    stream = [
      (file, first + i) for file, first, count in parts for i in range(count)
    ]
    assert len(stream) == stream_size
    read += stream
  assert len(set(read)) == 4 * stream_size
  assert all(position < sizes[file] for file, position in read)


def test_every_epoch_has_its_own_order_of_files():
  orders = {
    tuple(
      order.epoch_segments(
        [4] * 12, num_streams=2, stream_size=24, seed=0, epoch=epoch
      ).file
    )
    for epoch in range(20)
  }
  assert len(orders) == 20


def test_more_than_there_is_cannot_be_read():
  with pytest.raises(ValueError, match='10 examples are too few for 2'):
    order.epoch_segments([4, 6], num_streams=2, stream_size=6, seed=0, epoch=0)


@pytest.mark.parametrize(
  ('batch_size', 'num_streams', 'process_count'),
  [(12, 4, 1), (12, 4, 2), (12, 4, 3), (12, 2, 6), (12, 1, 12), (12, 12, 4)],
)
def test_processes_have_consecutive_places_of_a_batch(
  batch_size, num_streams, process_count
):
  per_stream = batch_size // num_streams
  places = []
  for index in range(process_count):
    share = order.process_share(
      batch_size=batch_size,
      num_streams=num_streams,
      process_index=index,
      process_count=process_count,
    )
    mine = [
      stream * per_stream + place
      for stream, low, high in zip(*share, strict=True)
      for place in range(low, high)
    ]
    assert len(mine) == batch_size // process_count
    places += mine
  assert places == list(range(batch_size))


def test_batch_mates_meet_again_as_often_as_chance_has_it():
  """On ImageNet's files with the recipe's window; behind one buffer, 8 times."""
  config = imagenet_resnet50.get_config()
  sizes = np.full(1024, 1251)
  epochs = [
    shuffling.epoch_batches(
      sizes,
      batch_size=config.batch_size,
      window=int(config.shuffle_gib * 2**30 / 117_000),
      seed=0,
      epoch=epoch,
    )
    for epoch in (0, 1)
  ]
  assert 0.95 < shuffling.meeting_ratio(*epochs) < 1.1


def test_the_ratio_is_one_of_permutations_and_large_of_one_order():
  rng = np.random.default_rng(0)
  batches = np.arange(4000) // 100
  assert shuffling.meeting_ratio(batches, batches) == pytest.approx(
    4000 * 3999 / (4000 * 99)
  )
  chance = [
    shuffling.meeting_ratio(batches, rng.permutation(batches))
    for _ in range(10)
  ]
  assert np.mean(chance) == pytest.approx(1, abs=0.02)
