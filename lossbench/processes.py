"""Bringing what the processes of a run hold together."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

PyTree = Any


def concatenate_processes(tree: PyTree) -> PyTree:
  """Concatenates every process's host arrays along their leading axis.

  Args:
    tree: of host arrays or pmap's outputs, the same shapes on every process.

  Returns:
    NumPy arrays, the same on every process.
  """
  tree = jax.tree.map(np.asarray, jax.device_get(tree))
  if jax.process_count() == 1:
    return tree
  # An all-gather of one array per process stacks; tiling concatenates.
  return multihost_utils.process_allgather(tree, tiled=True)
