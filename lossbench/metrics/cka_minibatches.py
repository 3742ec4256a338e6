"""Minibatch CKA of layers of any size, from Gram matrices of minibatches.

Nguyen et al. 2021 (arXiv:2010.15327), eq. 2, linear kernels: devices turn the
activations of a minibatch of G consecutive examples into its U-centred Gram
matrix, and G numbers an example are all that is kept of a layer. The estimate
depends on which examples share a minibatch, so results are the same for every
batch size that is a multiple of G x devices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, cka

_CHUNK_SIZE = 4096  # examples whose Gram rows are in float64 at once


def to_minibatches(x: ArrayLike, *, minibatch_size: int) -> jax.Array:
  """[B, ...] as [B / G, G, ...], consecutive examples together; jittable.

  A mask [B] too: as the `members` of `u_centered_grams`.

  Raises:
    ValueError: if minibatch_size = G does not divide B.
  """
  x = jnp.asarray(x)
  if minibatch_size < 1 or x.ndim < 1 or x.shape[0] % minibatch_size:
    raise ValueError(
      f'A batch of shape {x.shape} is not a number of minibatches of '
      f'{minibatch_size}: choose a minibatch size that divides the batch of a '
      'device.'
    )
  return x.reshape(-1, minibatch_size, *x.shape[1:])


def u_centered_grams(features: ArrayLike, members: ArrayLike) -> jax.Array:
  """U-centred Gram matrices: HSIC_1 is their product / (n (n - 3)).

  Székely & Rizzo 2014 (arXiv:1310.2926), definition 2, of linear kernels.
  Jittable.

  Args:
    features: [B, G, ...], B minibatches of G examples.
    members: [B, G] bool; rows and columns of examples that are none are 0.

  Returns:
    float32 [B, G, G].
  """
  num_minibatches, size = members.shape
  flat = jnp.reshape(features, (num_minibatches, size, -1))
  flat = jnp.where(members[:, :, None], flat.astype(jnp.float32), 0.0)
  count = accumulators.count(members, axis=1).astype(jnp.float32)[:, None]
  means = jnp.sum(flat, axis=1) / jnp.maximum(count, 1.0)
  flat = jnp.where(members[:, :, None], flat - means[:, None, :], 0.0)
  gram = jnp.einsum(
    'bid,bjd->bij', flat, flat, precision=jax.lax.Precision.HIGHEST
  )
  pairs = (
    members[:, :, None] & members[:, None, :] & ~jnp.eye(size, dtype=bool)[None]
  )
  gram = jnp.where(pairs, gram, 0.0)
  rows = jnp.sum(gram, axis=2)
  total = jnp.sum(rows, axis=1)[:, None, None]
  less_1 = jnp.maximum(count - 1.0, 1.0)[:, :, None]
  less_2 = jnp.maximum(count - 2.0, 1.0)[:, :, None]
  centred = (
    gram
    - (rows[:, :, None] + rows[:, None, :]) / less_2
    + total / (less_1 * less_2)
  )
  return jnp.where(pairs, centred, 0.0)


def cka_of_grams(
  grams: Sequence[ArrayLike], *, minibatch_size: int
) -> np.ndarray:
  """`cka.minibatch_cka` of every pair of A layers from stored Gram matrices.

  A layer of any size is thereby compared with any other without its
  activations: N G numbers a layer are all that has to be kept.

  Args:
    grams: A arrays [N, G], each example's row of its minibatch's
      `u_centered_grams`; consecutive examples share a minibatch, the last one
      may be short.
    minibatch_size: G >= 4.

  Returns:
    float64 [A, A] in [-1, 1], symmetric, 1 on the diagonal; NaN where a layer
    is constant.

  Raises:
    ValueError: if there are no layers, shapes disagree, no minibatch has 4
      examples or a number is NaN or infinite.
  """
  shapes = {np.shape(gram) for gram in grams}
  if len(shapes) != 1 or len(next(iter(shapes))) != 2:
    raise ValueError(
      'Expected Gram rows [num_examples, minibatch_size] of the same examples; '
      f'got {sorted(shapes)}.'
    )
  num_examples, size = next(iter(shapes))
  if size != minibatch_size or min(size, num_examples) < cka.MIN_DEBIASED:
    raise ValueError(
      f'minibatch_size must be {size}, the length of the rows, and it and the '
      f'number of examples at least {cka.MIN_DEBIASED}; got {minibatch_size} and '
      f'{num_examples}.'
    )
  sizes = np.full(num_examples, size)
  short = num_examples % size
  if short:
    sizes[-short:] = short
  # A minibatch weighs n / (n (n - 3)): as many examples as it has.
  divisor = np.maximum(sizes - (cka.MIN_DEBIASED - 1), 1)
  scale = np.where(sizes < cka.MIN_DEBIASED, 0.0, divisor**-0.5)
  hsic = np.zeros((len(grams), len(grams)))
  for start in range(0, num_examples, _CHUNK_SIZE):
    rows = slice(start, start + _CHUNK_SIZE)
    chunk = np.stack(
      [np.asarray(gram[rows], np.float64).reshape(-1) for gram in grams]
    )
    chunk *= np.repeat(scale[rows], size)
    hsic += chunk @ chunk.T
  if not np.isfinite(hsic).all():
    raise ValueError(
      'A Gram matrix holds NaN or infinity: did the run diverge?'
    )
  own = np.diag(hsic)
  with np.errstate(invalid='ignore', divide='ignore'):
    ratio = hsic / np.sqrt(np.outer(own, own))
  return np.where(np.outer(own, own) > 0, np.clip(ratio, -1.0, 1.0), np.nan)
