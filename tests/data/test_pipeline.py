"""Streams of batches: the same on every restart, nothing lost, nothing twice.

Most tests read a data set whose example i is one pixel of value i with label
i, written into four files.
"""

import collections
import itertools
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from lossbench.data import datasets, order, pipeline
from lossbench.data.examples import Examples

NUM_TRAIN, NUM_TEST = 50, 23
BATCH_SIZE, STEPS_PER_EPOCH = 8, 6  # two examples are left over
NUM_STEPS = 2 * STEPS_PER_EPOCH + 3


class Numbered(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Example i is one pixel of value i, labelled i."""

  VERSION = tfds.core.Version('1.0.0')
  name = 'numbered'

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(1, 1, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=100),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      'train': self._generate_examples(range(NUM_TRAIN)),
      'test': self._generate_examples(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)),
    }

  def _generate_examples(self, numbers):
    for i in numbers:
      yield i, {'image': np.full((1, 1, 1), i, np.uint8), 'label': i}


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  builder = Numbered(data_dir=str(tmp_path_factory.mktemp('numbered')))
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=4)
  )
  assert len(builder.info.splits['train'].filenames) == 4
  return builder


def _decode(image_bytes):
  return tf.ensure_shape(tf.io.decode_png(image_bytes), (1, 1, 1))


def _train(builder, *, split='train', **kwargs):
  defaults = dict(
    batch_size=BATCH_SIZE,
    image_fn=lambda image_bytes, seed: _decode(image_bytes),
    seed=0,
    start_step=0,
    num_steps=NUM_STEPS,
    window=1000,
  )
  return list(
    pipeline.train_batches(Examples(builder, split), **defaults | kwargs)
  )


def _labels(batches):
  return np.array([batch['label'] for batch in batches])  # [steps, b]


@pytest.fixture(scope='module')
def uninterrupted(builder):
  return _train(builder)


# Training.


def test_train_batches_shapes_and_types(uninterrupted):
  assert len(uninterrupted) == NUM_STEPS
  for batch in uninterrupted:
    assert batch.keys() == {'image', 'label'}
    assert batch['image'].shape == (BATCH_SIZE, 1, 1, 1)
    assert batch['image'].dtype == np.uint8
    assert batch['label'].dtype == np.int32


def test_labels_belong_to_their_images(uninterrupted):
  for batch in uninterrupted:
    np.testing.assert_array_equal(batch['image'].ravel(), batch['label'])


def test_an_epoch_repeats_nothing(uninterrupted):
  labels = _labels(uninterrupted)
  for first in (0, STEPS_PER_EPOCH):
    epoch = labels[first : first + STEPS_PER_EPOCH]
    assert len(np.unique(epoch)) == STEPS_PER_EPOCH * BATCH_SIZE


def test_same_seed_same_stream(builder, uninterrupted):
  np.testing.assert_array_equal(
    _labels(_train(builder)), _labels(uninterrupted)
  )


def test_seeds_and_epochs_differ(builder, uninterrupted):
  labels = _labels(uninterrupted)
  streams = [
    labels[:STEPS_PER_EPOCH],
    labels[STEPS_PER_EPOCH : 2 * STEPS_PER_EPOCH],
    _labels(_train(builder, seed=1, num_steps=STEPS_PER_EPOCH)),
  ]
  for one, two in itertools.combinations(streams, 2):
    assert (one != two).mean() > 0.8


@pytest.mark.parametrize(
  'start_step', [1, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, 9, NUM_STEPS - 1]
)
def test_restart_continues_the_stream(builder, uninterrupted, start_step):
  resumed = _train(builder, start_step=start_step)
  np.testing.assert_array_equal(
    _labels(resumed), _labels(uninterrupted)[start_step:]
  )


def test_a_finished_run_has_no_batches(builder):
  assert _train(builder, start_step=NUM_STEPS) == []


def test_files_are_shuffled_too(builder):
  """Without it a window smaller than the data would mix neighbours only."""
  whole = _labels(_train(builder, window=1))
  first, second = whole[:STEPS_PER_EPOCH], whole[STEPS_PER_EPOCH:][:6]
  assert not np.array_equal(first, second)
  resumed = _labels(_train(builder, window=1, start_step=8))
  np.testing.assert_array_equal(resumed, whole[8:])


def test_the_window_is_part_of_the_order(builder, uninterrupted):
  small = _labels(_train(builder, window=1))
  assert (small != _labels(uninterrupted)).mean() > 0.5


def test_all_epochs_are_one_trace(builder):
  """To trace AutoAugment again took a second at the start of each epoch."""
  num_traces = 0

  def image_fn(image_bytes, seed):
    nonlocal num_traces
    del seed
    num_traces += 1
    return _decode(image_bytes)

  _train(builder, image_fn=image_fn, start_step=2)
  assert num_traces == 1


def test_the_next_epoch_is_begun_before_this_one_is_over(builder):
  seen = set()

  def note(order_seed):
    seen.add(int(order_seed))
    return order_seed

  def image_fn(image_bytes, seed):
    order_seed = tf.numpy_function(note, [seed[0]], tf.int64)
    return _decode(image_bytes) + tf.cast(order_seed * 0, tf.uint8)

  batches = pipeline.train_batches(
    Examples(builder, 'train'),
    batch_size=BATCH_SIZE,
    image_fn=image_fn,
    seed=0,
    start_step=0,
    num_steps=NUM_STEPS,
    window=1000,
  )
  for _ in range(STEPS_PER_EPOCH):
    next(batches)
  deadline = time.monotonic() + 60
  while len(seen) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert seen == {order.epoch_seed(0, 0), order.epoch_seed(0, 1)}


def test_records_held_back_must_fit_into_memory(builder, monkeypatch):
  monkeypatch.setattr(pipeline, 'host_memory', lambda: 4000)
  monkeypatch.setattr(pipeline, '_record_bytes', lambda builder: 100.0)

  def window(num_records, **kwargs):
    return pipeline.shuffle_window(
      Examples(builder, 'train'),
      shuffle_gib=num_records * 100 / 2**30,
      **kwargs,
    )

  assert window(10) == 10  # twice 10 are half of what is there
  with pytest.raises(ValueError, match=r'--config\.shuffle_gib=.* than half'):
    window(11)
  assert window(20, process_count=2) == 20
  with pytest.raises(ValueError, match='more than half of the'):
    window(10**9)  # no more than there are, 50
  assert window(10**9, process_count=5) == NUM_TRAIN


def test_augmentation_never_sees_a_seed_twice(builder):
  """Over two epochs and two processes, and the same after a restart."""

  def seeds(process_index, **kwargs):
    batches = _train(
      builder,
      image_fn=lambda image_bytes, seed: seed,  # the 'image' is its seed
      process_index=process_index,
      process_count=2,
      **kwargs,
    )
    return np.concatenate([batch['image'] for batch in batches])

  every = np.concatenate([seeds(0), seeds(1)])
  assert every.shape == (NUM_STEPS * BATCH_SIZE, 2)
  assert every.dtype == np.int64
  assert len(np.unique(every, axis=0)) == len(every)
  resumed = seeds(1, start_step=7)
  np.testing.assert_array_equal(resumed, every[-len(resumed) :])


@pytest.mark.parametrize(
  ('batch_size', 'process_count'),
  # Of 4 files are made as many streams, or 3 or 2; processes read several of
  # them, one, or parts of some.
  [(8, 2), (8, 4), (8, 8), (12, 3), (6, 2), (10, 5)],
)
@pytest.mark.parametrize('window', [1000, 1])
def test_any_number_of_processes_sees_the_same_batches(
  builder, batch_size, process_count, window
):
  def stream(**kwargs):
    batches = _train(
      builder,
      batch_size=batch_size,
      window=window,
      # The label comes with it; the 'image' says where the randomness is from.
      image_fn=lambda image_bytes, seed: seed,
      **kwargs,
    )
    return [
      np.stack([batch[name] for batch in batches])
      for name in ('label', 'image')
    ]

  alone = stream()
  parts = [
    stream(process_index=index, process_count=process_count)
    for index in range(process_count)
  ]
  for whole, *pieces in zip(alone, *parts, strict=True):
    assert {len(piece[0]) for piece in pieces} == {batch_size // process_count}
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def test_a_run_may_go_on_with_another_number_of_processes(
  builder, uninterrupted
):
  resumed = [
    _labels(_train(builder, start_step=8, process_index=index, process_count=4))
    for index in range(4)
  ]
  np.testing.assert_array_equal(
    np.concatenate(resumed, axis=1), _labels(uninterrupted)[8:]
  )


def test_slices_are_respected(builder):
  part = _labels(_train(builder, split='train[:34]'))
  rest = _labels(_train(builder, split='train[34:]'))
  assert not set(part.ravel()) & set(rest.ravel())
  assert len(set(rest.ravel())) == 16


def test_split_smaller_than_a_batch_is_refused(builder):
  with pytest.raises(ValueError, match=r'has 7 examples.* batch of 8') as error:
    _train(builder, split='train[:7]')
  assert "'train[:7]' of 'numbered'" in str(error.value)
  assert '--config.batch_size' in str(error.value)


# Evaluation.


def _eval(builder, *, split='test', local_size=4, count=1):
  """Batches of every process."""
  return [
    list(
      pipeline.eval_batches(
        Examples(builder, split),
        batch_size=local_size * count,
        image_fn=_decode,
        process_index=index,
        process_count=count,
      )
    )
    for index in range(count)
  ]


@pytest.mark.parametrize(
  ('process_count', 'split', 'size'),
  [
    *[(count, 'test', 23) for count in (1, 2, 3, 5, 7)],
    (5, 'test[:3]', 3),  # two processes have nothing at all to read
  ],
)
def test_evaluation_covers_everything_once(builder, process_count, split, size):
  processes = _eval(builder, split=split, count=process_count)
  expected_steps = pipeline.num_eval_steps(
    Examples(builder, split),
    batch_size=4 * process_count,
    process_count=process_count,
  )
  assert [len(batches) for batches in processes] == (
    [expected_steps] * process_count
  )
  batches = list(itertools.chain(*processes))
  for batch in batches:
    assert batch['image'].shape == (4, 1, 1, 1)
    assert batch['image'].dtype == np.uint8
    assert batch['label'].shape == batch['mask'].shape == (4,)
    assert batch['label'].dtype == np.int32
    assert batch['mask'].dtype == np.float32
  whole = {
    name: np.concatenate([batch[name] for batch in batches])
    for name in ('image', 'label', 'mask', 'id')
  }
  real = whole['mask'] == 1
  assert real.sum() == size
  counts = collections.Counter(whole['id'][real])
  assert max(counts.values()) == 1
  labels = whole['label'][real]
  assert len(set(labels)) == size
  np.testing.assert_array_equal(whole['image'][real].ravel(), labels)
  if split == 'test':
    assert sorted(labels) == list(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST))
  # Padding is nothing but zeros.
  assert not whole['mask'][~real].any()
  assert not whole['image'][~real].any()
  assert not whole['label'][~real].any()
  assert set(whole['id'][~real]) <= {b''}


@pytest.mark.parametrize(
  ('batch_size', 'process_count', 'steps'),
  # Shards of 23 examples: 23; 12 + 11; 5 + 5 + 5 + 4 + 4.
  [(23, 1, 1), (22, 1, 2), (24, 2, 1), (22, 2, 2), (25, 5, 1), (20, 5, 2)],
)
def test_the_largest_shard_sets_the_number_of_steps(
  builder, batch_size, process_count, steps
):
  assert steps == pipeline.num_eval_steps(
    Examples(builder, 'test'),
    batch_size=batch_size,
    process_count=process_count,
  )


def test_evaluation_ids_name_examples_whoever_reads(builder):
  def ids(count):
    return {
      name: label
      for batches in _eval(builder, count=count)
      for batch in batches
      for name, label in zip(batch['id'], batch['label'], strict=True)
      if name
    }

  assert ids(1) == ids(3)


def test_loading_does_not_depend_on_reading_order(builder, monkeypatch):
  images, labels = pipeline.load_examples(
    Examples(builder, 'train'), image_fn=_decode
  )
  assert images.shape == (NUM_TRAIN, 1, 1, 1)
  assert images.dtype == np.uint8
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(images.ravel(), labels)
  assert sorted(labels) == list(range(NUM_TRAIN))

  forwards = pipeline._read

  def shuffled(builder, split, **kwargs):
    return forwards(builder, split, **kwargs).shuffle(100, seed=1)

  monkeypatch.setattr(pipeline, '_read', shuffled)
  _, again = pipeline.load_examples(
    Examples(builder, 'train'), image_fn=_decode
  )
  np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize('label', [-1, 10])
def test_label_outside_the_classes_is_named(label):
  labels = np.array([0, 9, label, 3, label])
  pipeline.check_labels({'label': labels[:2]}, num_classes=10)
  outside = rf'has label {label}, outside \[0, 10\)'
  with pytest.raises(ValueError, match='An example ' + outside):
    pipeline.check_labels({'label': labels}, num_classes=10)
  ids = np.array([b'a', b'b', b'c', b'd', b'e'], object)
  with pytest.raises(ValueError, match="Example b'c' " + outside):
    pipeline.check_labels({'label': labels}, num_classes=10, ids=ids)


# Real images.


def test_digits_keep_their_labels_and_epochs_differ(digits_dir):
  """Joined by content with scikit-learn's own copy; all in one file."""
  digits = load_digits()
  label_of = {
    np.rint(image * (255 / 16)).astype(np.uint8).tobytes(): label
    for image, label in zip(digits.images, digits.target, strict=True)
  }
  batches = _train(
    datasets.open_dataset('digits', data_dir=digits_dir),
    batch_size=100,
    num_steps=28,
    image_fn=lambda image_bytes, seed: tf.ensure_shape(
      tf.io.decode_png(image_bytes), (8, 8, 1)
    ),
  )
  images = [image for batch in batches for image in batch['image']]
  expected = [label_of[image.tobytes()] for image in images]
  np.testing.assert_array_equal(_labels(batches).ravel(), expected)
  # No batch is made of a few classes only, as in data stored class by class.
  assert min(len(np.unique(row)) for row in _labels(batches)) == 10
  epochs = np.array(expected).reshape(2, 1400)
  assert (epochs[0] != epochs[1]).mean() > 0.8
