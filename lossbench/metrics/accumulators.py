"""Streaming metrics: additive records that are filled batch by batch.

An accumulator is a `flax.struct.dataclass`. Its life:

  empty(...)                    zeros, on the device
  update(self, ..., mask)       pure; jit, pmap; masked rows add exactly nothing
  merge(self, other)            of batches, devices, hosts
  compute(self)                 on the host, in NumPy float64, a Python float

Every leaf is additive: two accumulators merge by the sum of their leaves, and
the D accumulators of D devices by a sum over the device axis
(`reduce_devices`). So a metric is a ratio of sums, divided once at the end, and
is the same on any number of devices and for any batch size.

Counts are int32 on a device (up to 2.1e9 examples or events) and int64 on the
host. Real-valued sums are `CompensatedSum`s.
"""

import math
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

PyTree = Any


@flax.struct.dataclass
class CompensatedSum:
  """A sum in two float32 numbers, good to about 1e-14 of sum(|addends|).

  A plain float32 sum of a million losses has three or four right digits, and
  float64 is not to be had on TPUs nor with x64 off. Here `total` is the sum as
  float32 sees it and `compensation` what rounding took from it; each addition
  moves the exact rounding error (Knuth's two-sum, TAOCP 2, 4.2.2, Theorem B)
  into the compensation, and then renormalises the pair. Neumaier's sum does
  without the second step; its compensation grows and rounds in its turn: with
  2e6 equal addends it loses what it should keep.

  Both leaves are additive: leafwise sums, psum included, are right, though in
  float32 they give up the extra digits that `merge` and `reduce_devices` keep.

  Attributes:
    total: float32, any shape; the rounded sum.
    compensation: float32, same shape; the sum is total + compensation.
  """

  total: jax.Array
  compensation: jax.Array

  @classmethod
  def empty(cls, shape: tuple[int, ...] = ()) -> Self:
    """Zero, or an array of independent zeros."""
    return cls(
      total=jnp.zeros(shape, jnp.float32),
      compensation=jnp.zeros(shape, jnp.float32),
    )

  def add(self, value: ArrayLike) -> Self:
    """Adds one addend of the sum's own shape."""
    value = jnp.asarray(value, jnp.float32)
    if value.shape != self.total.shape:
      raise ValueError(
        f'The addend has shape {value.shape}, the sum {self.total.shape}. '
        'add_rows adds up a leading axis.'
      )
    return self._plus(value, jnp.zeros_like(value))

  def add_rows(self, values: ArrayLike) -> Self:
    """Adds values[0], values[1], ...; values is [B, *shape], B may be 0."""
    values = jnp.asarray(values, jnp.float32)
    if values.ndim == 0 or values.shape[1:] != self.total.shape:
      raise ValueError(
        'Expected addends with one leading axis and then the shape of the sum, '
        f'{self.total.shape}; got {values.shape}.'
      )
    if values.shape[0] == 0:
      return self
    return self._plus(*_sum_rows(values))

  def merge(self, other: Self) -> Self:
    """The sum of two sums; float64 if either has been fetched to the host."""
    if _on_host(self) or _on_host(other):
      return jax.tree.map(_host_sum, self, other)
    return self._plus(other.total, other.compensation)

  def on_device(self) -> jax.Array:
    """The sum, rounded to float32; for use under jit."""
    return self.total + self.compensation

  def compute(self) -> np.ndarray:
    """The sum in float64, on the host."""
    return np.asarray(self.total, np.float64) + np.asarray(
      self.compensation, np.float64
    )

  def _plus(self, total, compensation):
    total, compensation = _add_pairs(
      self.total, self.compensation, total, compensation
    )
    return self.replace(total=total, compensation=compensation)


# Jitted for those who call metrics outside of jit: one program, not dozens.
@jax.jit
def _add_pairs(a, a_compensation, b, b_compensation):
  total, error = _two_sum(a, b)
  return _two_sum(total, a_compensation + b_compensation + error)


@jax.jit
def _sum_rows(values):
  """Sum over a non-empty leading axis as (rounded sum, what it lost)."""
  # A tree of two-sums: the batch's own sum is as good as the running one.
  num_rows = values.shape[0]
  padding = 2 ** math.ceil(math.log2(num_rows)) - num_rows
  values = jnp.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1))
  errors = jnp.zeros_like(values)
  while values.shape[0] > 1:
    half = values.shape[0] // 2
    values, error = _two_sum(values[:half], values[half:])
    errors = errors[:half] + errors[half:] + error
  return values[0], errors[0]


