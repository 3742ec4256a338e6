"""Indices of resident data: one permutation an epoch, whoever asks."""

import itertools

import numpy as np
import pytest

from lossbench.data import device_data

NUM_EXAMPLES, BATCH_SIZE = 53, 12
STEPS_PER_EPOCH = 4  # and 5 examples left over
NUM_STEPS = 10


def _indices(**kwargs):
  defaults = dict(
    num_examples=NUM_EXAMPLES,
    batch_size=BATCH_SIZE,
    seed=3,
    start_step=0,
    num_steps=NUM_STEPS,
  )
  batches = device_data.index_batches(**defaults | kwargs)
  return np.array([batch['index'] for batch in batches])


def test_shape_and_type():
  indices = _indices()
  assert indices.shape == (NUM_STEPS, BATCH_SIZE)
  assert indices.dtype == np.int32
  assert indices.min() >= 0
  assert indices.max() < NUM_EXAMPLES


def test_an_epoch_repeats_nothing():
  indices = _indices()
  for first in (0, 4):
    assert len(np.unique(indices[first : first + STEPS_PER_EPOCH])) == 48


def test_full_batches_visit_everything_each_epoch():
  indices = _indices(num_examples=48, num_steps=8)
  for epoch in indices.reshape(2, 48):
    assert sorted(epoch) == list(range(48))


def test_leftovers_differ_from_epoch_to_epoch():
  indices = _indices(num_steps=40 * STEPS_PER_EPOCH)
  counts = np.bincount(indices.ravel(), minlength=NUM_EXAMPLES)
  # 40 epochs, each leaving out 5 of 53: nobody is left out of even half.
  assert counts.min() > 20
  assert counts.max() <= 40


def test_seeds_and_epochs_differ():
  first, second = _indices()[:4], _indices()[4:8]
  other = _indices(seed=4)[:4]
  for one, two in itertools.combinations([first, second, other], 2):
    assert (one != two).mean() > 0.8


@pytest.mark.parametrize('start_step', [1, 3, 4, 5, 8, 9, NUM_STEPS])
def test_restart_continues_the_stream(start_step):
  np.testing.assert_array_equal(
    _indices(start_step=start_step).reshape(-1, BATCH_SIZE),
    _indices()[start_step:],
  )


def test_a_longer_run_begins_like_a_shorter_one():
  np.testing.assert_array_equal(_indices(num_steps=30)[:NUM_STEPS], _indices())


@pytest.mark.parametrize('process_count', [2, 3, 4, 12])
def test_processes_share_out_the_single_process_batch(process_count):
  shards = [
    _indices(process_index=index, process_count=process_count)
    for index in range(process_count)
  ]
  np.testing.assert_array_equal(np.concatenate(shards, axis=1), _indices())


def test_too_few_examples_for_a_batch():
  with pytest.raises(ValueError, match=r'11 examples cannot fill .* of 12'):
    _indices(num_examples=11)
