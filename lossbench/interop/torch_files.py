"""What torch.save writes, read without PyTorch and without running anything.

A state dictionary is a pickle of references to arrays. Of what pickles can ask
for, only dictionaries, numbers, strings and arrays are made here; whatever else
one names (which may be any function, with any arguments) is refused before it is
called. Both layouts are read: the ZIP archive of PyTorch since 1.6, and the one
before, of several pickles in a row.
"""

import collections
import io
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

_STORAGES = {
  'BFloat16Storage': jnp.bfloat16,
  'BoolStorage': np.bool_,
  'ByteStorage': np.uint8,
  'CharStorage': np.int8,
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'IntStorage': np.int32,
  'LongStorage': np.int64,
  'ShortStorage': np.int16,
}
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
# In which training scripts keep the state dictionary beside other things.
_WRAPPERS = ('state_dict', 'model')
# What an array of another number of axes is not.
_MAX_AXES = 8


class _StorageType(NamedTuple):
  dtype: Any


class _Storage(NamedTuple):
  """An array's bytes: `key` says which, `data` is filled later."""

  key: str
  dtype: Any
  size: int


class _View(NamedTuple):
  """An array, as an excerpt of a storage."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Refused(ValueError):
  """A pickle asks for what is no array."""


class _TensorRebuilder:
  """No function, whose defaults a pickle could set."""

  __slots__ = ()

  def __call__(self, storage, offset, shape, strides, *unused) -> _View:
    del unused  # requires_grad, hooks, metadata
    view = _View(storage, offset, tuple(shape), tuple(strides))
    counts = (offset, *view.shape, *view.strides)
    if (
      not isinstance(storage, _Storage)
      or not all(isinstance(n, int) and n >= 0 for n in counts)
      or len(view.shape) != len(view.strides)
      or len(view.shape) > _MAX_AXES
    ):
      raise _Refused('an array has no proper storage, shape or strides')
    return view


class _ParameterRebuilder:
  __slots__ = ()

  def __call__(self, data, *unused) -> Any:
    del unused  # requires_grad, hooks
    return data


_ALLOWED = {
  ('collections', 'OrderedDict'): collections.OrderedDict,
  ('torch._utils', '_rebuild_tensor_v2'): _TensorRebuilder(),
  ('torch._utils', '_rebuild_parameter'): _ParameterRebuilder(),
}


class _Unpickler(pickle.Unpickler):
  """Makes `_View`s of tensors, and nothing that is not allowed."""

  def find_class(self, module: str, name: str) -> Any:
    if module == 'torch' and name in _STORAGES:
      return _StorageType(_STORAGES[name])
    if (module, name) not in _ALLOWED:
      raise _Refused(f'it asks for {module}.{name}')
    return _ALLOWED[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    # ('storage', type, key, device, size); before 1.6 with a view, None, more.
    if (
      not isinstance(pid, tuple)
      or len(pid) not in (5, 6)
      or pid[0] != 'storage'
      or not isinstance(pid[1], _StorageType)
      or not isinstance(pid[4], int)
      or any(pid[5:])
    ):
      raise _Refused('an array has no proper storage')
    return _Storage(str(pid[2]), np.dtype(pid[1].dtype), pid[4])


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a file that torch.save wrote, by name.

  Args:
    path: of the file; a state dictionary, or a dictionary that has one under
      'state_dict' or 'model'.

  Raises:
    ValueError: if it is no such file, is damaged, or holds anything besides
      arrays.
  """
  try:
    if _is_archive(path):
      found, read_fn = _read_archive(path)
    else:
      found, read_fn = _read_pickles(path)
    views = _find_views(found)
    return {name: _to_array(view, read_fn) for name, view in views.items()}
  except _Refused as error:
    raise ValueError(
      f'{path} is not taken: {error}, and pickles of anything but arrays can run '
      'code. Save its weights alone: torch.save(model.state_dict(), ...), or as '
      'safetensors.'
    ) from error
  except Exception as error:
    # A damaged pickle may raise anything.
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise ValueError(
      f'{path} is not a file of torch.save, or a damaged one: {reason}. Copy it '
      'again.'
    ) from error


def _is_archive(path: pathlib.Path) -> bool:
  with path.open('rb') as file:
    return file.read(2) == b'PK'


def _read_archive(path: pathlib.Path):
  with zipfile.ZipFile(path) as archive:
    members = archive.namelist()
    [pickled] = [name for name in members if name.endswith('/data.pkl')]
    folder = pickled.removesuffix('data.pkl')
    if f'{folder}byteorder' in members:
      order = archive.read(f'{folder}byteorder').decode()
      if order != 'little':
        raise ValueError(f'its bytes are in {order} order')
    found = _Unpickler(io.BytesIO(archive.read(pickled))).load()

  def read_storage(key: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
      return archive.read(f'{folder}data/{key}')  # checks its CRC-32

  return found, read_storage


def _read_pickles(path: pathlib.Path):
  with path.open('rb') as file:
    magic, version, _ = (_Unpickler(file).load() for _ in range(3))
    if (magic, version) != (_MAGIC_NUMBER, _PROTOCOL_VERSION):
      raise ValueError('its first bytes are of something else')
    unpickler = _SizingUnpickler(file)
    found = unpickler.load()
    keys = _Unpickler(file).load()
    contents = {}
    for key in keys:
      size = int.from_bytes(_read_whole(file, 8), 'little')
      expected = unpickler.sizes[key]
      if size != expected.size:
        raise ValueError(f'storage {key} has {size} numbers, not as was said')
      contents[key] = _read_whole(file, size * expected.dtype.itemsize)
  return found, contents.__getitem__


def _read_whole(file: BinaryIO, size: int) -> bytes:
  content = file.read(size)
  if len(content) < size:
    raise ValueError('it ends too early')
  return content


class _SizingUnpickler(_Unpickler):
  """Remembers the storages, whose bytes come after the pickle."""

  def __init__(self, file):
    super().__init__(file)
    self.sizes: dict[str, _Storage] = {}

  def persistent_load(self, pid: Any) -> _Storage:
    storage = super().persistent_load(pid)
    return self.sizes.setdefault(storage.key, storage)


def _find_views(found: Any) -> dict[str, _View]:
  """The state dictionary in what was unpickled."""
  for name in _WRAPPERS:
    if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
      found = found[name]
  if not isinstance(found, Mapping) or not found:
    raise _Refused('it holds no dictionary of arrays')
  for name, value in found.items():
    if not isinstance(name, str) or not isinstance(value, _View):
      raise _Refused(f'its entry {name!r} is no array')
  return dict(found)


def _to_array(view: _View, read_fn) -> np.ndarray:
  storage = view.storage
  flat = np.frombuffer(read_fn(storage.key), storage.dtype)
  if flat.size != storage.size:
    raise ValueError(
      f'storage {storage.key} has {flat.size} numbers instead of {storage.size}'
    )
  extent = zip(view.shape, view.strides, strict=True)
  last = view.offset + sum((n - 1) * stride for n, stride in extent)
  if 0 in view.shape:
    return np.zeros(view.shape, storage.dtype)
  if last >= flat.size or np.prod(view.shape) > flat.size:
    raise ValueError(f'an array reaches beyond storage {storage.key}')
  return np.lib.stride_tricks.as_strided(
    flat[view.offset :],
    view.shape,
    [stride * storage.dtype.itemsize for stride in view.strides],
    writeable=False,
  )
