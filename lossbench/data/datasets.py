"""The data sets that lossbench knows, and opening them with clear errors."""

import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from lossbench.data import (  # registers TFDS builders
  cifar10_c8,  # noqa: F401
  digit_pairs,  # noqa: F401
  digits,  # noqa: F401
)
from lossbench.data.catalogue import DATASETS, DatasetSpec, get_dataset_spec
from lossbench.data.folder_names import parse_folder
from lossbench.data.folders import FolderBuilder, folder_path
from lossbench.runtime import storage

# TensorFlow reads and decodes on the host; the accelerators are JAX's.
tf.config.set_visible_devices([], 'GPU')
tfds.disable_progress_bar()


def resolve_data_dir(data_dir: str | None) -> str:
  """The directory that TFDS will look in: the argument, the environment's or
  TFDS's own default."""
  return os.path.expanduser(
    data_dir
    or os.environ.get('TFDS_DATA_DIR')
    or str(pathlib.Path('~') / 'tensorflow_datasets')
  )


def open_dataset(
  name: str,
  *,
  data_dir: str | None,
  num_classes: int | None = None,
  class_names: Sequence[str] | None = None,
) -> tfds.core.DatasetBuilder:
  """Opens a prepared data set, or a folder of images; never downloads.

  Args:
    name: one of `known_datasets()`, or of a folder.
    data_dir: TFDS directory; None for $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    num_classes: what the configuration believes, checked if given.
    class_names: of a run whose classes the labels of a folder are to be; None
      for its own.

  Returns:
    The TFDS builder.

  Raises:
    ValueError: if the name is unknown, the number of classes disagrees, or a
      folder holds what it should not.
    FileNotFoundError: if the data set is not in `data_dir`; the message says
      where it was looked for and how to prepare it.
    OSError: if `data_dir` lies in a bucket that cannot be reached.
  """
  folder = parse_folder(name)
  if folder:
    builder = FolderBuilder(
      name, folder, data_dir=data_dir, class_names=class_names
    )
  else:
    builder = _open_prepared(name, resolve_data_dir(data_dir))
  found = count_classes(builder)
  if num_classes is not None and found != num_classes:
    raise ValueError(
      f'Dataset {name!r} has {found} classes, but '
      f'--config.num_classes={num_classes}. Set it to {found}, or name another '
      'data set.'
    )
  return builder


def _open_prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  spec = get_dataset_spec(name)
  storage.as_path(data_dir)  # raises where a bucket does not answer
  builder = tfds.builder(spec.tfds_name, data_dir=data_dir)
  if not builder.info.splits:
    if not spec.offline:
      raise FileNotFoundError(
        f'Dataset {name!r} is not in {os.path.join(data_dir, spec.tfds_name)}. '
        'Point --config.data_dir (--data_dir where there is one, or '
        'TFDS_DATA_DIR) at a directory that TFDS '
        f'has prepared, or prepare it: {_how_to_prepare(spec, data_dir)}'
      )
    builder = _prepare_offline(builder, spec.tfds_name, data_dir=data_dir)
  return builder


def _how_to_prepare(spec: DatasetSpec, data_dir: str) -> str:
  if spec.made_of:
    name = spec.tfds_name.partition('/')[0]
    return f'python -m lossbench.prepare --dataset={name} --data_dir={data_dir}'
  manual = ''
  if spec.manual:
    manual = (
      f' First put {spec.manual} into '
      f'{os.path.join(data_dir, "downloads", "manual")}.'
    )
  return (
    'python -c "import tensorflow_datasets as tfds; tfds.builder('
    f"'{spec.tfds_name}', data_dir='{data_dir}').download_and_prepare()"
    f'"{manual}{" Needs " + spec.needs + "." if spec.needs else ""}'
  )


def not_available(name: str, data_dir: str | None) -> str | None:
  """Why a data set cannot be read, in one line; None if it can.

  Looks for its directory and opens nothing: there may be a hundred to check.

  Args:
    name: one of `known_datasets()`, or of a folder.
    data_dir: as of `open_dataset`; may be in a bucket (gs://...).

  Returns:
    None if the data set is there or can be made offline, else 'not available: '
    and how to prepare it.

  Raises:
    ValueError: if the name is unknown.
  """
  folder = parse_folder(name)
  if folder:
    path = folder_path(folder, data_dir)
    return (
      None if path.is_dir() else f'not available: there is no folder {path}'
    )
  spec = get_dataset_spec(name)
  data_dir = resolve_data_dir(data_dir)
  # TensorFlow also lists buckets, where data sets for TPUs lie.
  pattern = os.path.join(data_dir, spec.tfds_name, '*', 'dataset_info.json')
  if spec.offline or tf.io.gfile.glob(pattern):
    return None
  return f'not available: {_how_to_prepare(spec, data_dir)}'


