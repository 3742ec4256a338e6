"""Undecodable images: fatal with their id, or left out; truncated files."""

import io
import json
import shutil
import struct

import ml_collections
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from configs import digits_cnn
from lossbench.data import bad_images, pipeline
from lossbench.data.examples import Examples, build_examples
from lossbench.runs.directory import RunDirectory

NUM_EXAMPLES, BATCH_SIZE = 40, 4
TRUNCATED, TEXT = 7, 23  # their labels


def _jpeg(number):
  image = np.full((16, 16, 3), number, np.uint8)
  return tf.io.encode_jpeg(image).numpy()


class Damaged(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """JPEGs, of which one is cut off and one is a text."""

  VERSION = tfds.core.Version('1.0.0')
  name = 'damaged'

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(16, 16, 3)),
          'label': tfds.features.ClassLabel(num_classes=NUM_EXAMPLES),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i in range(NUM_EXAMPLES):
      content = _jpeg(i)
      if i == TRUNCATED:
        content = content[: len(content) // 2]
      if i == TEXT:
        content = b'no image at all'
      yield i, {'image': io.BytesIO(content), 'label': i}


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  builder = Damaged(data_dir=str(tmp_path_factory.mktemp('damaged')))
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=2)
  )
  return builder


def _decode(image_bytes):
  image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
  return tf.ensure_shape(image, (16, 16, 3))


@pytest.fixture(scope='module')
def bad_ids(builder):
  return tuple(
    bad_images.find_bad_images(builder, split='train', image_fn=_decode)
  )


def _train(builder, start_step=0, bad_ids=(), **options):
  return list(
    pipeline.train_batches(
      Examples(builder, 'train', bad_ids),
      batch_size=BATCH_SIZE,
      image_fn=lambda image_bytes, seed: _decode(image_bytes),
      seed=0,
      start_step=start_step,
      num_steps=20,
      window=1000,
      **options,
    )
  )


def _evaluate(builder, bad_ids=()):
  return list(
    pipeline.eval_batches(
      Examples(builder, 'train', bad_ids), batch_size=7, image_fn=_decode
    )
  )


def test_all_bad_images_are_found_with_id_and_reason(builder):
  progress = []
  found = bad_images.find_bad_images(
    builder, split='train', image_fn=_decode, on_progress=progress.append
  )
  assert len(found) == 2
  assert all(name.startswith('damaged-train.tfrecord-') for name in found)
  for reason in found.values():
    assert reason
    assert '{{' not in reason  # TensorFlow's names of its nodes
  assert progress == [NUM_EXAMPLES]


def _load(builder, bad_ids=()):
  return pipeline.load_examples(
    Examples(builder, 'train', bad_ids), image_fn=_decode
  )


@pytest.mark.parametrize('read', [_train, _evaluate, _load])
def test_a_bad_image_is_fatal_and_named(builder, bad_ids, read):
  with pytest.raises(ValueError, match='on_bad_image=skip') as error:
    read(builder)
  assert any(repr(name) in str(error.value) for name in bad_ids)
  assert '\n' not in str(error.value)


def test_a_resumed_run_names_it_too(builder, bad_ids):
  with pytest.raises(ValueError, match=r"^Image 'damaged-train"):
    _train(builder, start_step=12)


def test_skipped_images_never_come_and_resumption_is_exact(builder, bad_ids):
  whole = _train(builder, bad_ids=bad_ids)
  labels = np.concatenate([batch['label'] for batch in whole])
  assert len(whole) == 20
  assert not set(labels) & {TRUNCATED, TEXT}
  # 38 examples make 9 batches: no repeats within an epoch.
  assert len(set(labels[: 9 * BATCH_SIZE])) == 9 * BATCH_SIZE
  for start_step in (5, 9, 13):
    resumed = _train(builder, start_step=start_step, bad_ids=bad_ids)
    for batch, expected in zip(resumed, whole[start_step:], strict=True):
      np.testing.assert_array_equal(batch['label'], expected['label'])
      np.testing.assert_array_equal(batch['image'], expected['image'])


@pytest.mark.parametrize('process_count', [1, 3])
def test_evaluation_covers_all_others_once(builder, bad_ids, process_count):
  labels, steps = [], []
  for process_index in range(process_count):
    batches = list(
      pipeline.eval_batches(
        Examples(builder, 'train', bad_ids),
        batch_size=6,
        image_fn=_decode,
        process_index=process_index,
        process_count=process_count,
      )
    )
    steps.append(len(batches))
    for batch in batches:
      labels += list(batch['label'][batch['mask'] > 0])
  assert sorted(labels) == sorted(set(range(NUM_EXAMPLES)) - {TRUNCATED, TEXT})
  assert len(set(steps)) == 1


def test_every_process_can_take_all_steps(builder, bad_ids):
  for process_index in range(2):
    batches = _train(
      builder,
      bad_ids=bad_ids,
      process_index=process_index,
      process_count=2,
    )
    assert len(batches) == 20


