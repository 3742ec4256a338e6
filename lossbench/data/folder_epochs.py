"""The order in which images in folders are trained on.

Each is a file of its own, so that nothing is held back to shuffle them: an epoch
is one permutation of all, the same as of data that live on the devices.
"""

import numpy as np
import tensorflow as tf

from lossbench.data.device_data import permutation
from lossbench.data.draws import with_seeds
from lossbench.data.examples import Examples
from lossbench.data.order import epoch_seed


class FolderEpochs:
  """The examples of training epochs, in order, as `file_epochs.FileEpochs`.

  One graph is traced for all epochs; which one it is, and where in it to start,
  are arguments.

  Args:
    examples: to train on, of a `FolderBuilder`.
    batch_size: global.
    seed: of the run.
    process_index: of this process.
    process_count: of the run.

  Attributes:
    steps: of an epoch; 0 if the examples do not fill one batch.
    local_size: examples of a batch that this process reads.
  """

  signature = (
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([], tf.int64),
  )

  def __init__(
    self,
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
  ):
    builder = examples.builder
    self._builder = builder
    self._places = builder.positions(examples.split, without=examples.bad_ids)
    self._seed, self._batch_size = seed, batch_size
    self.local_size = batch_size // process_count
    self._first_place = process_index * self.local_size
    self.steps = len(self._places) // batch_size

  def arguments(self, epoch: int, offset: int) -> tuple[np.ndarray, ...]:
    """What `records` is given for an epoch from its step `offset` on."""
    order = permutation(len(self._places), self._seed, epoch)
    batches = order[: self.steps * self._batch_size].reshape(self.steps, -1)
    mine = slice(self._first_place, self._first_place + self.local_size)
    return (
      self._places[batches[offset:, mine].ravel()],
      np.int64(epoch_seed(self._seed, epoch)),
      np.int64(offset),
    )

  def records(self, *arguments, with_ids: bool = False) -> tf.data.Dataset:
    """(seed of its augmentation, place and perhaps id) of every example.

    Args:
      *arguments: of `arguments`, as arrays or tensors.
      with_ids: whether to say its id.
    """
    places, order_seed, offset = map(tf.convert_to_tensor, arguments)
    records = tf.data.Dataset.from_tensor_slices((places,))
    if with_ids:
      records = records.map(
        lambda place: (place, self._builder.read_record(place)['tfds_id'])
      )
    return with_seeds(
      records,
      order_seed=order_seed,
      offset=offset,
      batch_size=self._batch_size,
      local_size=self.local_size,
      first_place=self._first_place,
    )
