"""Bringing what the processes of a run hold together."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

PyTree = Any


def concatenate_processes(tree: PyTree) -> PyTree:
  """Concatenates every process's host arrays along their leading axis.

  Args:
    tree: of host arrays, the same shapes on every process.

  Returns:
    NumPy arrays, the same on every process.
  """
  tree = jax.tree.map(np.asarray, tree)
  if jax.process_count() == 1:
    return tree
  # An all-gather of one array per process stacks; tiling concatenates.
  return multihost_utils.process_allgather(tree, tiled=True)


def concatenate_rows(tree: PyTree) -> PyTree:
  """Concatenates host arrays of which processes hold different numbers of rows.

  Args:
    tree: of host arrays [n, ...] with one n, this process's own.

  Returns:
    NumPy arrays [sum of all n, ...], the same on every process, in the order of
    the processes.
  """
  if jax.process_count() == 1:
    return jax.tree.map(np.asarray, tree)
  num_rows = len(jax.tree.leaves(tree)[0])
  counts = concatenate_processes(np.array([num_rows]))
  longest = int(counts.max())
  padded = jax.tree.map(
    lambda leaf: np.pad(
      leaf, [(0, longest - num_rows)] + [(0, 0)] * (leaf.ndim - 1)
    ),
    tree,
  )
  real = np.concatenate([np.arange(longest) < count for count in counts])
  return jax.tree.map(lambda leaf: leaf[real], concatenate_processes(padded))


def everywhere(flag: bool) -> bool:
  """Whether the flag is true on every process; all get the same answer."""
  return bool(concatenate_processes(np.array([flag], np.int32)).all())


def first_says(numbers: Sequence[int]) -> list[int]:
  """The integers, in [0, 2^31), that the first process holds; on every one."""
  if jax.process_count() == 1:
    return list(numbers)
  broadcast = multihost_utils.broadcast_one_to_all
  size = int(broadcast(np.array(len(numbers), np.int32)))
  own = np.zeros(size, np.int32)
  own[: len(numbers)] = numbers[:size]
  return [int(number) for number in broadcast(own)]
