"""Whether all devices hold the same state, as they must.

Every device keeps a copy of the state and takes the same step. A copy that
differs (a faulty device, a host that trained on something else) would train on
without a word, and a checkpoint is of one copy only.
"""

import collections
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lossbench.runtime import devices
from lossbench.runtime.cluster import Disagreement
from lossbench.train.state import TrainState

_MULTIPLIER = np.uint32(0x9E3779B1)  # odd, so that no bit is lost


def _mix(bits: jax.Array) -> jax.Array:
  """A permutation of uint32: the finalizer of Appleby's MurmurHash3."""
  bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
  return bits ^ (bits >> 16)


def _leaf_checksum(leaf: jax.Array) -> jax.Array:
  """uint32 [] of the bits of an array and their places.

  A sum of integers wraps around and so has no order. No change of one element
  goes unnoticed, and of several one in 2^32.
  """
  bits = jax.lax.bitcast_convert_type(
    leaf, jnp.dtype(f'uint{8 * leaf.dtype.itemsize}')
  ).reshape(-1)
  places = jnp.arange(bits.size, dtype=jnp.uint32)
  return jnp.sum(_mix(bits.astype(jnp.uint32) + places * _MULTIPLIER))


@devices.pmap
def checksums(state: TrainState) -> jax.Array:
  """One of every device's copy, on every device: uint32 [devices, devices].

  Args:
    state: with a leading device axis.
  """
  total = jnp.zeros((), jnp.uint32)
  for leaf in jax.tree.leaves(state):
    total = total * _MULTIPLIER + _leaf_checksum(leaf)
  return jax.lax.all_gather(total, devices.AXIS)


def start_check(state: TrainState, *, step: int) -> Callable[[], None]:
  """Starts to compare the states that devices hold.

  Args:
    state: with a leading device axis, as the train step returns it; may be
      donated at once.
    step: that was taken last.

  Returns:
    What waits for the comparison, and raises `Disagreement`, on every process, if
    they differ.
  """
  if devices.count() == 1:
    return lambda: None
  found = checksums(state)
  return lambda: _compare(_fetch(found), step=step)


def check_replicas(state: TrainState, *, step: int):
  """`start_check`, and waits for it."""
  start_check(state, step=step)()


def _fetch(found: jax.Array) -> np.ndarray:
  return np.asarray(found.addressable_data(0)).reshape(-1)


def _compare(found: np.ndarray, *, step: int):
  [(most, count)] = collections.Counter(found.tolist()).most_common(1)
  if count == len(found):
    return
  others = ', '.join(
    f'{index} (of process {device.process_index})'
    for index, device in enumerate(devices.along_axis())
    if found[index] != most
  )
  raise Disagreement(
    f'At step {step} {len(found) - count} of {len(found)} devices hold another '
    f'state than the others: {others}. Nothing is saved of it; the checkpoints '
    'before are kept. Run the same command again to resume; if it happens '
    'again, replace that machine.'
  )
