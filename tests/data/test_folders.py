"""Folders of images as data sets: records, streams, ids and bad images."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image, PngImagePlugin

from lossbench.data import bad_images, datasets, folders, pipeline
from lossbench.data.device_data import index_batches
from lossbench.data.examples import Examples
from tests.data.pictures import picture, write_folders

COUNTS = {
  'train/cat': 9,
  'train/dog': 7,
  'train/emu': 5,
  'val/cat': 2,
  'val/dog': 3,
  'val/emu': 4,
}


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
  return write_folders(tmp_path / 'pets', COUNTS)


def _open(root, **more):
  return datasets.open_dataset(f'folder:{root}', data_dir='', **more)


def decode_fn(image_bytes):
  image = tf.io.decode_image(image_bytes, channels=1, expand_animations=False)
  return tf.ensure_shape(image, (8, 8, 1))


def train_fn(image_bytes, seed):
  """The image, and in its first two pixels what its draw is."""
  drawn = tf.random.stateless_uniform([1, 2, 1], seed, 0, 256, tf.int32)
  image = tf.concat(
    [tf.cast(drawn, tf.uint8), decode_fn(image_bytes)[:1, 2:]], 1
  )
  return tf.concat([image, decode_fn(image_bytes)[1:]], 0)


def _pixels(path) -> np.ndarray:
  return np.asarray(Image.open(path))[..., None]


def test_examples_and_their_order_are_those_of_tfds(root):
  """Its ImageFolder is the oracle; of its ids only the file's name is known."""
  theirs = tfds.ImageFolder(str(root)).as_dataset(split='train')
  builder = _open(root, num_classes=3)
  ours = builder.as_dataset(split='train')
  names = builder.info.features['label'].names
  assert names == ['cat', 'dog', 'emu']
  for record, other in zip(ours, theirs, strict=True):
    path = root / record['tfds_id'].numpy().decode()
    assert str(path).encode() == other['image/filename'].numpy()
    assert path.parent.name == names[record['label'].numpy()]
    assert record['image'].numpy() == path.read_bytes()


def test_evaluation_sees_every_image_once_on_any_number_of_processes(root):
  builder = _open(root)
  examples = Examples(builder, 'test')
  assert examples.num_examples == 9
  for process_count in (1, 2):
    found = {}
    for process_index in range(process_count):
      for batch in pipeline.eval_batches(
        examples,
        batch_size=4,
        image_fn=decode_fn,
        process_index=process_index,
        process_count=process_count,
      ):
        for i in np.flatnonzero(batch['mask']):
          assert batch['id'][i] not in found
          found[batch['id'][i]] = batch['label'][i]
          path = root / batch['id'][i].decode()
          np.testing.assert_array_equal(batch['image'][i], _pixels(path))
    assert sorted(found) == sorted(
      str(path.relative_to(root)).encode() for path in root.glob('val/*/*')
    )
    assert sorted(found.values()) == [0] * 2 + [1] * 3 + [2] * 4


def _train(builder, *, start_step=0, num_steps=9, bad_ids=(), **processes):
  return list(
    pipeline.train_batches(
      Examples(builder, 'train[:17]', bad_ids),
      batch_size=4,
      image_fn=train_fn,
      seed=3,
      start_step=start_step,
      num_steps=num_steps,
      window=0,
      check_image_fn=decode_fn,
      **processes,
    )
  )


def test_training_is_one_permutation_an_epoch_and_resumes_anywhere(root):
  builder = _open(root)
  whole = _train(builder)
  # The order of data on the devices, of the same examples.
  ids = builder.ids(builder.positions('train[:17]'))
  order = index_batches(
    num_examples=17, batch_size=4, seed=3, start_step=0, num_steps=9
  )
  for batch, expected in zip(whole, order, strict=True):
    for image, index in zip(batch['image'], expected['index'], strict=True):
      pixels = _pixels(root / ids[index])
      np.testing.assert_array_equal(image[1:], pixels[1:])
  for start_step in (1, 4, 6):
    rest = _train(builder, start_step=start_step)
    for batch, expected in zip(rest, whole[start_step:], strict=True):
      np.testing.assert_array_equal(batch['image'], expected['image'])
      np.testing.assert_array_equal(batch['label'], expected['label'])
  halves = [_train(builder, process_index=i, process_count=2) for i in range(2)]
  for expected, *parts in zip(whole, *halves, strict=True):
    together = np.concatenate([part['image'] for part in parts])
    np.testing.assert_array_equal(together, expected['image'])
  # Draws differ whenever an example comes round.
  drawn = {tuple(image[0, :2, 0]) for b in whole for image in b['image']}
  assert len(drawn) > 30


def test_bad_images_are_named_and_can_be_left_out(root):
  builder = _open(root)
  name = builder.ids(builder.positions('train'))[0]
  picture(0).save(root / name, 'GIF')  # whatever it is called
  with pytest.raises(ValueError, match=rf"Image '{name}' of 'folder:") as error:
    _train(builder)
  assert 'it is neither JPEG nor PNG' in str(error.value)
  assert 'on_bad_image=skip' in str(error.value)
  found = bad_images.find_bad_images(builder, split='train', image_fn=decode_fn)
  assert found == {name: 'it is neither JPEG nor PNG.'}
  batches = _train(builder, bad_ids=(name,))
  assert len(batches) == 9


