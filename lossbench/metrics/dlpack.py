"""Arrays of any framework that keeps to DLPack (PyTorch, CuPy, ...), as NumPy's."""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def as_numpy(value: Any) -> Any:
  """An array of another framework on the host; anything else as it is.

  No copy is made of what lies on the host already, gradients are left behind. JAX's
  arrays stay where they are.

  Args:
    value: an array, a sequence or an iterator of arrays, or anything.
  """
  if isinstance(value, list | tuple) and not hasattr(value, '_fields'):
    return type(value)(map(as_numpy, value))
  if isinstance(value, Iterator):
    return map(as_numpy, value)
  if isinstance(value, np.ndarray | np.generic) or _is_jax(value):
    return value
  if not hasattr(value, '__dlpack__'):
    return value
  # PyTorch's: DLPack knows neither gradients nor ways between devices.
  for name in ('detach', 'cpu'):
    value = getattr(value, name, lambda same=value: same)()
  try:
    return np.from_dlpack(value, device='cpu')
  except (BufferError, RuntimeError):  # bfloat16, which NumPy has not
    import jax

    return np.asarray(jax.dlpack.from_dlpack(value))


def _is_jax(value: Any) -> bool:
  """Whether it is JAX's, traced ones too; without importing JAX for it."""
  jax = sys.modules.get('jax')
  return jax is not None and isinstance(value, jax.Array)


def for_any_arrays(function: Callable, *, face: str) -> Callable:
  """The function for arrays of any framework, `as_numpy`.

  Args:
    function: to be called with NumPy's or JAX's.
    face: the public module that has the result under the function's own name,
      by which it is pickled.
  """

  @functools.wraps(function)
  def converted(*args, **kwargs):
    kwargs = {name: as_numpy(value) for name, value in kwargs.items()}
    return function(*map(as_numpy, args), **kwargs)

  converted.__module__ = face
  return converted