def _two_sum(a, b):
  """(s, e): s = a + b rounded, and s + e = a + b exactly."""
  # The barrier keeps any compiler from concluding that s - a is b.
  s = jax.lax.optimization_barrier(a + b)
  b_part = s - a
  a_part = s - b_part
  error = (a - a_part) + (b - b_part)
  # inf - inf: an infinite sum stays infinite instead of turning into NaN.
  return s, jnp.where(jnp.isfinite(s), error, 0.0)


class Accumulator:
  """Base of the streaming metrics; see the module's text for the contract.

  Subclasses are decorated with `flax.struct.dataclass`; every leaf is additive,
  configuration (k of the top k) is a field with pytree_node=False.
  """

  @classmethod
  def empty(cls, *args, **kwargs) -> Self:
    """The accumulator of no examples."""
    raise NotImplementedError

  def update(self, *arrays, mask) -> Self:
    """Counts a batch; rows where mask is 0 add nothing, even if NaN."""
    raise NotImplementedError

  def compute(self) -> float:
    """The metric's value, on the host."""
    raise NotImplementedError

  def merge(self, other: Self) -> Self:
    """The accumulator of both sets of examples.

    Pure and jittable on the device. If either side has NumPy leaves the sums
    are taken on the host, in float64 and int64.

    Raises:
      ValueError: if the two measure different things or differ in shape.
    """
    _check_alike(self, other)

    def merge_part(a, b):
      if isinstance(a, CompensatedSum):
        return a.merge(b)
      return _host_sum(a, b) if _on_host(a) or _on_host(b) else a + b

    return jax.tree.map(
      merge_part,
      self,
      other,
      is_leaf=lambda part: isinstance(part, CompensatedSum),
    )


def reduce_devices(accumulator: PyTree) -> PyTree:
  """Sums accumulators over their leading device axis, on the host.

  Args:
    accumulator: pytree (an accumulator, or a dictionary of them) of NumPy or
      JAX arrays [D, ...], as they come out of pmap. With several processes,
      gather these device leaves first (multihost_utils.process_allgather(...,
      tiled=True)): what this function returns is float64, which an all-gather
      with x64 off would round to float32.

  Returns:
    The same pytree with NumPy leaves [...], float64 or int64.

  Raises:
    ValueError: if a leaf has no leading axis or the axes differ in length, or
      a leaf is not of numbers.
  """
  shapes = [np.shape(leaf) for leaf in jax.tree.leaves(accumulator)]
  if any(not shape for shape in shapes) or len({s[0] for s in shapes}) > 1:
    raise ValueError(
      'Expected leaves with one leading device axis of the same length; got '
      f'the shapes {shapes}. Reduce an accumulator once, and only one that '
      'came from pmap.'
    )
  return jax.tree.map(
    lambda leaf: np.asarray(_widen(leaf).sum(axis=0)), accumulator
  )


def masked_mean(values: ArrayLike, mask: ArrayLike | None) -> jax.Array:
  """Mean of values [B] over real rows, float32 []; NaN if there are none."""
  values = jnp.asarray(values)
  real = real_rows(mask, values.shape[0])
  total = CompensatedSum.empty().add_rows(jnp.where(real, values, 0.0))
  return total.on_device() / count(real)


def real_rows(mask: ArrayLike | None, num_rows: int) -> jax.Array:
  """The mask as bool [num_rows]: nonzero = real, None = all rows are.

  Raises:
    ValueError: if mask is not [num_rows].
  """
  if mask is None:
    return jnp.ones(num_rows, bool)
  if np.shape(mask) != (num_rows,):
    raise ValueError(
      f'mask must be [{num_rows}], one value per example; got {np.shape(mask)}.'
    )
  return jnp.asarray(mask).astype(bool)


def count(rows: jax.Array, *, axis: int | None = None) -> jax.Array:
  """How many of the booleans are true, int32."""
  return jnp.sum(rows, axis=axis, dtype=jnp.int32)


def _check_alike(a, b):
  layouts = [jax.tree.structure(tree) for tree in (a, b)]
  if layouts[0] != layouts[1]:
    raise ValueError(
      f'Cannot merge accumulators of different kinds: {a!r} and {b!r}.'
    )
  shapes = [[np.shape(x) for x in jax.tree.leaves(tree)] for tree in (a, b)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f'Cannot merge {type(a).__name__} accumulators of different shapes: '
      f'{shapes[0]} and {shapes[1]}. Sum device axes with reduce_devices.'
    )


def _on_host(tree):
  return any(
    isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)
  )


def _host_sum(a, b):
  return np.asarray(_widen(a) + _widen(b))


def _widen(leaf):
  dtype = leaf.dtype
  if jnp.issubdtype(dtype, jnp.floating):
    return np.asarray(leaf).astype(np.float64)
  if jnp.issubdtype(dtype, jnp.integer):
    return np.asarray(leaf).astype(np.int64)
  raise ValueError(f'An accumulator holds sums and counts; got {dtype}.')
