"""Streams of batches read by tf.data: for data sets of any size.

The order of the training data and the randomness of its augmentation are
functions of (seed, step) and of the number of processes alone, so a restart at
step s continues the very stream that an uninterrupted run would have seen.
Every process reads its own shard.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data.bad_images import damaged_files_named, first_bad_image
from lossbench.data.datasets import label_feature
from lossbench.data.examples import Examples
from lossbench.data.order import epoch_seed

Batch = dict[str, np.ndarray]
# (encoded image bytes, stateless seed [2]) -> uint8 image [H, W, C]
TrainImageFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
EvalImageFn = Callable[[tf.Tensor], tf.Tensor]

_SHUFFLE_BYTES = 256 * 2**20  # of encoded images held back by one process


def _options() -> tf.data.Options:
  options = tf.data.Options()
  options.deterministic = True
  # One process per host shares its cores with nobody else of ours.
  options.threading.max_intra_op_parallelism = 1
  return options


def _read(builder, split, *, shuffle_seed=None, with_ids=False):
  """Encoded records of a split, files shuffled by `shuffle_seed` if given."""
  return builder.as_dataset(
    split=split,
    shuffle_files=shuffle_seed is not None,
    # Masks and other features of some data sets cost more than the image.
    decoders=tfds.decode.PartialDecoding(
      {'image': True, label_feature(builder): True},
      decoders={'image': tfds.decode.SkipDecoding()},
    ),
    read_config=tfds.ReadConfig(
      options=_options(),
      shuffle_seed=shuffle_seed,
      shuffle_reshuffle_each_iteration=False,
      interleave_cycle_length=16,
      skip_prefetch=True,
      try_autocache=False,
      add_tfds_id=with_ids,
    ),
  )


def _without(records, bad_ids):
  if not bad_ids:
    return records
  bad = tf.constant(sorted(bad_ids))
  return records.filter(lambda record: tf.reduce_all(record['tfds_id'] != bad))


def _iterate(batches, examples, *, image_fn, records_fn):
  """Yields NumPy batches; a damaged record becomes one line that names it.

  Args:
    batches: to be iterated.
    examples: for the message.
    image_fn: encoded bytes -> image; fails on the damaged one.
    records_fn: number of batches already yielded -> records of the next one.
      As order is deterministic the culprit is among them, and a failure of
      another kind does not decode the rest of the epoch in search of one.
  """
  num_yielded = 0
  with damaged_files_named(examples.builder, examples.split):
    try:
      for batch in batches.as_numpy_iterator():
        yield batch
        num_yielded += 1
    except tf.errors.InvalidArgumentError as error:
      found = first_bad_image(records_fn(num_yielded), image_fn)
      if found is None:
        raise
      raise ValueError(
        f'Image {found[0]!r} of {examples.builder.name!r} cannot be used: '
        f'{found[1]} '
        'Repair the record, or train with --config.on_bad_image=skip, which '
        'leaves such images out.'
      ) from error


def usable_examples(examples: Examples, *, process_count: int = 1) -> int:
  """Examples of a training split that an epoch can draw from.

  Every process must take the same number of steps, and all undecodable images
  may lie in the shard of one of them.
  """
  num_bad = len(examples.bad_ids)
  return max(0, examples.num_examples + num_bad - process_count * num_bad)


def _shuffle_buffer(builder, split) -> int:
  info = builder.info.splits[split]
  per_example = max(1, builder.info.dataset_size // max(1, _total(builder)))
  return int(min(info.num_examples, max(1024, _SHUFFLE_BYTES // per_example)))


def _total(builder) -> int:
  return sum(split.num_examples for split in builder.info.splits.values())


def train_batches(
  examples: Examples,
  *,
  batch_size: int,
  image_fn: TrainImageFn,
  seed: int,
  start_step: int,
  num_steps: int,
  check_image_fn: EvalImageFn = tf.io.decode_image,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Training batches of this process for steps start_step .. num_steps - 1.

  Every epoch is a new order; the examples that do not fill its last batch are
  left out of that epoch.

  Args:
    examples: to train on.
    batch_size: global, divisible by `process_count`.
    image_fn: (encoded bytes, stateless seed [2] int64) -> uint8 [H, W, C].
    seed: of order and augmentation.
    start_step: first step to yield.
    num_steps: of the whole run.
    check_image_fn: encoded bytes -> image; finds the culprit after a failure.
    process_index: of this process.
    process_count: of the run; another count is another, equally fixed, order.

  Yields:
    image uint8 [batch_size / process_count, H, W, C] and label int32 [...].

  Raises:
    ValueError: if the split cannot fill one batch, or a record is damaged.
  """
  builder, split, bad_ids = examples.builder, examples.split, examples.bad_ids
  shard = tfds.even_splits(split, process_count, drop_remainder=True)[
    process_index
  ]
  local_size = batch_size // process_count
  usable = usable_examples(examples, process_count=process_count)
  steps_per_epoch = usable // batch_size
  if steps_per_epoch == 0:
    raise ValueError(
      f'Split {split!r} of {builder.name!r} has {usable} examples, fewer than '
      f'one batch of {batch_size}. Lower --config.batch_size.'
    )
  buffer_size = _shuffle_buffer(builder, shard)
  label = label_feature(builder)

  def records(order_seed, *, with_ids=False):
    return _without(
      _read(
        builder,
        shard,
        shuffle_seed=order_seed,
        with_ids=with_ids or bool(bad_ids),
      ),
      bad_ids,
    ).shuffle(buffer_size, seed=order_seed, reshuffle_each_iteration=False)

  def example(position, record, *, order_seed):
    # The position within the epoch identifies the draw, not the example, as
    # an augmentation must differ each time that an example comes round.
    noise_seed = tf.stack(
      [order_seed, position * process_count + process_index]
    )
    return {
      'image': image_fn(record['image'], noise_seed),
      'label': tf.cast(record[label], tf.int32),
    }

  step = start_step
  while step < num_steps:
    epoch, offset = divmod(step, steps_per_epoch)
    order_seed = epoch_seed(seed, epoch)
    epoch_end = min(num_steps, (epoch + 1) * steps_per_epoch)
    example_fn = functools.partial(
      example, order_seed=tf.constant(order_seed, tf.int64)
    )
    batches = (
      records(order_seed)
      .enumerate()
      .skip(offset * local_size)
      .take((epoch_end - step) * local_size)
      .map(example_fn, num_parallel_calls=tf.data.AUTOTUNE)
      .batch(local_size, drop_remainder=True)
      .prefetch(tf.data.AUTOTUNE)
    )

    def records_from(num_yielded, order_seed=order_seed, offset=offset):
      first = (offset + num_yielded) * local_size
      return records(order_seed, with_ids=True).skip(first).take(local_size)

    yield from _iterate(
      batches,
      examples,
      image_fn=check_image_fn,
      records_fn=records_from,
    )
    step = epoch_end


