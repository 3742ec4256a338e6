"""Images that cannot be decoded: naming them, and leaving them out.

By default the first one stops the run. With --config.on_bad_image=skip a split
is decoded once beforehand and the bad images are left out before it is ordered,
so that order, coverage and resumption stay functions of (seed, step).
"""

import concurrent.futures
import contextlib
import itertools
import os
import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data.containers import check_container
from lossbench.data.folders import FolderBuilder, checked

_HEAD = 65536  # bytes in which what precedes the pixels of most PNGs ends
_CHUNK = 1024  # encoded images in memory at once


def _first_line(error: tf.errors.OpError) -> str:
  """TensorFlow's reason, without the names that it gives its own nodes."""
  line = error.message.splitlines()[0]
  return re.sub(r'\{\{.*?\}\}|\[Op:.*', '', line).strip()


@contextlib.contextmanager
def damaged_files_named(builder: tfds.core.DatasetBuilder, split: str):
  """Raises one clear ValueError instead of TensorFlow's for a file cut off.

  Args:
    builder: of the data set that is read inside.
    split: of it.

  Raises:
    ValueError: naming data set, split, directory and TensorFlow's reason.
    FileNotFoundError: if a file has been removed.
  """
  try:
    yield
  except tf.errors.NotFoundError as error:
    raise FileNotFoundError(
      f'A file of split {split!r} of {builder.name!r} is gone: '
      f'{_first_line(error)}.'
    ) from error
  except (tf.errors.DataLossError, tf.errors.FailedPreconditionError) as error:
    # A file cut off between two records is whole to TensorFlow; only TFDS,
    # which counts, notices.
    counted = isinstance(error, tf.errors.FailedPreconditionError)
    if counted and 'was expected to contain' not in error.message:
      raise
    raise ValueError(
      f'A file of split {split!r} of {builder.name!r} in {builder.data_dir} is '
      f'damaged: {_first_line(error)} Prepare the data set again.'
    ) from error


def decoding_error(image_bytes: bytes, image_fn: Callable) -> str | None:
  """Why an image cannot be used, one line; None if it can.

  Args:
    image_bytes: encoded.
    image_fn: what evaluation does with it; raises where it cannot.
  """
  try:
    # All of it, for a crop may miss the part that is damaged.
    tf.io.decode_image(image_bytes, expand_animations=False)
    image_fn(image_bytes)
  except tf.errors.InvalidArgumentError as error:
    return _first_line(error)
  return None


def check_pngs(builder: tfds.core.DatasetBuilder, split: str):
  """Refuses PNGs in a folder that decoding would harm, by what precedes pixels.

  What other files lack is found when they are decoded.

  Args:
    builder: of any data set; TFDS's own are left alone.
    split: of it.

  Raises:
    ValueError: naming the first and their number.
  """
  if not isinstance(builder, FolderBuilder):
    return
  ids = builder.ids(builder.positions(split))
  pngs = [name for name in ids if name.lower().endswith('.png')]

  def find_reason(name):
    try:
      head = builder.read_head(name, _HEAD)
      if b'IDAT' not in head:
        head = builder.read_head(name, -1)
      check_container(head)
    except tf.errors.InvalidArgumentError as error:
      return _first_line(error)
    return None

  with concurrent.futures.ThreadPoolExecutor(max_workers=32) as executor:
    reasons = list(executor.map(find_reason, pngs))
  bad = [(n, r) for n, r in zip(pngs, reasons, strict=True) if r]
  if bad:
    raise ValueError(
      f'{len(bad)} image(s) of {builder.name!r} cannot be used, such as '
      f'{bad[0][0]!r}: {bad[0][1]} Mend them, or train with '
      '--config.on_bad_image=skip, which leaves them out.'
    )


def first_bad_image(
  records: tf.data.Dataset, image_fn: Callable
) -> tuple[str, str] | None:
  """(id, reason) of the first undecodable record, or None.

  Args:
    records: with tfds_id and encoded image.
    image_fn: as of `decoding_error`.
  """
  for record in records.as_numpy_iterator():
    reason = decoding_error(record['image'], image_fn)
    if reason:
      return record['tfds_id'].decode(), reason
  return None


def find_bad_images(
  builder: tfds.core.DatasetBuilder,
  *,
  split: str,
  image_fn: Callable,
  on_progress: Callable[[int], Any] = lambda num_done: None,
) -> dict[str, str]:
  """Decodes every image of a split, on all cores.

  Args:
    builder: of the data set.
    split: e.g. 'train[:45000]'.
    image_fn: as of `decoding_error`.
    on_progress: called with the number of images looked at.

  Returns:
    TFDS id -> reason, of the undecodable ones.

  Raises:
    ValueError: if a file is damaged, or no image at all can be decoded.
  """
  records = builder.as_dataset(
    split=split,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False),
  ).as_numpy_iterator()
  image_fn = checked(builder, image_fn)
  bad, done = {}, 0
  with (
    damaged_files_named(builder, split),
    concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor,
  ):
    while chunk := list(itertools.islice(records, _CHUNK)):
      reasons = executor.map(
        lambda record: decoding_error(record['image'], image_fn), chunk
      )
      for record, reason in zip(chunk, reasons, strict=True):
        if reason:
          bad[record['tfds_id'].decode()] = reason
      done += len(chunk)
      on_progress(done)
  if done and len(bad) == done:
    # Not damage but a wrong configuration, such as of the image size.
    raise ValueError(
      f'None of the {done} images of split {split!r} of {builder.name!r} can '
      f'be used, the first because: {next(iter(bad.values()))} Check '
      '--config.image_size and the data.'
    )
  return bad
