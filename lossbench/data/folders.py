"""Folders of images as data sets of TFDS, read where they lie.

TFDS's own `ImageFolder`, with what it lacks and our streams need: slices of
splits, ids of examples, labels of other data sets, and errors that name a file.
"""

import concurrent.futures
import functools
import json
import random
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from lossbench.data import class_maps
from lossbench.data.containers import check_container
from lossbench.data.folder_listing import list_images
from lossbench.data.folder_names import FolderName
from lossbench.runtime import storage

# ObjectNet's images have a red frame, by which those who train on them are to
# be found out. Evaluations cut 2 pixels off each side.
_OBJECTNET_FRAME = 2


def folder_path(folder: FolderName, data_dir: str | None) -> storage.Path:
  """Where a folder lies; a relative path begins at `data_dir` if it is given."""
  path = storage.as_path(folder.path)
  if data_dir and not storage.is_remote(path) and not path.is_absolute():
    path = storage.as_path(data_dir) / path
  return path


class FolderBuilder(tfds.folder_dataset.ImageFolder):
  """A folder of images. Images of its records are always encoded.

  Args:
    name: that lossbench knows it by, e.g. 'folder:/data/pets'.
    folder: the same, parsed.
    data_dir: of the configuration.
    class_names: of the run whose classes its labels are to be; None: its
      labels are its own folders, sorted by name.

  Attributes:
    labels: class folder -> the labels any of which is right; () if it is left
      out.
    frame: pixels to be cut off each side of its images.

  Raises:
    FileNotFoundError: if the folder or its class map is not there.
    ValueError: if it has no images, other files, or folders of no known class.
  """

  # Read by ImageFolder, whose own initialisation would list everything again.
  _image_shape = None
  _image_dtype = None

  def __init__(
    self,
    name: str,
    folder: FolderName,
    *,
    data_dir: str | None = None,
    class_names: Sequence[str] | None = None,
  ):
    if class_names is None and folder.class_map:
      raise ValueError(
        f'Dataset {name!r} has a class map, which is for the evaluation of runs '
        "on other data. Leave out what follows '#'."
      )
    path = folder_path(folder, data_dir)
    is_objectnet = folder.kind == 'objectnet'
    self._root = path / 'images' if is_objectnet else path
    self.frame = _OBJECTNET_FRAME if is_objectnet else 0
    listing = list_images(self._root)
    folders, own = listing.classes, class_names is None
    class_names = folders if own else class_names
    if is_objectnet and not own:
      self.labels = class_maps.read_objectnet_map(
        path / 'mappings', folders, class_names
      )
    elif folder.class_map:
      self.labels = class_maps.read_class_map(
        folder.class_map, folders, class_names
      )
    else:
      self.labels = class_maps.by_name(folders, class_names)
    if not any(self.labels.values()):
      raise ValueError(f'Dataset {name!r} shares no class with the run.')
    self.name = name
    tfds.core.DatasetBuilder.__init__(self, data_dir=str(self._root))
    self._data_dir = str(self._root)
    self.info.features['label'].names = list(class_names)
    self._set_examples(listing.files)

  def _set_examples(self, files: Mapping[str, Sequence[tuple[str, str]]]):
    """Takes TFDS's order, which is random and the same everywhere."""
    self._first, ids, labels, splits = {}, [], [], []
    for split, of_split in files.items():
      used = [
        (path, folder) for path, folder in of_split if self.labels[folder]
      ]
      random.Random(split).shuffle(used)
      self._first[split] = len(ids)
      ids += [path for path, _ in used]
      labels += [self.labels[folder][0] for _, folder in used]
      splits.append(
        tfds.core.SplitInfo(name=split, shard_lengths=[len(used)], num_bytes=0)
      )
    self.info.set_splits(tfds.core.splits.SplitDict(splits))
    self._ids = np.array(ids, dtype=object)
    self._labels = np.array(labels, np.int64)

  @functools.cached_property
  def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.init_scope():  # constants of no graph that is traced just now
      return tf.constant(self._ids), tf.constant(self._labels)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Eight hexadecimal digits, of the names, sizes and labels of all images."""
    text = json.dumps([self.files, self._labels.tolist()])
    return f'{zlib.crc32(text.encode()):08x}'

  @property
  def used_classes(self) -> tuple[int, ...]:
    """The labels that are right of some image, ascending."""
    return tuple(sorted({label for of in self.labels.values() for label in of}))

  def is_label(self, ids: Sequence[bytes]) -> np.ndarray:
    """Which labels are right of examples, bool [N, K].

    Args:
      ids: of the examples.
    """
    found = np.zeros((len(ids), self.info.features['label'].num_classes), bool)
    for row, example in zip(found, ids, strict=True):
      folder = example.decode().split('/')[-2]
      row[list(self.labels[folder])] = True
    return found

  @functools.cached_property
  def files(self) -> list[tuple[str, str, int, int]]:
    """(split, id, 1, bytes) of every image, of the split in its order."""

    def size(path):
      found = (self._root / path).stat()
      return found.length if hasattr(found, 'length') else found.st_size

    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as executor:
      sizes = list(executor.map(size, self._ids))
    return [
      (split, self._ids[i], 1, sizes[i])
      for split in sorted(self._first)
      for i in self.positions(split)
    ]

  def positions(self, split, *, without: Collection[str] = ()) -> np.ndarray:
    """Places of a split's examples among all, int64 [n].

    Args:
      split: of the data set.
      without: ids of examples to leave out.
    """
    parts = tfds.core.splits.AbstractSplit.from_spec(split).to_absolute(
      self.info.splits
    )
    found = []
    for part in parts:
      count = self.info.splits[part.splitname].num_examples
      first = self._first[part.splitname]
      found.append(first + np.arange(count)[part.from_ : part.to])
    places = np.concatenate(found).astype(np.int64)
    if not without:
      return places
    left_out = set(without)
    used = [name not in left_out for name in self._ids[places]]
    return places[np.array(used, bool)]

  def ids(self, positions: np.ndarray) -> np.ndarray:
    """The ids of examples, their paths from the folder, str [n]."""
    return self._ids[positions]

  def read_labels(self, positions: np.ndarray) -> np.ndarray:
    """The labels of examples, int64 [n]; no image is read."""
    return self._labels[positions]

  def read_record(self, position: tf.Tensor) -> dict[str, tf.Tensor]:
    """Encoded 'image', 'label' and 'tfds_id' of the example at a place."""
    ids, labels = self._tensors
    example = tf.gather(ids, position)
    image = tf.io.read_file(tf.strings.join([f'{self._root}/', example]))
    return {
      'image': image,
      'label': tf.gather(labels, position),
      'tfds_id': example,
    }

  def read_head(self, example: str, size: int) -> bytes:
    """The first bytes of an image, by its id; all where `size` is -1."""
    with (self._root / example).open('rb') as file:
      return file.read(size)

  def first_image_shape(self) -> tuple[int, int, int] | None:
    """[H, W, C] of one image; None of one that cannot be decoded."""
    record = self.read_record(tf.constant(0, tf.int64))
    try:
      image = tf.io.decode_image(record['image'], expand_animations=False)
    except tf.errors.InvalidArgumentError:
      return None
    return tuple(image.shape)

  def _as_dataset(
    self, split, shuffle_files=False, decoders=None, read_config=None
  ) -> tf.data.Dataset:
    del shuffle_files, decoders
    records = tf.data.Dataset.from_tensor_slices(self.positions(split)).map(
      self.read_record, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return records.with_options(read_config.options)


def checked(builder: tfds.core.DatasetBuilder, image_fn: Callable) -> Callable:
  """A function of a data set's encoded images that takes those of folders.

  Refuses what `check_container` does, and cuts the frame off where there is one.

  Args:
    builder: of any data set.
    image_fn: of encoded images, and of more.
  """
  if not isinstance(builder, FolderBuilder):
    return image_fn

  def checked_fn(image_bytes, *more):
    image_bytes = check_container(image_bytes)
    if builder.frame:
      image_bytes = _cut_frame(image_bytes, builder.frame)
    return image_fn(image_bytes, *more)

  return checked_fn


def _cut_frame(image_bytes: tf.Tensor, width: int) -> tf.Tensor:
  """An image less so many pixels a side, as PNG, which loses nothing."""
  image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
  return tf.io.encode_png(image[width:-width, width:-width], compression=0)
