"""A run's devices: placing arrays on them, and mapping functions over them.

What is on the devices has a leading axis, one row a device, as `jax.pmap` has
it. In a run of one process they are arrays of pmap, and functions are mapped by
it. In one of many processes they are global arrays, of all devices, and functions
are mapped by what pmap is made of, a jitted `shard_map`: pmap itself would turn
every leaf from an array of this process into a global one and back at each call,
which took three quarters of the dispatch of a step (benchmarks/dispatch.py). The
programs are the same.

A function is compiled once for every sharding of its arguments, and shardings are
told apart by the name of the mesh's axis. Arrays placed here look just like the
outputs of functions mapped here, so that a step compiles once; with
`flax.jax_utils.replicate` the second step would compile again.

A run has all devices of its process, or those of all processes; inside `only`
it has one, beside others with one each.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any
# Of all arguments or results, or of each: 0 for a leading device axis, None for
# the same everywhere.
Axes = int | None | Sequence[int | None]

# Name of the axis of all mapped functions.
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
  """The one of `only`; None for all of all processes.

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


def along_axis() -> tuple[jax.Device, ...]:
  """Those of all processes, in the order of the rows of arrays."""
  return chosen() or _of_all_processes()


@functools.cache
def _of_all_processes() -> tuple[jax.Device, ...]:
  return tuple(
    device
    for process in range(jax.process_count())
    for device in jax.local_devices(process_index=process)
  )


def _spans_processes() -> bool:
  return chosen() is None and jax.process_count() > 1


@functools.cache
def _sharding(mesh_devices: tuple[jax.Device, ...], *axes) -> NamedSharding:
  mesh = Mesh(np.array(mesh_devices), (AXIS,))
  return NamedSharding(mesh, PartitionSpec(*axes))


def _from_shards(shape, sharding: NamedSharding, array: jax.Array) -> jax.Array:
  """An array of the buffers that this process has of another; no copy."""
  shards = [shard.data for shard in array.addressable_shards]
  return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def place(rows: np.ndarray) -> jax.Array:
  """One row on each device.

  Args:
    rows: [local devices, ...], of this process.

  Returns:
    [devices, ...], of all processes.
  """
  array = jax.device_put(rows, _sharding(local(), AXIS))
  if not _spans_processes():
    return array
  shape = (count(), *array.shape[1:])
  return _from_shards(shape, _sharding(along_axis(), AXIS), array)


def fetch(tree: PyTree) -> PyTree:
  """This process's rows as NumPy: [devices, ...] become [local devices, ...]."""

  def own_rows(leaf):
    shape = (len(local()), *leaf.shape[1:])
    return _from_shards(shape, _sharding(local(), AXIS), leaf)

  return jax.device_get(
    jax.tree.map(own_rows, tree) if _spans_processes() else tree
  )


def gather(tree: PyTree) -> PyTree:
  """All rows on every process: arrays [devices, ...], for `jax.device_get`.

  Does not wait for them. All processes of a run call it alike.
  """
  return _gather(tree) if _spans_processes() else tree


def broadcast(tree: PyTree) -> PyTree:
  """Numbers on every device, for arguments that have no device axis.

  What a function is called with again and again is sent but once.
  """

  def copy(leaf):
    array = jax.device_put(np.asarray(leaf), _sharding(local()))
    if not _spans_processes():
      return array
    return _from_shards(array.shape, _sharding(along_axis()), array)

  return jax.tree.map(copy, tree)


def replicate(tree: PyTree) -> PyTree:
  """A copy on every device: leaves [...] become [devices, ...]."""
  num_devices = len(local())

  def copy(leaf):
    leaf = np.asarray(leaf)
    return place(np.broadcast_to(leaf[None], (num_devices, *leaf.shape)))

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


@jax.jit
def _copy(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.copy, tree)


