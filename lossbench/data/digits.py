"""TFDS builder of the handwritten digits that ship inside scikit-learn."""

import numpy as np
import tensorflow_datasets as tfds

_TEST_EVERY = 5  # every fifth image of a class is a test image


class Digits(tfds.core.GeneratorBasedBuilder):
  """1,797 real 8 x 8 images of handwritten digits, made without a network."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: dict = {'1.0.0': 'Stratified split: every fifth is test.'}  # noqa: RUF012

  def _info(self):
    return self.dataset_info_from_configs(
      description=(
        'Optical recognition of handwritten digits (Alpaydin & Kaynak 1998), '
        'the copy inside scikit-learn. Grey levels 0-16 are stretched to '
        '0-255.'
      ),
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
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
    from sklearn import datasets  # slow to import and needed here only

    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    seen = np.zeros(10, np.int64)
    for index, (image, label) in enumerate(
      zip(images, digits.target, strict=True)
    ):
      seen[label] += 1
      if (seen[label] % _TEST_EVERY == 0) == test:
        yield index, {'image': image[..., None], 'label': int(label)}
