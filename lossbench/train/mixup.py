"""Mixup (Zhang et al. 2017, arXiv:1710.09412) on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mixup(
  images: Float[Array, 'b h w c'],
  targets: Float[Array, 'b k'],
  key: jax.Array,
  *,
  alpha: float,
) -> tuple[Float[Array, 'b h w c'], Float[Array, 'b k']]:
  """Mixes every example with its neighbour in the batch.

    m x_i + (1 - m) x_{i-1},  m ~ Beta(alpha, alpha), one m per call

  The order of a training batch is random already, so a neighbour is as good as
  a random partner, and no image leaves its device.

  Args:
    images: [B, H, W, C].
    targets: [B, K], distributions.
    key: the same key draws the same m.
    alpha: > 0; may be traced.

  Returns:
    Mixed images of the dtype of `images`, and mixed targets.
  """
  share = jax.random.beta(key, alpha, alpha)

  def mix(x):
    weight = share.astype(x.dtype)
    return weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)

  return mix(images), mix(targets)
