"""A small batch-normalised CNN for handwritten digits: the quickest real model."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lossbench.models.convolution import Conv
from lossbench.models.image_size import check_image_size


class DigitsCnn(nn.Module):
  """3 x 3 convolutions with batch normalisation, then average pooling.

  Endpoints: block1 [B, H, W, w], block2 [B, H, W, 2w], block3 [B, H/2, W/2,
  4w], all after ReLU, and features [B, 4w], the average pool of block3; with
  other strides likewise.

  Attributes:
    width: w, channels of the first block; each has twice those of
      the one before.
    strides: of the blocks.
    dtype: of the computation; parameters and statistics stay float32.
    precision: of products in convolutions of float32.
    batch_norm: makes a batch normalisation.
  """

  min_image_size: ClassVar[int] = 4

  width: int = 32
  strides: Sequence[int] = (1, 1, 2)
  dtype: jnp.dtype = jnp.float32
  precision: jax.lax.PrecisionLike = None
  batch_norm: Callable[..., nn.Module] = nn.BatchNorm

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    check_image_size(self, images)
    endpoints = {}
    x = images.astype(self.dtype)
    for block, stride in enumerate(self.strides, start=1):
      x = Conv(
        self.width * 2 ** (block - 1),
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        precision=self.precision,
        name=f'conv{block}',
      )(x)
      x = self.batch_norm(
        use_running_average=not train,
        momentum=0.9,
        dtype=self.dtype,
        name=f'bn{block}',
      )(x)
      x = nn.relu(x)
      endpoints[f'block{block}'] = x
    endpoints['features'] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return endpoints