def copy_first(tree: PyTree) -> PyTree:
  """A copy of the first local device's row, on its way to the host.

  Whatever takes the memory of the arrays afterwards leaves it as it is. Leaves
  are [1, ...], for `unreplicate`.
  """
  copies = _copy(jax.tree.map(lambda leaf: leaf.addressable_data(0), tree))
  for leaf in jax.tree.leaves(copies):
    leaf.copy_to_host_async()
  return copies


def shard_steps(batches: np.ndarray) -> jax.Array:
  """Splits batches over the local devices.

  Args:
    batches: [steps, b, ...], of this process.

  Returns:
    [devices, steps, b/local devices, ...].
  """
  num_steps, size, *rest = batches.shape
  num_devices = len(local())
  rows = batches.reshape(num_steps, num_devices, size // num_devices, *rest)
  return place(rows.swapaxes(0, 1))


def shard(tree: PyTree) -> PyTree:
  """Splits a batch over the local devices.

  Args:
    tree: of arrays [b, ...], of this process.

  Returns:
    The same of [devices, b/local devices, ...].
  """
  num_devices = len(local())
  return jax.tree.map(
    lambda leaf: place(leaf.reshape(num_devices, -1, *leaf.shape[1:])), tree
  )


def pmap(
  fn: Callable,
  *,
  in_axes: Axes = 0,
  out_axes: Axes = 0,
  donate_argnums: int | tuple[int, ...] = (),
) -> Callable:
  """`jax.pmap` over this run's devices, those of all processes, as `AXIS`.

  Args:
    fn: of one device: positional arguments without their device axis.
    in_axes: of all arguments, or of each.
    out_axes: of all results, or of each.
    donate_argnums: arguments whose buffers the results may take.

  Returns:
    The function of arrays as this module places them, on the devices that there
    are where it is called.
  """
  axes = {'in_axes': in_axes, 'out_axes': out_axes}

  @functools.cache
  def mapped(only_devices):
    if only_devices is None and jax.process_count() > 1:
      return _pmap_globally(fn, **axes, donate_argnums=donate_argnums)
    return jax.pmap(
      fn,
      axis_name=AXIS,
      devices=only_devices,
      **axes,
      donate_argnums=donate_argnums,
    )

  @functools.wraps(fn)
  def call(*args):
    return mapped(chosen())(*args)

  call.lower = lambda *args: mapped(chosen()).lower(*args)
  return call


def _pmap_globally(fn, *, in_axes, out_axes, donate_argnums):
  """pmap of global arrays, of which each process holds some rows."""
  mesh = Mesh(np.array(along_axis()), (AXIS,))

  def specs(axes):
    if isinstance(axes, Sequence):
      return tuple(specs(axis) for axis in axes)
    return PartitionSpec() if axes is None else PartitionSpec(AXIS)

  def each(axes, values):
    return axes if isinstance(axes, Sequence) else (axes,) * len(values)

  def drop_axis(axis, tree):
    if axis is None:
      return tree
    return jax.tree.map(lambda leaf: jax.lax.squeeze(leaf, (0,)), tree)

  def add_axis(axis, tree):
    if axis is None:
      return tree
    return jax.tree.map(lambda leaf: jax.lax.expand_dims(leaf, (0,)), tree)

  def on_device(*args):
    results = fn(*map(drop_axis, each(in_axes, args), args))
    if not isinstance(out_axes, Sequence):
      return add_axis(out_axes, results)
    return tuple(map(add_axis, out_axes, results))

  shardings = [
    jax.tree.map(
      lambda spec: NamedSharding(mesh, spec),
      specs(axes),
      is_leaf=lambda spec: isinstance(spec, PartitionSpec),
    )
    for axes in (in_axes, out_axes)
  ]
  return jax.jit(
    # Replicas of a value may differ where pmap's may: nothing is added to make
    # them agree, and gradients are reduced where the function says so.
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=specs(in_axes),
      out_specs=specs(out_axes),
      check_vma=False,
    ),
    in_shardings=shardings[0],
    out_shardings=shardings[1],
    donate_argnums=donate_argnums,
  )


_gather = pmap(lambda tree: jax.lax.all_gather(tree, AXIS), out_axes=None)
