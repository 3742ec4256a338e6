"""The catalogue against TFDS's own builders, and what is available."""

import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data import catalogue, datasets, pipeline, real_labels
from lossbench.data.catalogue import DATASETS, OOD_SUITES
from lossbench.data.examples import Examples


@pytest.mark.parametrize(
  'name', [n for n, spec in DATASETS.items() if not spec.offline]
)
def test_tfds_has_the_builder_its_label_and_classes(name, tmp_path):
  spec = DATASETS[name]
  builder = tfds.builder(spec.tfds_name, data_dir=str(tmp_path))
  assert builder.info.features[spec.label_feature].num_classes > 1
  assert 'image' in builder.info.features
  assert datasets.label_feature(builder) == spec.label_feature
  assert ('real_label' in builder.info.features) == spec.real_labels


def test_label_names_are_imagenets(tmp_path):
  """So that labels of shifted sets are the run's own class ids."""

  def names(name):
    spec = DATASETS[name]
    builder = tfds.builder(spec.tfds_name, data_dir=str(tmp_path))
    return builder.info.features[spec.label_feature].names

  own = names('imagenet2012')
  for ood_set in OOD_SUITES['imagenet2012']:
    if ood_set.shifted and not ood_set.name.endswith(('_2', '_3', '_4', '_5')):
      assert names(ood_set.name) == own, ood_set.name


def test_corruption_families_are_complete():
  for dataset, family, size in [
    ('imagenet2012', 'imagenet_c', 75),
    ('cifar10', 'cifar10_c', 75),
    ('digits', 'digits_c', 40),
    ('digit_pairs', 'digit_pairs_c', 40),
    ('digit_pairs_low', 'digit_pairs_low_c', 40),
  ]:
    members = [s for s in catalogue.ood_suite(dataset) if s.family == family]
    assert len(members) == size
    assert all(member.shifted for member in members)
  assert catalogue.ood_suite('caltech101') == ()
  for suite in OOD_SUITES.values():
    assert all(ood_set.name in DATASETS for ood_set in suite)


def test_what_is_missing_says_how_to_prepare_it(tmp_path):
  assert datasets.not_available('digits_high', str(tmp_path)) is None
  text = datasets.not_available('imagenet_c_fog_3', str(tmp_path))
  assert text.startswith('not available: python -c')
  assert "tfds.builder('imagenet2012_corrupted/fog_3'" in text
  assert 'ImageMagick' in text
  assert '\n' not in text
  assert list(tmp_path.iterdir()) == []


def _jpeg(value):
  pixels = np.full((20, 30, 3), value, np.uint8)
  return io.BytesIO(tf.io.encode_jpeg(pixels).numpy())


class Real(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Three images under the name of ImageNet ReaL, as TFDS has it."""

  name = 'imagenet2012_real'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.builder('imagenet2012_real', data_dir='/').info.features,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'validation': self._generate_examples()}

  def _generate_examples(self):
    for index, real in enumerate([[7, 9], [], [999]]):
      yield (
        index,
        {
          'image': _jpeg(60 * index),
          'original_label': index + 5,
          'real_label': real,
          'file_name': f'ILSVRC2012_val_{index:08d}.JPEG',
        },
      )


@pytest.fixture(scope='module')
def real_builder(tmp_path_factory):
  data_dir = str(tmp_path_factory.mktemp('real'))
  Real(data_dir=data_dir).download_and_prepare()
  assert datasets.not_available('imagenet2012_real', data_dir) is None
  return datasets.open_dataset(
    'imagenet2012_real', data_dir=data_dir, num_classes=1000
  )


def test_real_labels_are_joined_by_id(real_builder):
  ids, is_label = real_labels.read_real_labels(real_builder, 'validation')
  assert is_label.shape == (3, 1000)
  (batch,) = pipeline.eval_batches(
    Examples(real_builder, 'validation'),
    batch_size=3,
    image_fn=lambda image_bytes: tf.ensure_shape(
      tf.io.decode_jpeg(image_bytes), (20, 30, 3)
    ),
  )
  found = {
    int(label): list(np.flatnonzero(is_label[list(ids).index(name)]))
    for label, name in zip(batch['label'], batch['id'], strict=True)
  }
  assert found == {5: [7, 9], 6: [], 7: [999]}
