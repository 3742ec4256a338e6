"""Streams of batches read by tf.data: for data sets of any size.

The order of the training data and the randomness of its augmentation are
functions of (seed, step) alone, so a restart at step s, on any number of
processes, continues the very stream that an uninterrupted run would have seen.
Every process decodes its own part of each batch.
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data.bad_images import damaged_files_named, first_bad_image
from lossbench.data.datasets import label_feature
from lossbench.data.examples import Examples
from lossbench.data.file_epochs import FileEpochs
from lossbench.data.folder_epochs import FolderEpochs
from lossbench.data.folders import FolderBuilder, checked

Batch = dict[str, np.ndarray]
# (encoded image bytes, stateless seed [2]) -> uint8 image [H, W, C]
TrainImageFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
EvalImageFn = Callable[[tf.Tensor], tf.Tensor]


def _options(*, warm_start: bool = False) -> tf.data.Options:
  options = tf.data.Options()
  options.deterministic = True
  # Reading begins with the iterator, not with its first batch.
  options.experimental_warm_start = warm_start
  # One process per host shares its cores with nobody else of ours.
  options.threading.max_intra_op_parallelism = 1
  return options


def _partial_decoding(builder) -> tfds.decode.PartialDecoding:
  # Masks and other features of some data sets cost more than the image.
  return tfds.decode.PartialDecoding(
    {'image': True, label_feature(builder): True},
    decoders={'image': tfds.decode.SkipDecoding()},
  )


def _read(builder, split):
  """Encoded records of a split, with their ids, in the order of the files."""
  return builder.as_dataset(
    split=split,
    decoders=_partial_decoding(builder),
    read_config=tfds.ReadConfig(
      options=_options(),
      interleave_cycle_length=16,
      skip_prefetch=True,
      try_autocache=False,
      add_tfds_id=True,
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
    batches: an iterator of them.
    examples: for the message.
    image_fn: encoded bytes -> image; fails on the damaged one.
    records_fn: number of batches already yielded -> records of the next one.
      As order is deterministic the culprit is among them, and a failure of
      another kind does not decode the rest of the epoch in search of one.
  """
  num_yielded = 0
  with damaged_files_named(examples.builder, examples.split):
    try:
      for batch in batches:
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


def _record_bytes(builder) -> float:
  """Mean size of an encoded record."""
  total = sum(split.num_examples for split in builder.info.splits.values())
  return max(1.0, builder.info.dataset_size / max(1, total))


def host_memory() -> int:
  """Bytes of memory that this host, or its container, has."""
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  try:
    with open('/sys/fs/cgroup/memory.max') as file:
      return min(memory, int(file.read()))
  except (OSError, ValueError):  # no container, or 'max'
    return memory


def shuffle_window(
  examples: Examples, *, shuffle_gib: float, process_count: int = 1
) -> int:
  """Records that are held back for shuffling, over all processes.

  Args:
    examples: to train on.
    shuffle_gib: GiB of encoded records; of images in folders none are.
    process_count: of the run; they share the records out.

  Raises:
    ValueError: if they would take more than half of the memory of this host.
  """
  if isinstance(examples.builder, FolderBuilder):
    return 0  # an epoch is a permutation of all of them
  per_record = _record_bytes(examples.builder)
  window = int(
    min(examples.num_examples, max(1, shuffle_gib * 2**30 / per_record))
  )
  # Where one epoch gives way to the next there are two.
  needed, there = 2 * window * per_record / process_count, host_memory()
  if needed > there / 2:
    raise ValueError(
      f'--config.shuffle_gib={shuffle_gib} may fill {needed / 2**30:.1f} GiB of '
      'each process where one epoch gives way to the next, more than half of '
      f'the {there / 2**30:.1f} GiB of this host. Give at most '
      f'{there * process_count / 2**32:.2g}.'
    )
  return window


