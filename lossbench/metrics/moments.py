"""Sums of x and of x y^T over examples, fit for covariances.

A covariance is a difference of such sums, and where the means are large against
the spread (pooled ReLUs, say) a float32 sum of x y^T has nothing left of it. So
each batch is centred first, x = c + r with c about its mean, and

  sum x y^T = sum r_x r_y^T + c_x d_y^T + d_x c_y^T + n c_x c_y^T,  d = sum r,

the last term, the large one, without rounding: c has 12 significant bits, so
that c_x c_y^T has the 24 of float32. The sums are additive, whatever the
batches; covariances from them are good to 1e-7 of the variance and 1e-11 of the
squared mean.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics.accumulators import CompensatedSum


@flax.struct.dataclass
class Batch:
  """Real rows x of a batch, split into their mean and the rest.

  Attributes:
    centre: float32 [M], c, of at most 12 significant bits.
    residuals: float32 [B, M], x - c; 0 where a row does not count.
    residual_sum: float32 [M].
    num_rows: float32 [], rows that count.
  """

  centre: jax.Array
  residuals: jax.Array
  residual_sum: jax.Array
  num_rows: jax.Array

  @classmethod
  def create(cls, features: ArrayLike, counted: jax.Array) -> Self:
    """Features [B, M], of which the rows counted [B] (bool) count."""
    counted = counted[:, None]
    features = jnp.where(counted, jnp.asarray(features, jnp.float32), 0.0)
    num_rows = jnp.sum(counted, dtype=jnp.int32).astype(jnp.float32)
    centre = jnp.sum(features, axis=0) / jnp.maximum(num_rows, 1.0)
    centre, _ = _halves(centre)
    residuals = jnp.where(counted, features - centre[None, :], 0.0)
    return cls(centre, residuals, jnp.sum(residuals, axis=0), num_rows)


def add_rows(sums: CompensatedSum, batch: Batch) -> CompensatedSum:
  """sums [M] + the sum of the batch's rows."""
  sums = _add_multiple(sums, batch, batch.centre)
  return sums.add(batch.residual_sum)


def add_group_rows(
  sums: CompensatedSum, batch: Batch, member: jax.Array
) -> CompensatedSum:
  """sums [K, M] + the sum of the rows of each group; member is bool [B, K]."""
  weights = member.astype(jnp.float32)
  residual_sums = jnp.matmul(
    weights.T, batch.residuals, precision=jax.lax.Precision.HIGHEST
  )
  sizes = jnp.sum(weights, axis=0)[:, None]
  sums = _add_multiple(sums, batch, batch.centre[None, :], sizes)
  return sums.add(residual_sums)


def add_products(sums: CompensatedSum, x: Batch, y: Batch) -> CompensatedSum:
  """sums [M_x, M_y] + the sum over rows of x y^T."""
  # HIGHEST: accelerators would multiply in bfloat16 or TF32 by default.
  products = jnp.matmul(
    x.residuals.T, y.residuals, precision=jax.lax.Precision.HIGHEST
  )
  column, row = x.centre[:, None], y.centre[None, :]
  sums = _add_multiple(sums, x, column * row)
  return sums.add(
    products + column * y.residual_sum[None, :] + x.residual_sum[:, None] * row
  )


def covariance(
  products: CompensatedSum,
  x_sum: CompensatedSum,
  y_sum: CompensatedSum,
  *,
  num_examples: int,
) -> np.ndarray:
  """Mean of (x - mean x) (y - mean y)^T, float64 [M_x, M_y], on the host."""
  means = x_sum.compute() / num_examples, y_sum.compute() / num_examples
  return products.compute() / num_examples - np.outer(*means)


def _add_multiple(sums, batch, values, factor=None):
  """sums + factor * values, without rounding; factor: numbers of rows."""
  # Products of 12 bits and 12 are exact, and only those may be added: where a
  # product is rounded compilers fuse it with the addition that follows, and
  # what CompensatedSum takes for the rounding error is not.
  factor = batch.num_rows if factor is None else factor
  few = batch.residuals.shape[0] < 2**12
  for part in (factor,) if few else _halves(factor):
    for half in _halves(values):
      sums = sums.add(part * half)
  return sums


def _halves(x):
  """x as two float32 of at most 12 significant bits each."""
  # By bits, and not by a multiplication, which a compiler might undo.
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  high = jax.lax.bitcast_convert_type(
    bits & jnp.uint32(0xFFFFF000), jnp.float32
  )
  return high, x - high
