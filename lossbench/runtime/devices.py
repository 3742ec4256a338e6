"""Placing arrays on this process's devices the way that pmap returns them.

pmap compiles a function once for every sharding of its arguments, and tells
shardings apart by the name of the mesh's axis. Arrays placed here look just
like the outputs of our pmapped steps, so that a step compiles once; with
`flax.jax_utils.replicate` the second step would compile again.

A run has all devices of its process, or those of all processes; inside `only`
it has one, beside others with one each.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

PyTree = Any

# Name of the axis of all pmapped functions.
AXIS = 'batch'

_only: contextvars.ContextVar[jax.Device | None] = contextvars.ContextVar(
  'only', default=None
)


@contextlib.contextmanager
def only(device: jax.Device) -> Iterator[None]:
  """Inside, and in this thread, there is no other device than this one.

  For all that is placed, mapped and counted by this module.
  """
  token = _only.set(device)
  try:
    yield
  finally:
    _only.reset(token)


def chosen() -> tuple[jax.Device, ...] | None:
  """What `jax.pmap` takes as `devices`; None for all of all processes.

  Whoever keeps compiled functions keeps them under this too.
  """
  device = _only.get()
  return None if device is None else (device,)


def local() -> tuple[jax.Device, ...]:
  """Those of this process."""
  return chosen() or tuple(jax.local_devices())


def count() -> int:
  """Their number, over all processes."""
  return jax.device_count() if chosen() is None else 1


def local_sharding() -> jax.sharding.NamedSharding:
  """Splits a leading axis over this process's devices."""
  mesh = jax.sharding.Mesh(np.array(local()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def replicate(tree: PyTree) -> PyTree:
  """A copy on every local device: leaves [...] become [devices, ...]."""
  num_devices = len(local())
  sharding = local_sharding()

  def copy(leaf):
    leaf = np.asarray(leaf)
    copies = np.broadcast_to(leaf[None], (num_devices, *leaf.shape))
    return jax.device_put(copies, sharding)

  return jax.tree.map(copy, tree)


def unreplicate(tree: PyTree) -> PyTree:
  """The first local device's copy as NumPy: [devices, ...] become [...]."""

  def first(leaf):
    # Indexing on the devices would dispatch a program for every leaf.
    if isinstance(leaf, jax.Array):
      leaf = leaf.addressable_data(0)
    return leaf

  copies = jax.device_get(jax.tree.map(first, tree))
  return jax.tree.map(lambda leaf: np.array(leaf[0]), copies)


def shard_steps(batches: np.ndarray) -> jax.Array:
  """[steps, b, ...] over the local devices: [devices, steps, b/devices, ...]."""
  num_steps, size, *rest = batches.shape
  num_devices = len(local())
  rows = batches.reshape(num_steps, num_devices, size // num_devices, *rest)
  return jax.device_put(rows.swapaxes(0, 1), local_sharding())


def shard(tree: PyTree) -> PyTree:
  """Splits over the local devices: [b, ...] become [devices, b/devices, ...]."""
  num_devices = len(local())
  sharding = local_sharding()

  def split(leaf):
    rows = leaf.reshape(num_devices, -1, *leaf.shape[1:])
    return jax.device_put(rows, sharding)

  return jax.tree.map(split, tree)