def train_batches(
  examples: Examples,
  *,
  batch_size: int,
  image_fn: TrainImageFn,
  seed: int,
  start_step: int,
  num_steps: int,
  window: int,
  check_image_fn: EvalImageFn = tf.io.decode_image,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Training batches of this process for steps start_step .. num_steps - 1.

  Every epoch is a new order, whose reading begins before the last one is over;
  the examples that do not fill its last batch are left out of that epoch.

  Args:
    examples: to train on.
    batch_size: global, divisible by `process_count`.
    image_fn: (encoded bytes, stateless seed [2] int64) -> uint8 [H, W, C].
    seed: of order and augmentation.
    start_step: first step to yield.
    num_steps: of the whole run.
    window: records held back for shuffling, over all processes; the order
      depends on it.
    check_image_fn: encoded bytes -> image; finds the culprit after a failure.
    process_index: of this process.
    process_count: of the run; changes no global batch.

  Yields:
    image uint8 [batch_size / process_count, H, W, C] and label int32 [...].

  Raises:
    ValueError: if the split cannot fill one batch, or a record is damaged.
  """
  if examples.num_examples < batch_size:
    raise ValueError(
      f'Split {examples.split!r} of {examples.builder.name!r} has '
      f'{examples.num_examples} examples, fewer than one batch of {batch_size}. '
      'Lower --config.batch_size.'
    )
  of_all = dict(
    batch_size=batch_size,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
  )
  image_fn, check_image_fn = (
    checked(examples.builder, fn) for fn in (image_fn, check_image_fn)
  )
  epochs: FileEpochs | FolderEpochs
  if isinstance(examples.builder, FolderBuilder):
    epochs = FolderEpochs(examples, **of_all)
  else:
    epochs = FileEpochs(examples, window=window, **of_all)
  start_fn = _create_start_fn(examples.builder, epochs, image_fn)
  # As one epoch's window empties, that of the next one fills.
  num_ahead = max(1, -(-window // batch_size))
  with concurrent.futures.ThreadPoolExecutor(max_workers=1) as executor:
    step, upcoming = start_step, None
    while step < num_steps:
      epoch, offset = divmod(step, epochs.steps)
      epoch_end = min(num_steps, (epoch + 1) * epochs.steps)
      batches = upcoming.result() if upcoming else start_fn(epoch, offset)
      upcoming = None
      for batch in _iterate(
        itertools.islice(batches, epoch_end - step),
        examples,
        image_fn=check_image_fn,
        records_fn=functools.partial(
          _encoded, examples.builder, epochs, epoch, offset
        ),
      ):
        step += 1
        is_near = epoch_end - step <= num_ahead and epoch_end < num_steps
        if is_near and not upcoming:
          upcoming = executor.submit(start_fn, epoch + 1, 0)
        yield batch


def _encoded(builder, epochs, epoch, offset, num_yielded) -> tf.data.Dataset:
  """The encoded records of a batch, with their ids."""
  decode_fn = _record_decoder(builder)
  return (
    epochs.records(
      *epochs.arguments(epoch, offset + num_yielded), with_ids=True
    )
    .take(epochs.local_size)
    .map(
      lambda _, record, record_id: {**decode_fn(record), 'tfds_id': record_id}
    )
  )


def _record_decoder(builder) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
  """Serialized record, or place of a file, -> encoded 'image' and label."""
  if isinstance(builder, FolderBuilder):
    return builder.read_record
  decoding = _partial_decoding(builder)
  features = decoding.extract_features(builder.info.features)
  return lambda record: features.deserialize_example(
    record, decoders=decoding.decoders
  )


def _create_start_fn(builder, epochs, image_fn: TrainImageFn):
  """(epoch, offset) -> an iterator of NumPy batches that already reads."""
  decode_fn, label = _record_decoder(builder), label_feature(builder)
  spec = None

  def example(noise_seed, serialized, *record_id):
    del record_id
    record = decode_fn(serialized)
    return {
      'image': image_fn(record['image'], noise_seed),
      'label': tf.cast(record[label], tf.int32),
    }

  @tf.function(input_signature=epochs.signature)
  def batches_of(*arguments):
    nonlocal spec
    batches = (
      epochs.records(*arguments)
      .map(example, num_parallel_calls=tf.data.AUTOTUNE)
      .batch(epochs.local_size, drop_remainder=True)
      .prefetch(tf.data.AUTOTUNE)
      .with_options(_options(warm_start=True))
    )
    spec = batches.element_spec  # which the variant does not carry
    return tf.data.experimental.to_variant(batches)

  def start(epoch, offset):
    variant = batches_of(*epochs.arguments(epoch, offset))
    batches = tf.data.experimental.from_variant(variant, spec)
    return batches.as_numpy_iterator()

  return start


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
    image_fn: encoded bytes -> [H, W, C].
    process_index: of this process.
    process_count: of the run.

  Yields:
    image [b, H, W, C] as of `image_fn`, label int32 [b], mask float32 [b] (1 = real,
    0 = padding) and id: TFDS's example ids, bytes [b], empty for padding; with
    b = batch_size / process_count.

  Raises:
    ValueError: if a record is damaged; names it.
  """
  builder, split = examples.builder, examples.split
  image_fn = checked(builder, image_fn)
  label = label_feature(builder)
  local_size = batch_size // process_count
  shard = tfds.even_splits(split, process_count, drop_remainder=False)[
    process_index
  ]
  if builder.info.splits[shard].num_examples > 0:
    records = _without(_read(builder, shard), examples.bad_ids)
  else:  # TFDS refuses to read nothing
    records = _read(builder, split).take(0)

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
  image = batches.element_spec['image']

  def records_of(num_yielded):
    return records.skip(num_yielded * local_size).take(local_size)

  for batch in _iterate(
    batches.as_numpy_iterator(),
    examples,
    image_fn=image_fn,
    records_fn=records_of,
  ):
    yield _pad(batch, local_size)
    remaining -= 1
  empty = {
    'image': np.zeros((0, *image.shape[1:]), image.dtype.as_numpy_dtype),
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
  """All examples in memory: images uint8 [N, H, W, C] and labels int32 [N].

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
