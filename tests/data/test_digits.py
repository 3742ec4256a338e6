"""The digits data set: scikit-learn's images, split once and for all."""

import hashlib
import pathlib
import socket

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from lossbench.data import datasets, pipeline
from lossbench.data.examples import Examples

NUM_TRAIN, NUM_TEST = 1442, 355


def _decode(image_bytes):
  return tf.ensure_shape(tf.io.decode_png(image_bytes), (8, 8, 1))


def _rows(images, labels):
  """One sortable tuple of bytes and label for each example."""
  return [
    (image.astype(np.uint8).tobytes(), int(label))
    for image, label in zip(images, labels, strict=True)
  ]


def _read(data_dir, split):
  builder = datasets.open_dataset('digits', data_dir=data_dir)
  return pipeline.load_examples(Examples(builder, split), image_fn=_decode)


@pytest.fixture(scope='module')
def splits(digits_dir):
  return {split: _read(digits_dir, split) for split in ('train', 'test')}


@pytest.fixture(scope='module')
def sklearn_digits():
  """scikit-learn's images in 0-255 and labels, and who is a test image."""
  digits = load_digits()
  is_test = np.zeros(len(digits.target), bool)
  for label in range(10):
    is_test[np.flatnonzero(digits.target == label)[4::5]] = True
  # 255 / 16 = 15.9375, so grey level 8 is 127.5: NumPy rounds to even, 128.
  images = np.rint(digits.images * 15.9375)
  return images, digits.target, is_test


def test_sizes_and_types(splits):
  for split, size in [('train', NUM_TRAIN), ('test', NUM_TEST)]:
    images, labels = splits[split]
    assert images.shape == (size, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.shape == (size,)
    assert labels.dtype == np.int32


def test_images_and_labels_are_scikit_learns(splits, sklearn_digits):
  images, labels, is_test = sklearn_digits
  assert len(set(_rows(images, labels))) == len(labels)  # no duplicates
  for split, chosen in [('train', ~is_test), ('test', is_test)]:
    expected = _rows(images[chosen], labels[chosen])
    assert sorted(_rows(*splits[split])) == sorted(expected)


def test_pixels_use_the_whole_range(splits):
  images, _ = splits['train']
  assert set(np.unique(images)) == {
    0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255
  }  # fmt: skip


def test_split_is_disjoint_and_complete(splits):
  train, test = (set(_rows(*splits[split])) for split in ('train', 'test'))
  assert not train & test
  assert len(train | test) == 1797


def test_split_is_stratified(splits):
  """A fifth of every class, rounded down."""
  _, train_labels = splits['train']
  _, test_labels = splits['test']
  train, test = np.bincount(train_labels), np.bincount(test_labels)
  np.testing.assert_array_equal(test, (train + test) // 5)


def test_order_is_fixed(splits):
  """Stored predictions are joined by id; another order needs another VERSION.

  The digest is of version 1.0.0 as first made, with TFDS 4.9.10.
  """
  images, labels = splits['test']
  assert ''.join(map(str, labels[:20])) == '58453299465220976785'
  digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
  assert digest == (
    '1a83a024e820204275c38925ad8835eeb3279855ddc6bb3c0672eb8dd993e7ee'
  )


def test_made_offline_and_reproducibly(digits_dir, tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError('the network was asked')

  monkeypatch.setattr(socket, 'getaddrinfo', refuse)
  monkeypatch.setattr(socket.socket, 'connect', refuse)
  datasets.open_dataset('digits', data_dir=str(tmp_path))

  def records(data_dir):
    """Not bytes, in which the order of features is of the process."""
    found = {}
    for path in (pathlib.Path(data_dir) / 'digits').rglob('*.tfrecord*'):
      examples = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
      found[path.name] = [tf.train.Example.FromString(e) for e in examples]
    return found

  assert {len(examples) for examples in records(tmp_path).values()} == {
    355,
    1442,
  }
  assert records(tmp_path) == records(digits_dir)
