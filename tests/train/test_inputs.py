"""Batches on their way to the step: from the stream, resident, prefetched."""

import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_cnn
from lossbench.data import datasets
from lossbench.data.examples import Examples
from lossbench.train.inputs import (
  build_input_fn,
  build_train_inputs,
  prefetch_to_devices,
)

SPLIT = 'train[:128]'
BATCH_SIZE = 32
STEPS_PER_EPOCH = 4


@pytest.fixture(scope='module')
def builder(digits_dir):
  return datasets.open_dataset('digits', data_dir=digits_dir)


class _Inputs:
  """The inputs of a configuration and what the step does to them."""

  def __init__(self, builder, **overrides):
    config = digits_cnn.get_config()
    config.batch_size = BATCH_SIZE
    config.update(overrides)
    inputs = build_train_inputs(config, Examples(builder, SPLIT))
    self.num_examples, self.data = inputs.num_examples, inputs.data
    self.batches_fn = inputs.batches_fn
    self.input_fn = build_input_fn(config)


def _images_and_labels(inputs, *, num_steps, start_step=0):
  """What the step sees: normalised images and labels of every step."""
  data = jax.tree.map(lambda copies: copies[0], inputs.data)
  seen = []
  for step, batch in enumerate(
    inputs.batches_fn(start_step, num_steps), start=start_step
  ):
    key = jax.random.fold_in(jax.random.key(0), step)
    batch = jax.tree.map(jnp.asarray, batch)
    images, labels = inputs.input_fn(batch, data, key, jnp.arange(BATCH_SIZE))
    seen.append((np.asarray(images), np.asarray(labels)))
  return seen


def _multiset(seen):
  return sorted(
    (image.tobytes(), int(label))
    for images, labels in seen
    for image, label in zip(images, labels, strict=True)
  )


@pytest.fixture(scope='module')
def plain(builder):
  """The two ways to the same data, without augmentation."""
  return {
    on_device: _Inputs(builder, data_on_device=on_device, crop_padding=0)
    for on_device in (False, True)
  }


def test_both_ways_know_their_size(plain):
  assert plain[False].num_examples == plain[True].num_examples == 128
  assert plain[False].data is None
  assert plain[True].data['image'].shape == (4, 128, 8, 8, 1)
  assert plain[True].data['image'].dtype == jnp.uint8


def test_streamed_and_resident_epochs_hold_the_same_images(plain):
  streamed, resident = (
    _images_and_labels(plain[on_device], num_steps=STEPS_PER_EPOCH)
    for on_device in (False, True)
  )
  for images, labels in streamed + resident:
    assert images.shape == (BATCH_SIZE, 8, 8, 1)
    assert images.dtype == np.float32
    assert labels.shape == (BATCH_SIZE,)
    assert labels.dtype == np.int32
  assert _multiset(streamed) == _multiset(resident)
  # Normalised: grey levels are (x / 255 - 0.3) / 0.37.
  everything = np.concatenate([images for images, _ in streamed])
  np.testing.assert_allclose(everything.min(), -0.3 / 0.37, rtol=1e-5)
  np.testing.assert_allclose(everything.max(), 0.7 / 0.37, rtol=1e-5)


@pytest.mark.parametrize('on_device', [False, True])
def test_restart_continues_the_stream(plain, on_device):
  whole = _images_and_labels(plain[on_device], num_steps=6)
  resumed = _images_and_labels(plain[on_device], num_steps=6, start_step=3)
  assert len(resumed) == 3
  for (images, labels), (again, labels_again) in zip(
    whole[3:], resumed, strict=True
  ):
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize(
  'augmentation', [{'crop_padding': 2}, {'random_flip': True}]
)
def test_augmentation_is_on_both_ways(builder, plain, on_device, augmentation):
  inputs = _Inputs(
    builder,
    **{'crop_padding': 0, 'data_on_device': on_device} | augmentation,
  )
  ((images, labels),) = _images_and_labels(inputs, num_steps=1)
  ((original, same_labels),) = _images_and_labels(plain[on_device], num_steps=1)
  np.testing.assert_array_equal(labels, same_labels)
  changed = (images != original).any(axis=(1, 2, 3))
  if 'random_flip' in augmentation:
    assert 4 < changed.sum() < 28  # half of 32; digits are not symmetric
    np.testing.assert_array_equal(images[changed], original[changed, :, ::-1])
  else:
    assert changed.sum() > 24  # 24 of 25 crops
    # Padded before normalisation: black, like the paper of the digits.
    np.testing.assert_allclose(images.min(), -0.3 / 0.37, rtol=1e-5)


@pytest.mark.parametrize('on_device', [False, True])
def test_labels_outside_the_classes_never_reach_the_step(builder, on_device):
  def first_epoch():
    inputs = _Inputs(builder, data_on_device=on_device, num_classes=9)
    return list(inputs.batches_fn(0, STEPS_PER_EPOCH))

  with pytest.raises(ValueError, match=r'has label 9, outside \[0, 9\)'):
    first_epoch()


# Prefetching.


def _numbered(count):
  for i in range(count):
    yield {'image': np.full((8, 2), i, np.uint8), 'label': np.arange(8) + i}


def test_prefetch_keeps_order_and_splits_over_devices():
  assert jax.local_device_count() == 4
  batches = list(prefetch_to_devices(_numbered(7)))
  assert len(batches) == 7
  for i, batch in enumerate(batches):
    assert batch['image'].shape == (4, 2, 2)
    assert batch['image'].dtype == jnp.uint8
    assert len(batch['label'].sharding.device_set) == 4
    for shard in batch['label'].addressable_shards:
      assert shard.data.shape == (1, 2)
    np.testing.assert_array_equal(
      batch['label'], (np.arange(8) + i).reshape(4, 2)
    )


def test_prefetched_batches_are_what_pmap_takes():
  total = jax.pmap(lambda batch: jax.lax.psum(batch['label'].sum(), 'batch'),
                   axis_name='batch')  # fmt: skip
  sums = [int(total(b)[0]) for b in prefetch_to_devices(_numbered(3))]
  assert sums == [28, 36, 44]


@pytest.mark.parametrize('count', [0, 1, 2])
def test_prefetch_of_fewer_batches_than_it_holds(count):
  assert len(list(prefetch_to_devices(_numbered(count)))) == count


def test_prefetch_is_ahead_of_its_use_but_not_far():
  produced = []

  def batches():
    for i, batch in enumerate(_numbered(100)):
      produced.append(i)
      yield batch

  ahead = prefetch_to_devices(batches())
  next(ahead)
  ahead.close()
  assert 1 <= len(produced) <= 4


@pytest.mark.parametrize('good', [0, 1, 5])
def test_errors_of_the_reader_surface_after_the_good_batches(good):
  def batches():
    yield from _numbered(good)
    raise OSError('disk gone')

  ahead = prefetch_to_devices(batches())
  assert len(list(itertools.islice(ahead, good))) == good
  with pytest.raises(OSError, match='disk gone'):
    next(ahead)


def test_stopping_early_leaves_no_thread_behind():
  before = threading.active_count()
  endless = ({'label': np.arange(8)} for _ in itertools.count())
  for _, _batch in zip(range(3), prefetch_to_devices(endless), strict=False):
    pass
  ahead = prefetch_to_devices(endless)
  next(ahead)
  ahead.close()
  assert threading.active_count() <= before


def test_an_error_of_the_consumer_does_not_hang():
  def consume():
    for _ in prefetch_to_devices(_numbered(100)):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    consume()