def test_the_run_directory_remembers(builder, bad_ids, tmp_path, monkeypatch):
  run = RunDirectory(tmp_path)
  config = ml_collections.ConfigDict(
    {
      'on_bad_image': 'skip',
      'eval_crop': 'crop_then_resize',
      'dataset': 'damaged',
      'image_size': 16,
      'pixel_mean': (0.5, 0.5, 0.5),
      'resize_images': False,
    }
  )
  found = build_examples(config, builder, 'train', run=run)
  assert found == Examples(builder, 'train', tuple(sorted(bad_ids)))
  assert found.num_examples == NUM_EXAMPLES - 2
  known = json.loads((tmp_path / 'bad_images.json').read_text())
  assert set(known['damaged train of 16 x 16 pixels']) == set(bad_ids)
  # Decoding everything again would be a waste of hours.
  monkeypatch.delattr(bad_images, 'find_bad_images')
  assert build_examples(config, builder, 'train', run=run) == found
  config.on_bad_image = 'raise'
  found = build_examples(config, builder, 'train', run=run)
  assert found == Examples(builder, 'train')
  assert found.num_examples == NUM_EXAMPLES


def test_images_of_another_size_are_looked_at_again(builder, bad_ids, tmp_path):
  """What a refused configuration has left says nothing of the next."""
  run = RunDirectory(tmp_path)
  config = digits_cnn.get_config()
  config.update(
    {
      'on_bad_image': 'skip',
      'dataset': 'damaged',
      'image_size': 16,
      'pixel_mean': (0.5, 0.5, 0.5),
    }
  )
  assert build_examples(config, builder, 'train', run=run).bad_ids
  config.image_size = 32
  with pytest.raises(ValueError, match='None of the 40 images'):
    build_examples(config, builder, 'train', run=run)
  config.resize_images = True
  found = build_examples(config, builder, 'train', run=run)
  assert found.bad_ids == tuple(sorted(bad_ids))


def test_an_unwritable_directory_is_found_before_hours_of_decoding(
  builder, tmp_path, monkeypatch
):
  monkeypatch.delattr(bad_images, 'find_bad_images')
  (tmp_path / 'file').write_text('in the way')
  config = digits_cnn.get_config()
  config.on_bad_image = 'skip'
  with pytest.raises(OSError, match='cannot be written to'):
    build_examples(
      config, builder, 'train', run=RunDirectory(tmp_path / 'file' / 'run')
    )


def test_loading_leaves_them_out(builder, bad_ids):
  _, labels = _load(builder, bad_ids=bad_ids)
  assert sorted(labels) == sorted(set(range(NUM_EXAMPLES)) - {TRUNCATED, TEXT})


def test_nothing_usable_is_refused(builder):
  """And is not taken for damage: a wrong image size looks like it."""

  def too_large(image_bytes):
    return tf.ensure_shape(_decode(image_bytes), (32, 32, 3))

  with pytest.raises(ValueError, match=r'None of the 40 images.*image_size'):
    bad_images.find_bad_images(builder, split='train', image_fn=too_large)


def test_too_many_bad_images_are_refused(builder):
  ids = tuple(
    f'damaged-train.tfrecord-{file:05d}-of-00002__{position}'
    for file in range(2)
    for position in range(NUM_EXAMPLES // 2)
  )
  with pytest.raises(ValueError, match='has 0 examples, fewer than one batch'):
    _train(builder, bad_ids=ids)


def test_a_failure_of_another_kind_stays_what_it_is(
  builder, bad_ids, monkeypatch
):
  decoded = []
  decoding_error = bad_images.decoding_error

  def counting(*args):
    decoded.append(args)
    return decoding_error(*args)

  def fail(image_bytes, seed):
    ones = tf.ones_like(seed)
    with tf.control_dependencies([tf.debugging.assert_equal(ones, 2 * ones)]):
      return _decode(image_bytes)

  monkeypatch.setattr(bad_images, 'decoding_error', counting)
  batches = pipeline.train_batches(
    Examples(builder, 'train', bad_ids),
    batch_size=BATCH_SIZE,
    image_fn=fail,
    seed=0,
    start_step=3,
    num_steps=9,
    window=1000,
  )
  with pytest.raises(tf.errors.InvalidArgumentError):
    next(batches)
  assert len(decoded) == BATCH_SIZE  # not the rest of the epoch


def _in_a_record(content):
  return content[:-40]


def _between_records(content):
  end = 0
  for _ in range(5):  # length, its checksum, data, their checksum
    end += 8 + 4 + struct.unpack('<Q', content[end : end + 8])[0] + 4
  return content[:end]


def _scan(builder, **options):
  del options
  return bad_images.find_bad_images(builder, split='train', image_fn=_decode)


@pytest.mark.parametrize('cut', [_in_a_record, _between_records])
@pytest.mark.parametrize('read', [_train, _evaluate, _load, _scan])
def test_a_truncated_file_is_named(builder, bad_ids, tmp_path, cut, read):
  shutil.copytree(builder.data_dir, tmp_path / 'damaged' / '1.0.0')
  copy = Damaged(data_dir=str(tmp_path))
  path = next((tmp_path / 'damaged' / '1.0.0').glob('*.tfrecord-00001*'))
  path.write_bytes(cut(path.read_bytes()))
  with pytest.raises(ValueError, match=r"split 'train' of 'damaged' in .* is"):
    read(copy, bad_ids=bad_ids)
