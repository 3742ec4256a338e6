"""Wide residual networks for CIFAR."""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lossbench.models.convolution import Conv
from lossbench.models.image_size import check_image_size


class WideResNet(nn.Module):
  """WRN-depth-width: Zagoruyko & Komodakis 2016 (arXiv:1605.07146), table 1.

  A 3 x 3 convolution, then three stages of (depth - 4) / 6 pre-activation
  blocks with two 3 x 3 convolutions each, B(3, 3), without dropout:

    x <- shortcut + conv2(relu(bn2(conv1(a)))),   a <- relu(bn(x))

  where the shortcut is x, or a 1 x 1 convolution of a if the number of channels
  changes.

  The sum x itself never passes a ReLU here, so the endpoint of a block is a,
  the batch-normalised and rectified sum: non-negative, and what the next
  layers see. A block therefore owns the `bn_out` after its addition, which the
  paper counts as the first layer of the next block; the function is the same.

  Endpoints: stage1_block<j> [B, H, W, 16 * width], stage2_block<j>
  [B, H/2, W/2, 32 * width], stage3_block<j> [B, H/4, W/4, 64 * width] and
  features [B, 64 * width], the average pool of the last.

  Kernels start as in the authors' code: He's normal by fan-out,
  N(0, 2 / (9 * channels out)) for 3 x 3.

  Attributes:
    depth: 6 * n + 4, with n blocks a stage: the number of convolutions,
      shortcuts included.
    width: k, the factor on the channels 16, 32 and 64.
    dtype: of the computation; parameters and statistics stay float32.
    precision: of products in convolutions of float32.
    batch_norm: makes a batch normalisation.
  """

  # The convolutions divide the size by this in all.
  min_image_size: ClassVar[int] = 4

  depth: int = 16
  width: int = 8
  dtype: jnp.dtype = jnp.float32
  precision: jax.lax.PrecisionLike = None
  batch_norm: Callable[..., nn.Module] = nn.BatchNorm

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Images [B, H, W, C] -> named endpoints, `features` float32 last.

    Raises:
      ValueError: if the depth is impossible or the images are too small.
    """
    num_blocks, rest = divmod(self.depth - 4, 6)
    if num_blocks < 1 or rest:
      raise ValueError(
        'The depth of a WideResNet is 6 * n + 4 with n >= 1: 10, 16, 22, 28, '
        f'...; got {self.depth}.'
      )
    check_image_size(self, images)
    conv = functools.partial(
      Conv,
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
      dtype=self.dtype,
      precision=self.precision,
    )
    conv3x3 = functools.partial(conv, kernel_size=(3, 3), padding=1)

    def bn_relu(x, name):
      bn = self.batch_norm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=self.dtype,
        name=name,
      )
      return nn.relu(bn(x))

    x = conv3x3(16, name='conv_stem')(images)
    activation = bn_relu(x, 'bn_stem')
    endpoints = {}
    for stage in (1, 2, 3):
      channels = 16 * 2 ** (stage - 1) * self.width
      for block in range(1, num_blocks + 1):
        stride = 2 if stage > 1 and block == 1 else 1
        name = f'stage{stage}_block{block}'
        residual = conv3x3(channels, strides=stride, name=f'{name}_conv1')(
          activation
        )
        residual = bn_relu(residual, f'{name}_bn2')
        residual = conv3x3(channels, name=f'{name}_conv2')(residual)
        if x.shape[-1] != channels:
          x = conv(
            channels, (1, 1), strides=stride, name=f'{name}_conv_shortcut'
          )(activation)
        x = x + residual
        activation = bn_relu(x, f'{name}_bn_out')
        endpoints[name] = activation
    endpoints['features'] = jnp.mean(
      activation.astype(jnp.float32), axis=(1, 2)
    )
    return endpoints
