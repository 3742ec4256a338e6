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
from tensorflow_datasets.core import file_adapters

from lossbench.data import order
from lossbench.data.bad_images import damaged_files_named, first_bad_image
from lossbench.data.datasets import label_feature
from lossbench.data.draws import with_seeds
from lossbench.data.examples import Examples
from lossbench.data.folder_epochs import FolderEpochs
from lossbench.data.folders import FolderBuilder, checked

Batch = dict[str, np.ndarray]
# (encoded image bytes, stateless seed [2]) -> uint8 image [H, W, C]
TrainImageFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
EvalImageFn = Callable[[tf.Tensor], tf.Tensor]

_NUM_READERS = 16  # files that one process reads at the same moment


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


class _TrainFiles:
  """The files of training examples as sequences of usable records.

  Args:
    examples: to train on.

  Attributes:
    sizes: usable records of each file.
  """

  def __init__(self, examples: Examples):
    info = examples.builder.info
    parts = info.splits[examples.split].file_instructions
    self._paths = [str(part.filename) for part in parts]
    # TFDS's ids are 'file name__position in the file'.
    self._names = [os.path.basename(path) for path in self._paths]
    self._skip = np.array([part.skip for part in parts], np.int64)
    self._take = np.array([part.take for part in parts], np.int64)
    self._bad_ids = sorted(examples.bad_ids)
    self._reader = file_adapters.ADAPTER_FOR_FORMAT[info.file_format]
    bad = [name.rpartition('__') for name in examples.bad_ids]
    self.sizes = [
      take
      - sum(
        file == name and skip <= int(index) < skip + take
        for file, _, index in bad
      )
      for name, skip, take in zip(
        self._names, self._skip, self._take, strict=True
      )
    ]

  def read(self, file, first, count, *, with_ids: bool) -> tf.data.Dataset:
    """`count` usable records of a file, from the usable one `first` on.

    Where the file ends too early, tf.errors.FailedPreconditionError is raised.

    Args:
      file: scalar int64, its position.
      first: scalar int64.
      count: scalar int64.
      with_ids: whether to say TFDS's ids.

    Returns:
      (serialized record,), or (record, id).
    """
    start = tf.gather(self._skip, file)
    records = self._reader.make_tf_data(tf.gather(self._paths, file))
    if not self._bad_ids:  # TensorFlow skips within a file without reading
      records, start = records.skip(start + first), start + first
    else:
      records = records.skip(start).take(tf.gather(self._take, file))
    if with_ids or self._bad_ids:
      name = tf.gather(self._names, file)
      records = records.enumerate(start).map(
        lambda index, record: (
          record,
          tf.strings.join([name, '__', tf.strings.as_string(index)]),
        )
      )
    else:
      records = records.map(lambda record: (record,))
    if self._bad_ids:
      bad = tf.constant(self._bad_ids)
      records = records.filter(
        lambda _, record_id: tf.reduce_all(record_id != bad)
      ).skip(first)
    records = records.take(count)
    return records.apply(tf.data.experimental.assert_cardinality(count))


class _Epochs:
  """The records of training epochs, in the order in which they are trained on.

  One graph is traced for all epochs; which one it is, and where in it to start,
  are arguments.

  Args:
    files: of the split.
    batch_size: global.
    window: records held back for shuffling, over all processes.
    seed: of the run.
    process_index: of this process.
    process_count: of the run.

  Attributes:
    steps: of an epoch; 0 if the records do not fill one batch.
  """

  def __init__(
    self,
    files: _TrainFiles,
    *,
    batch_size: int,
    window: int,
    seed: int,
    process_index: int,
    process_count: int,
  ):
    self._files, self._seed = files, seed
    self._batch_size = batch_size
    self.local_size = batch_size // process_count
    self._first_place = process_index * self.local_size
    self.steps = sum(files.sizes) // batch_size
    self.num_streams = order.count_streams(
      num_files=len(files.sizes), batch_size=batch_size
    )
    self.buffer_size = max(1, window // self.num_streams)
    self._share = order.process_share(
      batch_size=batch_size,
      num_streams=self.num_streams,
      process_index=process_index,
      process_count=process_count,
    )

  def arguments(self, epoch: int, offset: int) -> tuple[np.ndarray, ...]:
    """What `records` is given for an epoch from its step `offset` on."""
    segments = order.epoch_segments(
      self._files.sizes,
      num_streams=self.num_streams,
      stream_size=self.steps * (self._batch_size // self.num_streams),
      seed=self._seed,
      epoch=epoch,
    )
    return (
      *segments,
      order.stream_seeds(self._seed, epoch, num_streams=self.num_streams),
      np.int64(order.epoch_seed(self._seed, epoch)),
      np.int64(offset),
    )

  signature = (
    *[tf.TensorSpec([None], tf.int64)] * 5,
    *[tf.TensorSpec([], tf.int64)] * 2,
  )

  def records(self, *arguments, with_ids: bool = False) -> tf.data.Dataset:
    """(seed of its augmentation, record and perhaps id) of every example.

    Args:
      *arguments: of `arguments`, as arrays or tensors.
      with_ids: as of `_TrainFiles.read`.
    """
    file, first, count, splits, stream_seeds, order_seed, offset = (
      tf.convert_to_tensor(argument) for argument in arguments
    )
    per_stream = self._batch_size // self.num_streams

    def read_segment(segment):
      return self._files.read(
        file[segment], first[segment], count[segment], with_ids=with_ids
      )

    def read_stream(stream, low, high):
      """This process's part of every batch's part of a stream."""
      return (
        tf.data.Dataset.range(splits[stream], splits[stream + 1])
        .flat_map(read_segment)
        .shuffle(
          self.buffer_size,
          seed=stream_seeds[stream],
          reshuffle_each_iteration=False,
        )
        .skip(offset * per_stream)
        .batch(per_stream, drop_remainder=True)
        .map(lambda *parts: tuple(part[low:high] for part in parts))
      )

    num_streams = len(self._share.streams)
    records = tf.data.Dataset.from_tensor_slices(tuple(self._share)).interleave(
      read_stream,
      cycle_length=num_streams,
      num_parallel_calls=min(_NUM_READERS, num_streams),
    )
    return with_seeds(
      records.unbatch(),
      order_seed=order_seed,
      offset=offset,
      batch_size=self._batch_size,
      local_size=self.local_size,
      first_place=self._first_place,
    )


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
  epochs: _Epochs | FolderEpochs
  if isinstance(examples.builder, FolderBuilder):
    epochs = FolderEpochs(examples, **of_all)
  else:
    epochs = _Epochs(_TrainFiles(examples), window=window, **of_all)
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
