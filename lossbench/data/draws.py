"""Which augmentation every place of an epoch gets."""

import tensorflow as tf


def with_seeds(
  records: tf.data.Dataset,
  *,
  order_seed: tf.Tensor,
  offset: tf.Tensor,
  batch_size: int,
  local_size: int,
  first_place: int,
) -> tf.data.Dataset:
  """Puts the stateless seed [2] of its augmentation before every record.

  The place within the epoch identifies the draw, not the example, as an
  augmentation must differ each time that an example comes round.

  Args:
    records: tuples, of this process from step `offset` on.
    order_seed: scalar int64, of the epoch.
    offset: scalar int64, step of the epoch.
    batch_size: global.
    local_size: of this process.
    first_place: of this process in a batch.
  """

  def with_seed(position, record):
    step, place = position // local_size, position % local_size
    place += (offset + step) * batch_size + first_place
    return tf.stack([order_seed, place]), *record

  return records.enumerate().map(with_seed)
