"""TFDS builders of pairs of handwritten digits: a hundred classes, offline.

An example is a tens and a units digit of `digits`, each put somewhere in its
half of a grey 14 x 14 image, where they overlap, under noise. Training images
consist of training digits only, test images of test digits.

`digit_pairs` has the classes 00 to 99; `digit_pairs_low` (00-49) and
`digit_pairs_high` (50-99, as labels 0-49) are its halves, for transfer to unseen
classes; `digit_pairs_tens`, `digit_pairs_units` and `digit_pairs_sum` (0-18) are
other pairs with coarser labels; `digit_pairs_c` and `digit_pairs_low_c` are test
images under corruptions, forty times.
"""

import functools

import numpy as np
import tensorflow_datasets as tfds

from lossbench.data.corruptions import corrupt_as
from lossbench.data.digits import corruption_configs, read_digits

SIDE = 14  # of an image, in pixels
_DIGIT_SIDE = 8
_MAX_INDENT = 1  # columns between a digit and its edge of the image
_NOISE_STDDEV = 0.05
_NUM_CLASSES = 100
_DESCRIPTION = (
  'Pairs of handwritten digits, composed at random of the training or of the test '
  'digits of Alpaydin & Kaynak 1998, which overlap and are noisy.'
)


@functools.cache
def _digits_of(part: str) -> list[np.ndarray]:
  """Digit -> its images of a part in [0, 1], [N, 8, 8]."""
  images, labels, is_test = read_digits()
  chosen = is_test == (part == 'test')
  return [images[chosen & (labels == digit)] / 255 for digit in range(10)]


def compose_pair(
  index: int, *, part: str, stream: int = 0
) -> tuple[np.ndarray, int]:
  """One pair; a function of its arguments alone.

  Args:
    index: of the example; its class is the remainder of division by 100.
    part: 'train' or 'test', whose digits it consists of.
    stream: 0, 1, ...: other pairs of the same classes.

  Returns:
    uint8 [14, 14] and the class, 10 tens + units.
  """
  rng = np.random.default_rng((stream, part == 'test', index))
  label = index % _NUM_CLASSES
  image = np.zeros((SIDE, SIDE))
  last = SIDE - _DIGIT_SIDE  # where a digit can begin
  indents = rng.integers(_MAX_INDENT, size=2, endpoint=True)
  columns = indents[0], last - indents[1]
  for digit, column in zip(divmod(label, 10), columns, strict=True):
    row = rng.integers(last, endpoint=True)
    window = image[row : row + _DIGIT_SIDE, column : column + _DIGIT_SIDE]
    np.maximum(window, rng.choice(_digits_of(part)[digit]), out=window)
  image += rng.normal(scale=_NOISE_STDDEV, size=image.shape)
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), label


class _Pairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Pairs of some classes, under some labels."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: dict = {'1.0.0': 'As many of every pair.'}  # noqa: RUF012
  SIZES: dict = {'train': 10_000, 'test': 5_000}  # noqa: RUF012
  STREAM = 0
  CLASSES = range(_NUM_CLASSES)
  NUM_LABELS = _NUM_CLASSES

  def _info(self):
    return self.dataset_info_from_configs(
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(SIDE, SIDE, 1), encoding_format='png'
          ),
          'label': tfds.features.ClassLabel(num_classes=self.NUM_LABELS),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80',
      citation='@misc{misc_optical_recognition_of_handwritten_digits_80}',
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {part: self._generate_examples(part) for part in self.SIZES}

  def _generate_examples(self, part):
    for index in range(self.SIZES[part]):
      if index % _NUM_CLASSES in self.CLASSES:
        image, pair = compose_pair(index, part=part, stream=self.STREAM)
        yield (
          index,
          {
            'image': self._image(image, index)[..., None],
            'label': self._label(pair),
          },
        )

  def _image(self, image, index):
    del index
    return image

  def _label(self, pair):
    return pair - self.CLASSES[0]


class DigitPairs(_Pairs):
  """15,000 pairs, 150 of each of a hundred classes."""


class DigitPairsLow(_Pairs):
  """The pairs 00 to 49."""

  CLASSES = range(50)
  NUM_LABELS = 50


class DigitPairsHigh(_Pairs):
  """The pairs 50 to 99, as labels 0 to 49."""

  CLASSES = range(50, 100)
  NUM_LABELS = 50


class _OtherPairs(_Pairs, skip_registration=True):
  """Pairs that are not in `digit_pairs`, of the same digits."""

  SIZES: dict = {'train': 2_000, 'test': 2_000}  # noqa: RUF012
  STREAM = 1


class DigitPairsTens(_OtherPairs):
  """Other pairs, labelled by their left digit."""

  NUM_LABELS = 10

  def _label(self, pair):
    return pair // 10


class DigitPairsUnits(_OtherPairs):
  """Other pairs, labelled by their right digit."""

  NUM_LABELS = 10

  def _label(self, pair):
    return pair % 10


class DigitPairsSum(_OtherPairs):
  """Other pairs, labelled by the sum of their digits, 0 to 18."""

  NUM_LABELS = 19

  def _label(self, pair):
    return sum(divmod(pair, 10))


class _CorruptedPairs(_Pairs, skip_registration=True):
  RELEASE_NOTES: dict = {'1.0.0': 'Eight corruptions, five severities.'}  # noqa: RUF012
  BUILDER_CONFIGS = corruption_configs()
  SIZES: dict = {'test': 1_000}  # noqa: RUF012

  def _image(self, image, index):
    return corrupt_as(self.builder_config.name, image, index)


class DigitPairsC(_CorruptedPairs):
  """A fifth of `digit_pairs`' test images, corrupted; see `corruptions`."""


class DigitPairsLowC(_CorruptedPairs):
  """Likewise, of `digit_pairs_low`."""

  CLASSES = range(50)
  NUM_LABELS = 50