def describe(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """What tells a prepared data set from any other, as JSON.

  Its files as they follow one another, with their sizes and numbers of examples,
  without reading them: 'fingerprint', eight hexadecimal digits. And 'name',
  'version', 'num_files', 'num_bytes'.
  """
  if isinstance(builder, FolderBuilder):
    about = builder.files
  else:
    about = _prepared_files(builder)
  full_name = builder.info.full_name
  text = json.dumps([full_name, about])
  return {
    'name': full_name.rpartition('/')[0],
    'version': str(builder.info.version),
    'num_files': len(about),
    'num_bytes': sum(num_bytes for *_, num_bytes in about),
    'fingerprint': f'{zlib.crc32(text.encode()):08x}',
  }


def _prepared_files(builder) -> list[tuple[str, str, int, int]]:
  """(split, name, examples, bytes) of every file of a prepared data set."""
  files = [
    (name, path, length)
    for name, split in sorted(builder.info.splits.items())
    for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
  ]

  def size(file):
    return epath.Path(file[1]).stat().length

  # One after another they would take minutes in a bucket.
  with concurrent.futures.ThreadPoolExecutor(max_workers=32) as executor:
    sizes = list(executor.map(size, files))
  return [
    (name, path.name, length, num_bytes)
    for (name, path, length), num_bytes in zip(files, sizes, strict=True)
  ]


def label_feature(builder: tfds.core.DatasetBuilder) -> str:
  """The name of the feature that holds an example's class id."""
  for spec in DATASETS.values():
    if spec.tfds_name.split('/')[0] == builder.name:
      return spec.label_feature
  return 'label'


def count_classes(builder: tfds.core.DatasetBuilder) -> int:
  """The number of classes that a data set's labels tell apart."""
  return builder.info.features[label_feature(builder)].num_classes


def class_names(name: str, data_dir: str | None) -> list[str]:
  """The names of a data set's classes, in the order of its labels.

  Args:
    name: one of `known_datasets()`, which need not be prepared, or of a folder.
    data_dir: as of `open_dataset`.
  """
  if parse_folder(name):
    builder = open_dataset(name, data_dir=data_dir)
  else:
    builder = tfds.builder(
      get_dataset_spec(name).tfds_name, data_dir=resolve_data_dir(data_dir)
    )
  return builder.info.features[label_feature(builder)].names


def identity(builder: tfds.core.DatasetBuilder) -> str:
  """What tells a data set, and the labels of its images, from others."""
  full_name = builder.info.full_name
  if isinstance(builder, FolderBuilder):
    return f'{full_name} {builder.fingerprint}'
  return full_name


def shape_of_images(
  builder: tfds.core.DatasetBuilder,
) -> tuple[int | None, int | None, int]:
  """[H, W, C] of all images, None where it varies; in folders, of one image."""
  shape = builder.info.features['image'].shape
  if isinstance(builder, FolderBuilder):
    return builder.first_image_shape() or shape
  return shape


def check_image_shape(
  builder: tfds.core.DatasetBuilder,
  image_shape: tuple[int, int, int],
  *,
  resized: bool,
):
  """Refuses to train on images of another size or number of channels.

  Args:
    builder: of the data set.
    image_shape: [H, W, C] of what the model is to see.
    resized: whether images are resized to it.

  Raises:
    ValueError: naming what the data set has and the fields to change.
  """
  height, width, channels = shape_of_images(builder)
  if isinstance(builder, FolderBuilder) and image_shape[2] == 3:
    channels = 3  # as which all are read; others among them are named then
  if channels != image_shape[2]:
    raise ValueError(
      f'Dataset {builder.name!r} has images of {channels} channel(s), but '
      f'--config.pixel_mean has {image_shape[2]} value(s). Give one mean and '
      'one standard deviation a channel.'
    )
  if resized or (height, width) == image_shape[:2]:
    return
  if height is None or width is None:
    raise ValueError(
      f'Dataset {builder.name!r} has images of any size. Set '
      '--config.resize_images=True.'
    )
  remedy = f'Set it to {height}.' if height == width else 'It needs squares.'
  raise ValueError(
    f'Dataset {builder.name!r} has images of {height} x {width} pixels, but '
    f'--config.image_size={image_shape[0]}. {remedy}'
  )


def prepare(name: str, *, data_dir: str | None):
  """Makes a data set that needs no download, if it is not there yet.

  Args:
    name: one of `known_datasets()`.
    data_dir: as of `open_dataset`.

  Raises:
    ValueError: if the name is unknown, or the data set is TFDS's to prepare.
    FileNotFoundError: if what it is made of is not there.
    OSError: if `data_dir` cannot be written to.
  """
  spec = get_dataset_spec(name)
  data_dir = resolve_data_dir(data_dir)
  if not (spec.offline or spec.made_of):
    raise ValueError(
      f'Dataset {name!r} is for TFDS to prepare: {_how_to_prepare(spec, data_dir)}'
    )
  if spec.made_of:
    open_dataset(spec.made_of, data_dir=data_dir)
  builder = tfds.builder(spec.tfds_name, data_dir=data_dir)
  if not builder.info.splits:
    _prepare_offline(builder, spec.tfds_name, data_dir=data_dir)


def _prepare_offline(builder, tfds_name, *, data_dir):
  try:
    # TFDS prints that it downloads, which it does not.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
  except OSError as error:
    # Where several processes start at once, the first to finish wins and the
    # others fail to put the same files in the same place.
    winner = tfds.builder(tfds_name, data_dir=data_dir)
    if winner.info.splits:
      return winner
    raise OSError(
      f'Dataset {tfds_name!r} cannot be written to {builder.data_dir}: '
      f'{error}. Point --config.data_dir (--data_dir where there is one, or '
      'TFDS_DATA_DIR) at a directory '
      'that you may write to.'
    ) from error
  return builder


def num_examples(builder: tfds.core.DatasetBuilder, split: str) -> int:
  """The number of examples in a split, e.g. 'train[:90%]'.

  Raises:
    ValueError: if the split is unknown, malformed or empty; lists the splits.
  """
  try:
    count = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    raise ValueError(
      f'Dataset {builder.name!r} has no split {split!r}. It has: '
      f'{", ".join(sorted(builder.info.splits))}, and slices of them such as '
      "'train[:90%]'."
    ) from error
  if count <= 0:  # TFDS counts 'train[10:5]' as -5
    raise ValueError(f'Split {split!r} of {builder.name!r} has no examples.')
  return count


def holdout_splits(
  builder: tfds.core.DatasetBuilder, *, num_holdout: int
) -> tuple[str, str]:
  """Cuts the holdout off the end of train; returns (train, holdout) splits.

  `num_holdout` = 0 keeps all of train, for a final run; the second split is
  then ''.

  Raises:
    ValueError: if the holdout would leave nothing to train on.
  """
  total = num_examples(builder, 'train')
  if not 0 <= num_holdout < total:
    raise ValueError(
      f'--config.num_holdout must be in [0, {total}), the size of '
      f'{builder.name!r} train; got {num_holdout}.'
    )
  if num_holdout == 0:
    return 'train', ''
  cut = total - num_holdout
  return f'train[:{cut}]', f'train[{cut}:]'


def _intervals(builder, split: str) -> list[tuple[str, int, int]]:
  """(name, first, end) of the parts of a split."""
  sizes = builder.info.splits
  parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
  return [
    (
      part.splitname,
      part.from_ or 0,
      sizes[part.splitname].num_examples if part.to is None else part.to,
    )
    for part in parts
  ]


def num_shared_examples(
  builder: tfds.core.DatasetBuilder, split: str, other: str
) -> int:
  """The number of examples that two splits have in common.

  Args:
    builder: of the data set.
    split: a TFDS split, also of slices and sums, without repetitions.
    other: likewise.
  """
  return sum(
    max(0, min(end, other_end) - max(first, other_first))
    for name, first, end in _intervals(builder, split)
    for other_name, other_first, other_end in _intervals(builder, other)
    if name == other_name
  )


def first_examples(
  builder: tfds.core.DatasetBuilder, split: str, num_examples: int
) -> str:
  """The TFDS split of the first examples of another.

  Args:
    builder: of the data set.
    split: a TFDS split, also of slices and sums.
    num_examples: how many, at least 1; at most all are taken.
  """
  parts, left = [], num_examples
  for name, first, end in _intervals(builder, split):
    last = min(end, first + left)
    parts.append(f'{name}[{first}:{last}]')
    left -= last - first
    if not left:
      break
  return '+'.join(parts)


def random_examples(
  builder: tfds.core.DatasetBuilder, split: str, at_most: int
) -> str:
  """The TFDS split of a fixed random sample of another.

  The first examples: TFDS writes them in an order of its own that is random, the
  same for everybody who has prepared the data set.

  Args:
    builder: of the data set.
    split: a TFDS split.
    at_most: so many examples; of a split that has no more all are taken.

  Raises:
    ValueError: if the data set was written in an order that is not random.
  """
  if num_examples(builder, split) <= at_most:
    return split
  if builder.info.disable_shuffling:
    raise ValueError(
      f'Dataset {builder.name!r} was not written in random order, so its first '
      f'{at_most} examples are no random sample. Take all of {split!r}.'
    )
  return first_examples(builder, split, at_most)
