"""Files of named arrays: safetensors, and what torch.save writes.

Neither is trusted: safetensors holds no code, and of pickles only arrays are read.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class TensorFile(NamedTuple):
  """Named arrays.

  Attributes:
    shapes: name -> shape.
    read_fn: name -> the array, of a NumPy type or bfloat16.
  """

  shapes: Mapping[str, Shape]
  read_fn: Callable[[str], np.ndarray]


# What is looked for in a directory, in this order.
_NAMES = ('model.safetensors', 'pytorch_model.bin')
_SAFETENSORS = '.safetensors'
_TORCH = ('.pth', '.pt', '.bin', '.tar')


def find_file(path: str) -> pathlib.Path:
  """The file of arrays that a path means, itself or in a directory.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if its suffix is unknown, or it lies in a bucket.
  """
  if '://' in path:
    raise ValueError(
      f'--source={path} lies in a bucket. Copy it to a disk first.'
    )
  found = pathlib.Path(path).expanduser()
  if found.is_dir():
    there = [found / name for name in _NAMES if (found / name).is_file()]
    if not there:
      raise FileNotFoundError(
        f'--source={path} has neither {" nor ".join(_NAMES)}. Name the file.'
      )
    found = there[0]
  if not found.is_file():
    raise FileNotFoundError(
      f'There is no file --source={path}. Give a .safetensors or .pth file, or '
      'the directory of one.'
    )
  if found.suffix not in (_SAFETENSORS, *_TORCH):
    raise ValueError(
      f'--source={path} is none of *{_SAFETENSORS}, '
      f'{", ".join(f"*{suffix}" for suffix in _TORCH)}. Give such a file.'
    )
  return found


def open_tensors(path: pathlib.Path) -> TensorFile:
  """Opens a file of `find_file`.

  Raises:
    ValueError: if it is damaged, or not of the kind that its name says.
  """
  if path.suffix == _SAFETENSORS:
    return _open_safetensors(path)
  from lossbench.interop.torch_files import read_state_dict

  arrays = read_state_dict(path)
  return TensorFile(
    {name: array.shape for name, array in arrays.items()}, arrays.__getitem__
  )


def _open_safetensors(path: pathlib.Path) -> TensorFile:
  import safetensors

  try:
    file = safetensors.safe_open(path, framework='np')
    names = file.keys()
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
  except safetensors.SafetensorError as error:
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'{path} is no safetensors file, or a damaged one: {reason}. Copy it '
      'again.'
    ) from error
  return TensorFile(shapes, file.get_tensor)
