"""Epochs of training examples that TFDS keeps in files of many records.

Within an epoch the files are read side by side, in an order and from buffers that
are functions of the seed; see `data/order.py`.
"""

import os

import numpy as np
import tensorflow as tf
from tensorflow_datasets.core import file_adapters

from lossbench.data import order
from lossbench.data.draws import with_seeds
from lossbench.data.examples import Examples

_NUM_READERS = 16  # files that one process reads at the same moment


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


class FileEpochs:
  """The records of training epochs, in the order in which they are trained on.

  One graph is traced for all epochs; which one it is, and where in it to start,
  are arguments.

  Args:
    examples: to train on.
    batch_size: global.
    window: records held back for shuffling, over all processes.
    seed: of the run.
    process_index: of this process.
    process_count: of the run.

  Attributes:
    steps: of an epoch; 0 if the records do not fill one batch.
    local_size: examples of a batch that this process reads.
    num_streams: of files, read side by side.
    buffer_size: records held back to shuffle one of them.
  """

  def __init__(
    self,
    examples: Examples,
    *,
    batch_size: int,
    window: int,
    seed: int,
    process_index: int,
    process_count: int,
  ):
    files = _TrainFiles(examples)
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
