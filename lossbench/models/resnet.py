"""ResNet "v1.5" for ImageNet."""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lossbench.models.convolution import Conv
from lossbench.models.image_size import check_image_size
from lossbench.models.pooling import max_pool

# Depth -> blocks in each of the four stages; He et al. 2016, table 1.
STAGE_SIZES = {
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
}
FIRST_BOTTLENECK_DEPTH = 50
_PADDINGS = ('same', 'symmetric')


class _Block(nn.Module):
  """relu(shortcut(x) + residual(x)): [B, H, W, C] -> [B, H/s, W/s, C'].

  Attributes:
    layers: (channels, kernel size, stride) of the residual's convolutions, of
      which at most one has a stride s > 1.
    padding: of convolutions with a stride, 'same' or 'symmetric'.
    conv: makes a convolution.
    bn: makes a batch normalisation.
  """

  layers: tuple[tuple[int, int, int], ...]
  padding: str
  conv: Callable[..., nn.Module]
  bn: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    residual = x
    for number, (channels, size, stride) in enumerate(self.layers, start=1):
      is_last = number == len(self.layers)
      residual = self.conv(
        channels,
        (size, size),
        strides=stride,
        padding='SAME' if self.padding == 'same' else size // 2,
        name=f'conv{number}',
      )(residual)
      # The residual starts at 0, the block as the identity: Goyal et al. 2017,
      # section 5.1.
      scale_init = nn.initializers.zeros if is_last else nn.initializers.ones
      residual = self.bn(scale_init=scale_init, name=f'bn{number}')(residual)
      if not is_last:
        residual = nn.relu(residual)
    if x.shape != residual.shape:
      channels, _, _ = self.layers[-1]
      stride = max(stride for _, _, stride in self.layers)
      x = self.conv(channels, (1, 1), strides=stride, name='conv_shortcut')(x)
      x = self.bn(name='bn_shortcut')(x)
    return nn.relu(x + residual)


class ResNet(nn.Module):
  """He et al. 2016 (arXiv:1512.03385), table 1, as the paper trains it.

  Endpoints: stage<i>_block<j>, after the addition and ReLU, then features
  [B, M], the average pool. With images [B, 224, 224, 3] and width 64, stage i
  is [B, 56/2^(i-1), 56/2^(i-1), C_i]; C_i = 64 * 2^(i-1) at depths 18 and 34,
  four times that at 50, 101 and 152; M = C_4.

  Departures from He et al. that make it "v1.5":
    - Bottlenecks stride in the 3 x 3 convolution, not in the first 1 x 1
      (Gross & Wilber 2016).
    - The last scale of each block starts at 0 (Goyal et al. 2017).
    - Convolutions start as truncated normals of variance 1/fan_in, not He's
      2/fan_in (released code).

  As in the released code convolutions pad both sides equally whatever their
  stride, and the max pool pads as SAME does: at even sizes only at the bottom
  and on the right. Others pad otherwise, with parameters of the same shapes:
  torchvision and timm both sides of the max pool, of which at even sizes only
  the top and the left come to bear; Flax's ImageNet example the blocks'
  convolutions as SAME.

  Attributes:
    depth: 18, 34, 50, 101 or 152.
    width: channels of the stem; smaller ones are for tests.
    max_pool_padding: 'same', or 'symmetric' for one pixel on every side.
    conv_padding: of the blocks' 3 x 3 convolutions, 'symmetric' for one pixel on
      every side, or 'same'; they are one where there is no stride.
    dtype: of the computation; parameters and statistics stay float32.
    precision: of products in convolutions of float32.
    batch_norm: makes a batch normalisation.
  """

  # The convolutions and pools divide the size by this in all.
  min_image_size: ClassVar[int] = 32

  depth: int = 50
  width: int = 64
  max_pool_padding: str = 'same'
  conv_padding: str = 'symmetric'
  dtype: jnp.dtype = jnp.float32
  precision: jax.lax.PrecisionLike = None
  batch_norm: Callable[..., nn.Module] = nn.BatchNorm

  def _layers(self, channels: int, stride: int):
    """(channels, kernel size, stride) of a block's convolutions."""
    if self.depth >= FIRST_BOTTLENECK_DEPTH:
      return (channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)
    return (channels, 3, stride), (channels, 3, 1)

  def _check_paddings(self):
    for padding in (self.max_pool_padding, self.conv_padding):
      if padding not in _PADDINGS:
        raise ValueError(
          f'Unknown padding {padding!r}. Known: {", ".join(_PADDINGS)}.'
        )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Images [B, H, W, C] -> named endpoints, `features` float32 last.

    Raises:
      ValueError: if the depth or a padding is unknown or the images are too
        small.
    """
    self._check_paddings()
    if self.depth not in STAGE_SIZES:
      raise ValueError(
        f'Unknown ResNet depth {self.depth}. Known: '
        f'{", ".join(map(str, STAGE_SIZES))}.'
      )
    check_image_size(self, images)
    conv = functools.partial(
      Conv,
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal'
      ),
      dtype=self.dtype,
      precision=self.precision,
    )
    bn = functools.partial(
      self.batch_norm,
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
    )
    x = conv(self.width, (7, 7), strides=2, padding=3, name='conv_stem')(images)
    x = nn.relu(bn(name='bn_stem')(x))
    symmetric = self.max_pool_padding == 'symmetric'
    pool_padding = ((1, 1), (1, 1)) if symmetric else 'SAME'
    x = max_pool(x, (3, 3), strides=(2, 2), padding=pool_padding)
    endpoints = {}
    for stage, num_blocks in enumerate(STAGE_SIZES[self.depth], start=1):
      for block in range(1, num_blocks + 1):
        stride = 2 if stage > 1 and block == 1 else 1
        layers = self._layers(self.width * 2 ** (stage - 1), stride)
        name = f'stage{stage}_block{block}'
        x = _Block(layers, self.conv_padding, conv, bn, name=name)(x)
        endpoints[name] = x
    endpoints['features'] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return endpoints
