"""Corrupted images: statistics by hand, determinism, the data set of digits."""

import colorsys

import numpy as np
import pytest

from lossbench.data import datasets
from lossbench.data.corruptions import corrupt
from lossbench.data.severities import SEVERITIES

GREY = np.full((200, 200), 128, np.uint8)


@pytest.mark.parametrize('severity', [1, 5])
def test_noise_has_the_published_strength(severity):
  def values(name):
    x = corrupt(GREY, name, severity=severity, seed=(0,)) / 255
    return x, SEVERITIES[name][severity - 1]

  level = 128 / 255
  x, c = values('gaussian_noise')
  assert np.std(x) == pytest.approx(c, rel=0.03)
  x, c = values('speckle_noise')
  assert np.std(x) == pytest.approx(c * level, rel=0.03)
  x, c = values('shot_noise')
  assert np.std(x) == pytest.approx(np.sqrt(level / c), rel=0.03)
  x, c = values('impulse_noise')
  assert np.mean(x != level) == pytest.approx(c, rel=0.1)
  assert np.mean(x == 1) == pytest.approx(c / 2, rel=0.2)


def test_brightness_contrast_and_blur():
  image = np.zeros((8, 8), np.uint8)
  image[:, 4:] = 100
  brighter = corrupt(image, 'brightness', severity=2, seed=(0,))
  assert set(np.unique(brighter)) == {26, 126}  # + 0.1 * 255
  flatter = corrupt(image, 'contrast', severity=2, seed=(0,))
  assert set(np.unique(flatter)) == {25, 75}  # halfway to the mean of 50
  blurred = corrupt(image, 'gaussian_blur', severity=5, seed=(0,))
  assert blurred.mean() == pytest.approx(50, abs=1)
  assert (np.diff(blurred.astype(int), axis=1) >= 0).all()
  assert len(np.unique(blurred)) > 4


@pytest.mark.parametrize('name', SEVERITIES)
def test_a_function_of_image_and_seed(name):
  image = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
  first, again = (corrupt(image, name, severity=3, seed=(7,)) for _ in '12')
  np.testing.assert_array_equal(first, again)
  assert first.dtype == np.uint8
  if name.endswith('noise'):
    other = corrupt(image, name, severity=5, seed=(8,))
    assert (other != corrupt(image, name, severity=5, seed=(9,))).any()


@pytest.fixture
def coloured():
  return np.random.default_rng(0).integers(256, size=(9, 11, 3), dtype=np.uint8)


@pytest.mark.parametrize('name', ['gaussian_blur', 'defocus_blur', 'contrast'])
def test_channels_are_corrupted_each_by_itself(name, coloured):
  whole = corrupt(coloured, name, severity=5, seed=(0,))
  for channel in range(3):
    alone = corrupt(coloured[..., channel], name, severity=5, seed=(0,))
    np.testing.assert_array_equal(whole[..., channel], alone)


@pytest.mark.parametrize('name', [n for n in SEVERITIES if 'noise' in n])
def test_noise_is_drawn_for_each_channel(name):
  grey = np.full((64, 64, 3), 128, np.uint8)
  noisy = corrupt(grey, name, severity=5, seed=(0,)).astype(float)
  correlation = np.corrcoef(noisy.reshape(-1, 3).T)
  assert np.abs(correlation - np.eye(3)).max() < 0.08


def test_brightness_raises_the_value_of_hsv(coloured):
  """Pixel by pixel with the standard library's conversions."""
  coloured[0, 0] = 0
  expected = np.zeros(coloured.shape)
  for row, column in np.ndindex(coloured.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*(coloured[row, column] / 255))
    expected[row, column] = colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1))
  bright = corrupt(coloured, 'brightness', severity=5, seed=(0,))
  np.testing.assert_allclose(bright, expected * 255, atol=0.5 + 1e-6)


def test_refusals():
  with pytest.raises(ValueError, match="Unknown corruption 'fog'"):
    corrupt(GREY, 'fog', severity=1, seed=(0,))
  with pytest.raises(ValueError, match='1 to 5; got 6'):
    corrupt(GREY, 'contrast', severity=6, seed=(0,))


def test_the_data_set_has_the_test_images(digits_dir):
  """The same ids and labels as the clean test split."""

  def read(name):
    builder = datasets.open_dataset(name, data_dir=digits_dir)
    records = list(builder.as_dataset(split='test').as_numpy_iterator())
    return builder, records

  _, clean = read('digits')
  builder, corrupted = read('digits_c_contrast_3')
  assert builder.info.splits['test'].num_examples == len(clean) == 355
  # TFDS orders by a hash of the key, which is the same.
  for a, b in zip(clean, corrupted, strict=True):
    assert a['label'] == b['label']
    expected = corrupt(a['image'][..., 0], 'contrast', severity=3, seed=(0,))
    np.testing.assert_array_equal(b['image'][..., 0], expected)


def test_halves_of_the_classes(digits_dir):
  sizes, labels = {}, {}
  for name in ('digits_low', 'digits_high'):
    builder = datasets.open_dataset(name, data_dir=digits_dir, num_classes=5)
    sizes[name] = datasets.num_examples(builder, 'train+test')
    labels[name] = {
      int(record['label'])
      for record in builder.as_dataset(split='test').as_numpy_iterator()
    }
  assert sum(sizes.values()) == 1797
  assert labels['digits_low'] == labels['digits_high'] == set(range(5))
