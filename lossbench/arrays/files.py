"""The .npz files that other programs write: their schema, checked when read.

| array | shape | |
|---|---|---|
| `logits` or `log_probs` | [N, K] | outputs of the last layer, or natural log-probabilities; one of the two |
| `labels` (or `label`) | [N] | integer class ids in [0, K) |
| `ids` (or `id`) | [N] | names or numbers that tell the examples apart; without them the order does |
| `features` | [N, M] | inputs of the last layer |
| `kernel` | [M, K] | weights of the last layer, a column a class |
| `layer/NAME` | [N, C] or [N, ..., C] | another layer, channels last; several in forward order |

Written by `numpy.savez(path, logits=..., labels=...)`. Numbers of any real dtype
that NumPy has; outputs are measured in float32, as those of runs. Whatever else a
file holds is left alone. Every error names the file and the array.
"""

import contextlib
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from lossbench.arrays import mapping
from lossbench.evaluation.collected import Collected
from lossbench.runtime import storage

LAYER = 'layer/'
SCORES = ('logits', 'log_probs')
_LABELS = ('labels', 'label')
_IDS = ('ids', 'id')
# A rounding error above 0 is none; a probability or a logit is.
MAX_LOG_PROB = 1e-3
_CHECKED = 2**23  # numbers that are looked at at once


