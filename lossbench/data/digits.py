"""TFDS builders of the handwritten digits that ship inside scikit-learn.

`digits` has all ten classes; `digits_low` (0-4) and `digits_high` (5-9, as
labels 0-4) are its halves, for transfer to unseen classes; `digits_c` is its
test split under corruptions. All are made without a network.
"""

import functools

import numpy as np
import tensorflow_datasets as tfds

from lossbench.data.corruptions import corrupt_as
from lossbench.data.severities import NUM_SEVERITIES, SEVERITIES

_TEST_EVERY = 5  # every fifth image of a class is a test image
_DESCRIPTION = (
  'Optical recognition of handwritten digits (Alpaydin & Kaynak 1998), the copy '
  'inside scikit-learn. Grey levels 0-16 are stretched to 0-255.'
)


@functools.cache
def read_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images uint8 [N, 8, 8], labels [N] and which are test images [N]."""
  from sklearn import datasets  # slow to import and needed here only

  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  is_test = np.zeros(len(images), bool)
  for label in range(10):
    members = np.flatnonzero(digits.target == label)
    is_test[members[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
  return images, digits.target, is_test


def corruption_configs() -> list[tfds.core.BuilderConfig]:
  """Builder configurations, one a corruption and severity."""
  return [
    tfds.core.BuilderConfig(name=f'{name}_{severity}')
    for name in SEVERITIES
    for severity in range(1, NUM_SEVERITIES + 1)
  ]


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Digits of some classes."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: dict = {'1.0.0': 'Stratified split: every fifth is test.'}  # noqa: RUF012
  CLASSES = range(10)

  def _info(self):
    return self.dataset_info_from_configs(
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=len(self.CLASSES)),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80',
      citation='@misc{misc_optical_recognition_of_handwritten_digits_80}',
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      'train': self._generate_examples(test=False),
      'test': self._generate_examples(test=True),
    }

  def _generate_examples(self, *, test):
    images, labels, is_test = read_digits()
    for index in np.flatnonzero(is_test == test):
      if labels[index] in self.CLASSES:
        yield (
          int(index),
          {
            'image': self._image(images[index], int(index))[..., None],
            'label': int(labels[index]) - self.CLASSES[0],
          },
        )

  def _image(self, image, index):
    del index
    return image


class Digits(_Builder):
  """1,797 real 8 x 8 images of handwritten digits, made without a network."""


class DigitsLow(_Builder):
  """The digits 0 to 4."""

  CLASSES = range(5)


class DigitsHigh(_Builder):
  """The digits 5 to 9, as labels 0 to 4."""

  CLASSES = range(5, 10)


class DigitsC(_Builder):
  """The test images of `digits`, corrupted; see `corruptions`."""

  RELEASE_NOTES: dict = {'1.0.0': 'Eight corruptions, five severities.'}  # noqa: RUF012
  BUILDER_CONFIGS = corruption_configs()

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'test': self._generate_examples(test=True)}

  def _image(self, image, index):
    return corrupt_as(self.builder_config.name, image, index)