def num_eval_steps(
  examples: Examples, *, batch_size: int, process_count: int = 1
) -> int:
  """Batches that every process yields to cover the split exactly once."""
  splits = examples.builder.info.splits
  local_size = batch_size // process_count
  shards = tfds.even_splits(examples.split, process_count, drop_remainder=False)
  largest = max(splits[shard].num_examples for shard in shards)
  return -(-largest // local_size)


def eval_batches(
  examples: Examples,
  *,
  batch_size: int,
  image_fn: EvalImageFn,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Every example of the split exactly once over all processes.

  All processes yield the same number of batches of the same shape; the tail is
  filled up with zero images whose mask is 0.

  Args:
    examples: to evaluate on.
    batch_size: global, divisible by `process_count`.
    image_fn: encoded bytes -> uint8 [H, W, C].
    process_index: of this process.
    process_count: of the run.

  Yields:
    image uint8 [b, H, W, C], label int32 [b], mask float32 [b] (1 = real,
    0 = padding) and id: TFDS's example ids, bytes [b], empty for padding; with
    b = batch_size / process_count.

  Raises:
    ValueError: if a record is damaged; names it.
  """
  builder, split = examples.builder, examples.split
  label = label_feature(builder)
  local_size = batch_size // process_count
  shard = tfds.even_splits(split, process_count, drop_remainder=False)[
    process_index
  ]
  if builder.info.splits[shard].num_examples > 0:
    records = _without(_read(builder, shard, with_ids=True), examples.bad_ids)
  else:  # TFDS refuses to read nothing
    records = _read(builder, split, with_ids=True).take(0)

  def example(record):
    return {
      'image': image_fn(record['image']),
      'label': tf.cast(record[label], tf.int32),
      'mask': tf.constant(1.0),
      'id': record['tfds_id'],
    }

  batches = (
    records.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(local_size)
    .prefetch(tf.data.AUTOTUNE)
  )
  remaining = num_eval_steps(
    examples, batch_size=batch_size, process_count=process_count
  )
  shape, dtype = batches.element_spec['image'].shape[1:], np.uint8

  def records_of(num_yielded):
    return records.skip(num_yielded * local_size).take(local_size)

  for batch in _iterate(
    batches,
    examples,
    image_fn=image_fn,
    records_fn=records_of,
  ):
    yield _pad(batch, local_size)
    remaining -= 1
  empty = {
    'image': np.zeros((0, *shape), dtype),
    'label': np.zeros((0,), np.int32),
    'mask': np.zeros((0,), np.float32),
    'id': np.zeros((0,), object),
  }
  for _ in range(remaining):
    yield _pad(empty, local_size)


def _pad(batch: Batch, size: int) -> Batch:
  missing = size - len(batch['mask'])
  if not missing:
    return batch
  padding = {'id': b''}
  return {
    name: np.concatenate(
      [
        value,
        np.full((missing, *value.shape[1:]), padding.get(name, 0), value.dtype),
      ]
    )
    for name, value in batch.items()
  }


def check_labels(
  batch: Batch, *, num_classes: int, ids: np.ndarray | None = None
):
  """Raises ValueError naming the first label outside [0, num_classes)."""
  labels = batch['label']
  bad = (labels < 0) | (labels >= num_classes)
  if bad.any():
    index = int(np.argmax(bad))
    example = 'An example' if ids is None else f'Example {ids[index]!r}'
    raise ValueError(
      f'{example} has label {labels[index]}, outside [0, {num_classes}). Check '
      '--config.num_classes and the data.'
    )


def load_examples(
  examples: Examples, *, image_fn: EvalImageFn
) -> tuple[np.ndarray, np.ndarray]:
  """All of them in memory: images uint8 [N, H, W, C] and labels int32 [N].

  Ordered by example id, so that the order does not depend on how the files
  were read.
  """
  batches = list(eval_batches(examples, batch_size=1024, image_fn=image_fn))
  whole = {
    name: np.concatenate([batch[name] for batch in batches])
    for name in batches[0]
  }
  real = whole['mask'] > 0
  order = np.argsort(whole['id'][real].astype(bytes), kind='stable')
  return whole['image'][real][order], whole['label'][real][order]