class ArrayFile:
  """One .npz file; arrays are read when they are asked for.

  Args:
    path: on a disk or in a bucket.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is no .npz, or one that holds objects.
  """

  def __init__(self, path: str):
    if not path:
      raise ValueError(
        "The path of a file is '' (a shell variable that is not set?). Name an "
        '.npz.'
      )
    self.path = storage.as_path(path)
    if self.path.is_dir():
      raise ValueError(f'{path} is a directory. Name an .npz file.')
    if not self.path.is_file():
      raise FileNotFoundError(
        f'{path}: there is no such file. Write one with numpy.savez.'
      )
    try:
      with self.path.open('rb') as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    except zipfile.BadZipFile as error:
      raise ValueError(
        f'{path} is no .npz file, or is cut off ({error}). Write it with '
        'numpy.savez.'
      ) from error
    self.names = [
      pathlib.PurePosixPath(m.filename).with_suffix('').as_posix()
      for m in members
      if m.filename.endswith('.npy')
    ]
    content = repr(sorted((m.filename, m.CRC) for m in members))
    # Eight hexadecimal digits that tell its content from any other.
    self.fingerprint = f'{zlib.crc32(content.encode()):08x}'

  def error(self, name: str, why: str) -> ValueError:
    """An error of one of its arrays."""
    return ValueError(f'{self.path}: {name} {why}')

  @contextlib.contextmanager
  def _damage_named(self, name: str) -> Iterator[None]:
    """Raises ValueError where an array cannot be read; says which and why."""
    if name not in self.names:
      raise ValueError(
        f'{self.path} has no array {name!r}. It has: '
        f'{", ".join(self.names) or "none"}.'
      )
    try:
      yield
    except ValueError as error:
      if 'allow_pickle' not in str(error):
        raise self.error(name, f'is damaged: {error}.') from error
      raise self.error(
        name,
        'holds Python objects, a pickle, which could run anything and is not '
        'loaded. Write numbers.',
      ) from error
    except mapping.NoRoomError:
      raise
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
      raise self.error(name, f'is damaged: {error}.') from error

  def read(self, name: str) -> np.ndarray:
    """An array as it was written, whole.

    Raises:
      ValueError: if it is missing, damaged or of Python objects.
    """
    with (
      self._damage_named(name),
      self.path.open('rb') as file,
      np.load(file) as stored,
    ):
      return stored[name]

  def one_of(self, names: tuple[str, ...]) -> str | None:
    """Which of these arrays it has; None if none.

    Raises:
      ValueError: if it has several.
    """
    found = [name for name in names if name in self.names]
    if len(found) > 1:
      raise ValueError(
        f'{self.path} has both {found[0]} and {found[1]}. Leave one out.'
      )
    return found[0] if found else None

  def mapped(
    self,
    name: str,
    shape: str,
    *,
    allow_negative_infinity: bool = False,
    keep_double: bool = False,
  ) -> np.ndarray:
    """A finite real array on the disk, `mapping.map_array`'s, checked in pieces.

    Args:
      name: of the array.
      shape: how many axes it has, in words: '[examples, classes]'; one that
        has '...' two or more.
      allow_negative_infinity: as a logarithm of 0.
      keep_double: it will be used in float64 if it is; else in float32.
    """
    with self._damage_named(name):
      values = mapping.map_array(self.path, name)
    num_axes = shape.count(',') + 1
    wrong = values.ndim != num_axes
    if '...' in shape:
      wrong = values.ndim < 2
    if wrong or not values.size:
      raise self.error(name, f'must be {shape}; got {values.shape}.')
    if values.dtype.kind not in 'fiu':
      raise self.error(
        name, f'must be of real numbers; got dtype {values.dtype}.'
      )
    bad = []
    size = max(1, _CHECKED // values[0].size)
    for first in range(0, len(values), size):
      part = values[first : first + size]
      part = mapping.to_float(part, keep_double=keep_double)
      good = np.isfinite(part)
      if allow_negative_infinity:
        good |= np.isneginf(part)
      rows = ~good.reshape(len(part), -1).all(axis=1)
      bad += (first + np.flatnonzero(rows)).tolist()
    if bad:
      raise self.error(
        name,
        f'has NaN or infinity in {len(bad)} of {len(values)} rows, the first '
        f'is row {bad[0]}.',
      )
    return values

  def numbers(
    self, name: str, shape: str, *, keep_double: bool = False
  ) -> np.ndarray:
    """A finite real array in float32, in memory; arguments as of `mapped`."""
    values = self.mapped(name, shape, keep_double=keep_double)
    return np.array(mapping.to_float(values, keep_double=keep_double))

  def labels(
    self, *, num_examples: int, of: str, num_classes: int = 2**31 - 1
  ) -> np.ndarray:
    """Class ids [N] int32 in [0, K).

    Args:
      num_examples: N.
      of: the array that has so many rows.
      num_classes: K.
    """
    name = self.one_of(_LABELS)
    if name is None:
      self.read(_LABELS[0])
    labels = self.read(name)
    self._check_rows(name, labels, num_examples, of)
    if labels.dtype.kind not in 'iu':
      raise self.error(
        name, f'must be integer class ids; got dtype {labels.dtype}.'
      )
    unknown = (labels < 0) | (labels >= num_classes)
    if unknown.any():
      row = int(unknown.argmax())
      raise self.error(
        name,
        f'has {labels[row]} in row {row}, which is no class id in '
        f'[0, {num_classes}).',
      )
    return labels.astype(np.int32)

  def ids(self, *, num_examples: int, of: str) -> np.ndarray | None:
    """Ids [N] as bytes, all different; None if it has none."""
    name = self.one_of(_IDS)
    if name is None:
      return None
    ids = self.read(name)
    self._check_rows(name, ids, num_examples, of)
    if ids.dtype.kind == 'U':
      ids = np.strings.encode(ids, 'utf-8')
    elif ids.dtype.kind in 'iu':
      ids = ids.astype('S')
    elif ids.dtype.kind != 'S':
      raise self.error(
        name, f'must be strings or integers; got dtype {ids.dtype}.'
      )
    found, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
      raise self.error(
        name,
        f'has {found[counts.argmax()].decode(errors="replace")!r} '
        f'{counts.max()} times; every example has an id of its own.',
      )
    return ids

  def _check_rows(self, name, values, num_examples, of):
    if values.shape != (num_examples,):
      raise self.error(
        name,
        f'must be [{num_examples}], as many as {of} has rows; got '
        f'{values.shape}.',
      )


def check_other_content(paths: Mapping[str, str], *, why: str):
  """Refuses files that hold the same arrays.

  Args:
    paths: flag -> file.
    why: they must not.

  Raises:
    ValueError: naming two files that do.
  """
  seen: dict[str, str] = {}
  for flag, path in paths.items():
    twin = seen.setdefault(ArrayFile(path).fingerprint, flag)
    if twin != flag:
      raise ValueError(
        f'--{flag}={path} holds the same as --{twin}={paths[twin]}: {why}. Name '
        'another file.'
      )


def numbered(num_examples: int) -> np.ndarray:
  """Ids [N] of examples that their order tells apart: b'0', b'1', ..., b'10'."""
  return np.arange(num_examples).astype('S')


def read_features(path: str) -> Collected:
  """Features and labels of a file, in its order.

  Args:
    path: of the file.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is not of the schema.
  """
  file = ArrayFile(path)
  features = file.numbers('features', '[examples, features]', keep_double=True)
  where = dict(num_examples=len(features), of='features')
  ids = file.ids(**where)
  return Collected(
    ids=numbered(len(features)) if ids is None else ids,
    labels=file.labels(**where),
    arrays={'features': features},
  )