def test_transparent_images_are_bad_ones(root):
  picture(0, mode='RGBA').save(root / 'val' / 'cat' / '000.png')
  examples = Examples(_open(root), 'test')
  with pytest.raises(
    ValueError, match=r"'val/cat/000.png'.*transparent colours"
  ):
    list(pipeline.eval_batches(examples, batch_size=4, image_fn=decode_fn))


def test_a_file_that_goes_away_is_named(root):
  builder = _open(root)
  (root / 'val' / 'dog' / '001.png').unlink()
  with pytest.raises(FileNotFoundError, match=r"'test' of .* is gone.*001.png"):
    list(
      pipeline.eval_batches(
        Examples(builder, 'test'), batch_size=4, image_fn=decode_fn
      )
    )


def test_names_of_classes_are_those_of_folders(root):
  assert datasets.class_names(f'folder:{root}', None) == ['cat', 'dog', 'emu']


def test_labels_can_be_a_runs_classes(root, tmp_path):
  names = ['dog', 'cow', 'emu', 'cat']
  builder = _open(root, class_names=names)
  assert datasets.count_classes(builder) == 4
  assert builder.used_classes == (0, 2, 3)
  ids = builder.ids(builder.positions('test'))
  records = builder.as_dataset(split='test').as_numpy_iterator()
  labels = [record['label'] for record in records]
  assert [names[label] for label in labels] == [i.split('/')[1] for i in ids]

  path = tmp_path / 'map.json'
  path.write_text(json.dumps({'cat': ['cow', 'cat'], 'dog': None, 'emu': 0}))
  builder = datasets.open_dataset(
    f'folder:{root}#{path}', data_dir='', class_names=names
  )
  assert builder.info.splits['test'].num_examples == 6  # without dogs
  found = builder.is_label([b'val/cat/000.png', b'val/emu/001.png'])
  np.testing.assert_array_equal(found, [[0, 1, 0, 1], [1, 0, 0, 0]])
  assert builder.used_classes == (0, 1, 3)
  with pytest.raises(ValueError, match='has a class map, which is for'):
    datasets.open_dataset(f'folder:{root}#{path}', data_dir='')


def test_objectnet_is_read_without_its_frame(tmp_path):
  root = write_folders(tmp_path, {'images/chair': 2}, mode='RGB')
  builder = datasets.open_dataset(f'objectnet:{root}', data_dir='')
  decode = folders.checked(builder, tf.io.decode_image)
  for record in builder.as_dataset(split='test'):
    path = root / 'images' / record['tfds_id'].numpy().decode()
    np.testing.assert_array_equal(
      decode(record['image']), np.asarray(Image.open(path))[2:-2, 2:-2]
    )
  # What cannot be decoded is named, and left out where that is asked for.
  path.write_bytes(b'GIF89a')
  found = bad_images.find_bad_images(
    builder, split='test', image_fn=tf.io.decode_image
  )
  assert list(found) == [f'chair/{path.name}']


def test_pngs_that_decoding_would_harm_are_refused_undecoded(root):
  bad_images.check_pngs(_open(root), 'train')
  picture(0, mode='RGBA').save(root / 'train' / 'cat' / '000.png')
  with pytest.raises(ValueError) as error:
    bad_images.check_pngs(_open(root), 'train')
  assert str(error.value).startswith("1 image(s) of 'folder:")
  assert "such as 'train/cat/000.png': it has an alpha" in str(error.value)
  info = PngImagePlugin.PngInfo()
  info.add_text('comment', 'x' * 70_000)  # before what makes it transparent
  picture(0, mode='P').save(
    root / 'train' / 'cat' / '000.png', transparency=0, pnginfo=info
  )
  with pytest.raises(ValueError, match=r'cat/000\.png.*transparent colours'):
    bad_images.check_pngs(_open(root), 'train')
  bad_images.check_pngs(_open(root), 'test')


def test_an_image_that_was_replaced_makes_another_data_set(root):
  before = datasets.identity(_open(root))
  assert datasets.identity(_open(root)) == before
  [path, *_] = (root / 'train' / 'cat').iterdir()
  path.write_bytes(path.read_bytes() + b'x')
  assert datasets.identity(_open(root)) != before


def test_number_of_classes_size_and_channels_are_checked(root):
  with pytest.raises(ValueError, match=r'has 3 classes.*num_classes=10'):
    _open(root, num_classes=10)
  builder = _open(root)
  datasets.check_image_shape(builder, (8, 8, 1), resized=False)
  datasets.check_image_shape(builder, (8, 8, 3), resized=False)  # grey as RGB
  with pytest.raises(ValueError, match=r'images of 8 x 8 pixels.*Set it to 8'):
    datasets.check_image_shape(builder, (9, 9, 1), resized=False)


def test_a_relative_path_begins_at_data_dir(root):
  builder = datasets.open_dataset('folder:pets', data_dir=str(root.parent))
  assert builder.info.splits['train'].num_examples == 21
  assert datasets.not_available('folder:pets', str(root.parent)) is None
  assert 'there is no folder' in datasets.not_available('folder:x', '/data')


def test_what_tells_a_folder_from_others(root):
  before = datasets.describe(_open(root))
  assert before['num_files'] == 30
  assert before['name'] == f'folder:{root}'
  assert datasets.describe(_open(root)) == before
  identity = datasets.identity(_open(root))
  picture(99, side=9).save(root / 'train' / 'cat' / '000.png')
  assert datasets.describe(_open(root))['fingerprint'] != before['fingerprint']
  (root / 'train' / 'cat' / '001.png').unlink()
  assert datasets.identity(_open(root)) != identity
