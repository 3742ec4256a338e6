"""Arrays of .npz files as memory maps: what is indexed is read, nothing is held."""

import errno
import math
import os
import shutil
import struct
import tempfile
import zipfile
from typing import BinaryIO, NamedTuple

import numpy as np

from lossbench.runtime import storage

_PIECE = 2**24  # bytes in memory at once
_LOCAL_HEADER = 30  # bytes of a ZIP's before a member's name


class NoRoomError(OSError):
  """Error: an array cannot be unpacked, for the disk is full."""


class _Layout(NamedTuple):
  """How the numbers of an .npy file lie behind its header."""

  shape: tuple[int, ...]
  fortran: bool
  dtype: np.dtype


def _read_layout(content: BinaryIO, num_bytes: int) -> _Layout:
  """Reads the header of an .npy file of so many bytes."""
  version = np.lib.format.read_magic(content)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f'it has version {version} of the .npy format')
  layout = _Layout(*readers[version](content))
  if layout.dtype.hasobject:
    raise ValueError('Python objects need allow_pickle')
  size = math.prod(layout.shape) * layout.dtype.itemsize
  if num_bytes != content.tell() + size:
    raise ValueError(f'{num_bytes} bytes are not {layout.dtype} {layout.shape}')
  return layout


def _first_byte(file: BinaryIO, member: zipfile.ZipInfo) -> int:
  """Where the content of a member begins that is stored as it is."""
  file.seek(member.header_offset)
  lengths = file.read(_LOCAL_HEADER)[26:]
  return (
    member.header_offset + _LOCAL_HEADER + sum(struct.unpack('<HH', lengths))
  )


def _unpack(content: BinaryIO, target: BinaryIO):
  """Copies what is left of a file into a temporary one."""
  try:
    shutil.copyfileobj(content, target, _PIECE)
    target.flush()
  except OSError as error:
    if error.errno != errno.ENOSPC:
      raise
    raise NoRoomError(
      f'{tempfile.gettempdir()}, into which compressed arrays and those in '
      'buckets are unpacked, is full. Name another directory in TMPDIR, or write '
      'the file with numpy.savez on a disk.'
    ) from error


def _map(file: str | BinaryIO, first: int, layout: _Layout) -> np.ndarray:
  if 0 in layout.shape:
    return np.empty(layout.shape, layout.dtype)
  mapped = np.memmap(
    file,
    dtype=layout.dtype,
    mode='r',
    offset=first,
    shape=layout.shape,
    order='F' if layout.fortran else 'C',
  )
  return mapped.view(np.ndarray)


def map_array(path: storage.Path, name: str) -> np.ndarray:
  """An array of an .npz, read-only, whose parts are read when they are indexed.

  The file is read through once, so that damage is found by its checksum; it must
  not be written to while the array is in use. What is compressed, or in a bucket,
  is unpacked into a temporary file.

  Args:
    path: of the .npz.
    name: of the array.

  Raises:
    ValueError: if it is no array, or one of Python objects.
    zipfile.BadZipFile: if it is damaged.
    NoRoomError: if it cannot be unpacked.
    OSError: if it cannot be read.
  """
  with path.open('rb') as file, zipfile.ZipFile(file) as archive:
    member = archive.getinfo(f'{name}.npy')
    with archive.open(member) as content:
      layout = _read_layout(content, member.file_size)
      is_stored = member.compress_type == zipfile.ZIP_STORED
      if is_stored and not storage.is_remote(path):
        header = content.tell()
        while content.read(_PIECE):  # its checksum is compared at the end
          pass
        first = _first_byte(file, member) + header
        return _map(os.fspath(path), first, layout)
      with tempfile.TemporaryFile() as target:
        _unpack(content, target)
        return _map(target, 0, layout)


def to_float(values: np.ndarray, *, keep_double: bool = False) -> np.ndarray:
  """Real numbers in float32; what is too large for it is infinite.

  Args:
    values: of any real dtype.
    keep_double: leave float64 as it is.
  """
  keep = keep_double and values.dtype == np.float64
  with np.errstate(over='ignore'):
    return values.astype(np.float64 if keep else np.float32, copy=False)


class Rows:
  """Some rows of an array in another order; those that are indexed are read.

  Args:
    values: [N, ...], on the disk.
    order: [n] int, which rows of it.
  """

  def __init__(self, values: np.ndarray, order: np.ndarray):
    self._values, self._order = values, order

  def __len__(self) -> int:
    return len(self._order)

  def __getitem__(self, index) -> np.ndarray:
    """Rows in float32, in memory; one or a slice."""
    return to_float(self._values[self._order[index]])
