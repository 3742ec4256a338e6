"""Placing arrays on this process's devices the way that pmap returns them.

pmap compiles a function once for every sharding of its arguments, and tells
shardings apart by the name of the mesh's axis. Arrays placed here look just
like the outputs of our pmapped steps, so that a step compiles once; with
`flax.jax_utils.replicate` the second step would compile again.
"""

from typing import Any

import jax
import numpy as np

PyTree = Any

# Name of the axis of all pmapped functions.
AXIS = 'batch'


def local_sharding() -> jax.sharding.NamedSharding:
  """Splits a leading axis over this process's devices."""
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def replicate(tree: PyTree) -> PyTree:
  """A copy on every local device: leaves [...] become [devices, ...]."""
  num_devices = jax.local_device_count()
  sharding = local_sharding()

  def copy(leaf):
    leaf = np.asarray(leaf)
    copies = np.broadcast_to(leaf[None], (num_devices, *leaf.shape))
    return jax.device_put(copies, sharding)

  return jax.tree.map(copy, tree)


def shard_steps(batches: np.ndarray) -> jax.Array:
  """[steps, b, ...] over the local devices: [devices, steps, b/devices, ...]."""
  num_steps, size, *rest = batches.shape
  num_devices = jax.local_device_count()
  rows = batches.reshape(num_steps, num_devices, size // num_devices, *rest)
  return jax.device_put(rows.swapaxes(0, 1), local_sharding())


def shard(tree: PyTree) -> PyTree:
  """Splits over the local devices: [b, ...] become [devices, b/devices, ...]."""
  num_devices = jax.local_device_count()
  sharding = local_sharding()

  def split(leaf):
    rows = leaf.reshape(num_devices, -1, *leaf.shape[1:])
    return jax.device_put(rows, sharding)

  return jax.tree.map(split, tree)
