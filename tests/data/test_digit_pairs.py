"""Pairs of digits: who is in them, where, with which label, again and again."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lossbench.data import datasets, digit_pairs
from lossbench.data.corruptions import corrupt

SIZES = {'train': 300, 'test': 200}


@pytest.fixture(scope='module')
def read(tmp_path_factory):
  """(data set, split) -> [(image [14, 14], label)], of few examples."""
  with pytest.MonkeyPatch.context() as patch:
    for builder in (digit_pairs.DigitPairs, digit_pairs.DigitPairsTens):
      for base in builder.__mro__:
        if 'SIZES' in vars(base):
          patch.setattr(base, 'SIZES', SIZES)
    patch.setattr(digit_pairs._CorruptedPairs, 'SIZES', {'test': 100})
    data_dir = str(tmp_path_factory.mktemp('tfds'))

    def read(name, split):
      builder = datasets.open_dataset(name, data_dir=data_dir)
      return [
        (example['image'][..., 0], int(example['label']))
        for example in builder.as_dataset(split=split).as_numpy_iterator()
      ]

    yield read


def _images(examples):
  return {image.tobytes(): label for image, label in examples}


def test_sizes():
  """Thousands of test images; of every class the same number."""
  assert digit_pairs.DigitPairs.SIZES == {'train': 10_000, 'test': 5_000}
  assert digit_pairs.DigitPairsC.SIZES == {'test': 1_000}


@pytest.mark.parametrize(('part', 'level'), [('train', 0), ('test', 255)])
def test_of_the_digits_of_its_own_part_only(part, level, monkeypatch):
  """Black digits to train on, white ones to test on: none in the wrong image."""
  _, labels, is_test = digit_pairs.read_digits()
  expected = np.zeros(len(labels), bool)  # as in test_digits.py
  for label in range(10):
    expected[np.flatnonzero(labels == label)[4::5]] = True
  np.testing.assert_array_equal(is_test, expected)
  images = np.where(expected, 255, 0)[:, None, None] * np.ones((8, 8))
  monkeypatch.setattr(
    digit_pairs, 'read_digits', lambda: (images, labels, is_test)
  )
  monkeypatch.setattr(digit_pairs, '_NOISE_STDDEV', 0)
  digit_pairs._digits_of.cache_clear()
  try:
    for index in range(300):
      image, _ = digit_pairs.compose_pair(index, part=part)
      assert image.max() == level
      assert (image == 255).sum() >= (64 if part == 'test' else 0)
  finally:
    digit_pairs._digits_of.cache_clear()


@pytest.mark.parametrize('index', [0, 37, 173, 290, 9_999])
def test_tens_stand_left_of_units(index, monkeypatch):
  """Columns that only one of the two can reach are a shifted digit's."""
  monkeypatch.setattr(digit_pairs, '_NOISE_STDDEV', 0)
  image, label = digit_pairs.compose_pair(index, part='train')
  assert label == index % 100
  digits = load_digits()

  def can_be(part, digit, columns):
    """Whether some image of the digit has these columns, at some height."""
    levels = np.rint(digits.images[digits.target == digit] * 15.9375)
    for row in range(7):
      shifted = np.zeros((len(levels), 14, 8))
      shifted[:, row : row + 8] = levels
      if (shifted[:, :, columns] == part).all((1, 2)).any():
        return True
    return False

  tens, units = divmod(label, 10)
  assert any(
    can_be(image[:, indent:5], tens, slice(0, 5 - indent)) for indent in (0, 1)
  )
  assert any(
    can_be(image[:, 9 : 14 - indent], units, slice(3 + indent, 8))
    for indent in (0, 1)
  )


def test_noise_is_everywhere():
  images = np.stack(
    [digit_pairs.compose_pair(i, part='train')[0] for i in range(500)]
  )
  # Half of the noise on black is cut off.
  corner = images[:, 0, 0] / 255
  assert np.mean(corner > 0) == pytest.approx(0.5, abs=0.07)
  values = corner[corner > 0]
  assert np.sqrt(np.mean(values**2)) == pytest.approx(0.05, abs=0.01)


def test_the_same_again():
  """Stored predictions are joined by id; others need another VERSION.

  The digest is of version 1.0.0 as first made, with NumPy 2.4.
  """
  pairs = [
    digit_pairs.compose_pair(index, part=part, stream=stream)
    for index in (0, 123)
    for part in ('train', 'test')
    for stream in (0, 1)
  ]
  assert len({image.tobytes() for image, _ in pairs}) == 8
  digest = hashlib.sha256(b''.join(image.tobytes() for image, _ in pairs))
  assert digest.hexdigest()[:16] == '134c2db020f751a7'


def test_every_class_has_as_many_examples(read):
  for split, size in SIZES.items():
    examples = read('digit_pairs', split)
    labels = [label for _, label in examples]
    assert list(np.bincount(labels)) == [size // 100] * 100


def test_halves_are_the_examples_of_their_classes(read):
  for split in SIZES:
    whole = _images(read('digit_pairs', split))
    low = _images(read('digit_pairs_low', split))
    high = _images(read('digit_pairs_high', split))
    assert set(low.values()) == set(high.values()) == set(range(50))
    high = {image: label + 50 for image, label in high.items()}
    assert low | high == whole
    assert len(low) == len(high) == SIZES[split] // 2


def test_coarser_labels_of_other_pairs(read):
  for split in SIZES:
    tens, units, sums = (
      _images(read(f'digit_pairs_{name}', split))
      for name in ('tens', 'units', 'sum')
    )
    assert tens.keys() == units.keys() == sums.keys()
    assert not tens.keys() & _images(read('digit_pairs', split)).keys()
    pairs = [10 * tens[image] + units[image] for image in tens]
    assert list(np.bincount(pairs)) == [SIZES[split] // 100] * 100
    assert all(sums[image] == tens[image] + units[image] for image in tens)


@pytest.mark.parametrize(('name', 'size'), [('', 100), ('_low', 50)])
def test_corrupted_are_the_test_images(read, name, size):
  expected = {
    corrupt(image, 'contrast', severity=3, seed=(0,)).tobytes(): label
    for image, label in read(f'digit_pairs{name}', 'test')
  }
  corrupted = _images(read(f'digit_pairs{name}_c_contrast_3', 'test'))
  assert len(corrupted) == size
  assert corrupted.items() <= expected.items()
