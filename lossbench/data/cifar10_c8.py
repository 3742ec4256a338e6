"""CIFAR-10's test images under eight corruptions, made here of CIFAR-10 itself.

  python -m lossbench.prepare --dataset=cifar10_c8 --data_dir=DIR

makes all forty data sets, of the first 2,000 test images, in DIR, where `cifar10`
is. The published CIFAR-10-C has fifteen
corruptions of all 10,000 images (`cifar10_c`): numbers on these eight are to be
compared with one another, not with published ones.
"""

import tensorflow_datasets as tfds

from lossbench.data.corruptions import corrupt_as
from lossbench.data.digits import corruption_configs

NUM_IMAGES = 2_000


class Cifar10C8(tfds.core.GeneratorBasedBuilder):
  """Test images of `cifar10`, corrupted; see `corruptions`."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: dict = {'1.0.0': 'Eight corruptions, five severities.'}  # noqa: RUF012
  BUILDER_CONFIGS = corruption_configs()

  def _info(self):
    return self.dataset_info_from_configs(
      description='CIFAR-10 (Krizhevsky 2009) under corruptions of Hendrycks & '
      'Dietterich 2019 (arXiv:1903.12261).',
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': tfds.features.Image(
            shape=(32, 32, 3), encoding_format='png'
          ),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://github.com/hendrycks/robustness',
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'test': self._generate_examples()}

  def _generate_examples(self):
    clean = tfds.builder('cifar10', data_dir=self._data_dir_root)
    split = f'test[:{NUM_IMAGES}]'
    for index, example in enumerate(tfds.as_numpy(clean.as_dataset(split))):
      image = corrupt_as(self.builder_config.name, example['image'], index)
      yield example['id'].decode(), {**example, 'image': image}
