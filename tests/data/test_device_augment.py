"""Augmentation on the devices: what can come out, how often, from which key."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.data import device_augment

# One compiled program per test, instead of one per primitive.
_augment = jax.jit(
  device_augment.pad_crop_flip, static_argnames=('pad', 'flip')
)
_normalize = jax.jit(
  device_augment.normalize,
  static_argnames=('mean', 'std', 'downscale', 'dtype'),
)


def _images(num, side=4, channels=3, seed=0):
  generator = np.random.default_rng(seed)
  # No zeros, so that padding can be told from pixels.
  return generator.integers(1, 256, (num, side, side, channels), np.uint8)


def _possible(image, *, pad, flip):
  """Every possible result, as bytes."""
  side = image.shape[0]
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  offsets = range(2 * pad + 1)
  results = [
    padded[y : y + side, x : x + side] for y in offsets for x in offsets
  ]
  if flip:
    results += [result[:, ::-1] for result in results]
  return {result.tobytes() for result in results}


@pytest.mark.parametrize(('pad', 'flip'), [(0, True), (1, False), (2, True)])
def test_every_crop_and_mirror_image_is_equally_likely(pad, flip):
  image = _images(1)[0]
  num = 200 * (2 * pad + 1) ** 2 * (1 + flip)
  results = _augment(
    np.broadcast_to(image, (num, *image.shape)),
    jax.random.key(0),
    np.arange(num),
    pad=pad,
    flip=flip,
  )
  counts = collections.Counter(result.tobytes() for result in np.array(results))
  assert set(counts) == _possible(image, pad=pad, flip=flip)
  # 200 expected each; six standard deviations.
  assert all(abs(count - 200) < 6 * 200**0.5 for count in counts.values())


def test_an_example_depends_on_its_id_alone():
  images, key = _images(8), jax.random.key(3)
  ids = np.arange(8) + 100
  whole = _augment(images, key, ids)
  order = np.array([5, 2, 7])
  part = _augment(images[order], key, ids[order])
  np.testing.assert_array_equal(part, whole[order])


def test_devices_do_not_change_the_result():
  num_devices = jax.local_device_count()
  images, ids = (
    _images(2 * num_devices),
    np.arange(2 * num_devices),
  )
  key = jax.random.key(1)
  whole = _augment(images, key, ids)
  split = jax.pmap(device_augment.pad_crop_flip, in_axes=(0, None, 0))(
    images.reshape(num_devices, 2, *images.shape[1:]),
    key,
    ids.reshape(num_devices, 2),
  )
  np.testing.assert_array_equal(np.reshape(split, whole.shape), whole)


def test_another_step_is_another_augmentation():
  images, ids = _images(32), np.arange(32)
  key = jax.random.key(0)
  first, second = (
    _augment(images, jax.random.fold_in(key, step), ids) for step in range(2)
  )
  assert (np.array(first) != np.array(second)).any(axis=(1, 2, 3)).sum() > 24


def test_keeps_type_and_shape():
  images = _images(8, channels=1)
  result = _augment(images, jax.random.key(0), np.arange(8), pad=1, flip=False)
  assert result.dtype == np.uint8
  assert result.shape == images.shape


def test_wrong_arguments_are_refused():
  images, key = _images(2), jax.random.key(0)
  with pytest.raises(ValueError, match='one id per image'):
    device_augment.pad_crop_flip(images, key, np.arange(3))
  with pytest.raises(ValueError, match='pad must not be negative'):
    device_augment.pad_crop_flip(images, key, np.arange(2), pad=-1)
  with pytest.raises(ValueError, match='each of 3 channels'):
    device_augment.normalize(images, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
def test_normalize(dtype):
  images = _images(2)
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  result = _normalize(images, mean=mean, std=std, dtype=dtype)
  assert result.dtype == dtype
  expected = (images / 255.0 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(
    np.array(result, np.float64),
    expected,
    atol=1e-5 if dtype == np.float32 else 0.02,
  )


def test_downscaled_images_are_means_of_squares():
  images = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
  stats = {'mean': (0.1, 0.2, 0.3), 'std': (0.4, 0.5, 0.6)}
  found = _normalize(images, **stats, downscale=2)
  whole = np.array(_normalize(images, **stats), np.float64)
  assert found.shape == (1, 2, 3, 3)
  for i, j in np.ndindex(2, 3):
    square = whole[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
    np.testing.assert_allclose(found[0, i, j], square.mean((0, 1)), rtol=1e-5)
  with pytest.raises(ValueError, match='divide 4 and 6, got 4'):
    device_augment.normalize(images, **stats, downscale=4)


def test_normalize_takes_leading_axes():
  images = _images(4).reshape(2, 2, 4, 4, 3)
  stats = {'mean': (0.1, 0.2, 0.3), 'std': (0.4, 0.5, 0.6)}
  np.testing.assert_array_equal(
    _normalize(images, **stats)[1],
    _normalize(images[1], **stats),
  )
