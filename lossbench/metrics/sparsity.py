"""Sparsity of activations (Figure 2 of the paper).

The value is the share of activations that are NOT zero, `nonzero_fraction`,
which is what the figure plots; "sparsity" would read as its opposite. Lower is
sparser; neither direction is better.
"""

import math
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators


def nonzero_fraction(
  activations: ArrayLike, *, mask: ArrayLike | None = None
) -> jax.Array:
  """Share of activations that are not zero, over examples and units.

  Args:
    activations: [N, ...] of any shape and dtype, after the nonlinearity; -0.0
      is zero.
    mask: [N], 1 = real, 0 = padding; None counts every row.

  Returns:
    Scalar float32, a fraction in [0, 1]; NaN if nothing is counted or an
    activation is NaN.

  Raises:
    ValueError: if there is no leading axis, an example has no activations, or
      shapes disagree.

  Example:
    >>> float(metrics.nonzero_fraction([[0.0, 1.0], [0.0, 0.0]]))
    0.25
  """
  return accumulators.masked_mean(_fraction_per_example(activations), mask)


@flax.struct.dataclass
class ActivationSparsity(accumulators.Accumulator):
  """Streaming `nonzero_fraction` of one endpoint.

  Attributes:
    fraction_sum: compensated float32 [], sum over examples of each one's share
      of non-zero activations. (Counts of activations would overflow int32.)
    num_examples: int32 [].
  """

  fraction_sum: accumulators.CompensatedSum
  num_examples: jax.Array

  @classmethod
  def empty(cls) -> Self:
    """No examples."""
    return cls(
      fraction_sum=accumulators.CompensatedSum.empty(),
      num_examples=jnp.zeros((), jnp.int32),
    )

  def update(self, activations: ArrayLike, mask: ArrayLike | None) -> Self:
    """Counts activations [B, ...] where mask [B] is not 0."""
    fraction = _fraction_per_example(activations)
    real = accumulators.real_rows(mask, fraction.shape[0])
    return self.replace(
      fraction_sum=self.fraction_sum.add_rows(jnp.where(real, fraction, 0.0)),
      num_examples=self.num_examples + accumulators.count(real),
    )

  def compute(self) -> float:
    """A fraction in [0, 1], lower is sparser; NaN if nothing was counted.

    Also NaN if a real example had a NaN.
    """
    if not int(self.num_examples):
      return float('nan')
    return float(self.fraction_sum.compute() / int(self.num_examples))


def _fraction_per_example(activations):
  if np.ndim(activations) < 1:
    raise ValueError('activations must be [batch, ...]; got a scalar.')
  activations = jnp.asarray(activations)
  num_units = math.prod(activations.shape[1:])
  if not num_units:
    raise ValueError(
      f'There are no activations in the shape {activations.shape}.'
    )
  # |sign| and not a comparison, which is a scalar loop on CPUs; nor |x| * huge
  # capped at 1, whose constants are written out in the map's size. And summed
  # over space before channels: over all trailing axes at once is slow again.
  # NaN stays NaN, for to count it would pass a broken network for a dense one.
  nonzero = jnp.abs(jnp.sign(activations.astype(jnp.float32)))
  partial = jnp.sum(nonzero, axis=tuple(range(1, activations.ndim - 1)))
  partial = jax.lax.optimization_barrier(partial).reshape(len(partial), -1)
  broken = jnp.any(jnp.isnan(partial), axis=1)
  # Counted in integers: a float32 mean of 800,000 ones need not be 1.
  counts = jnp.where(jnp.isnan(partial), 0.0, partial).astype(jnp.int32)
  return jnp.where(broken, jnp.nan, jnp.sum(counts, axis=1) / num_units)
