"""Inception v3 for ImageNet."""

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lossbench.models.convolution import Conv
from lossbench.models.image_size import check_image_size
from lossbench.models.pooling import max_pool


class _Conv(NamedTuple):
  """Convolution (by default 1 x 1), batch normalisation and ReLU."""

  channels: int
  height: int = 1
  width: int = 1
  stride: int = 1
  padding: str = 'SAME'


class _Split(NamedTuple):
  """Convolutions of one input, whose outputs are concatenated."""

  convs: tuple[_Conv, ...]


_conv_valid = functools.partial(_Conv, height=3, width=3, padding='VALID')
_max_pool = functools.partial(
  max_pool, window_shape=(3, 3), strides=(2, 2), padding='VALID'
)


class _AvgPool(NamedTuple):
  """Means of 3 x 3 pixels; at the edges, whether zeros beyond them count."""


_AVG_POOL = _AvgPool()


def _mixed_5(pool_channels):
  """Szegedy et al. 2016, figure 5, with one 5 x 5 as TF-Slim keeps it."""
  return (
    (_Conv(64),),
    (_Conv(48), _Conv(64, 5, 5)),
    (_Conv(64), _Conv(96, 3, 3), _Conv(96, 3, 3)),
    (_AVG_POOL, _Conv(pool_channels)),
  )


def _mixed_6(channels):
  """Figure 6: 7 x 7 convolutions in two factors."""
  row, column = _Conv(channels, 1, 7), _Conv(channels, 7, 1)
  return (
    (_Conv(192),),
    (_Conv(channels), row, _Conv(192, 7, 1)),
    (_Conv(channels), column, row, column, _Conv(192, 1, 7)),
    (_AVG_POOL, _Conv(192)),
  )


def _mixed_7():
  """Figure 7: expanded filter banks."""
  split = _Split((_Conv(384, 1, 3), _Conv(384, 3, 1)))
  return (
    (_Conv(320),),
    (_Conv(384), split),
    (_Conv(448), _Conv(384, 3, 3), split),
    (_AVG_POOL, _Conv(192)),
  )


# Block -> parallel branches, each a chain of layers.
_BLOCKS = {
  'stem': (
    (
      _conv_valid(32, stride=2),
      _conv_valid(32),
      _Conv(64, 3, 3),
      _max_pool,
      _Conv(80),
      _conv_valid(192),
      _max_pool,
    ),
  ),
  'mixed_5b': _mixed_5(32),
  'mixed_5c': _mixed_5(64),
  'mixed_5d': _mixed_5(64),
  'mixed_6a': (
    (_conv_valid(384, stride=2),),
    (_Conv(64), _Conv(96, 3, 3), _conv_valid(96, stride=2)),
    (_max_pool,),
  ),
  'mixed_6b': _mixed_6(128),
  'mixed_6c': _mixed_6(160),
  'mixed_6d': _mixed_6(160),
  'mixed_6e': _mixed_6(192),
  'mixed_7a': (
    (_Conv(192), _conv_valid(320, stride=2)),
    (
      _Conv(192),
      _Conv(192, 1, 7),
      _Conv(192, 7, 1),
      _conv_valid(192, stride=2),
    ),
    (_max_pool,),
  ),
  'mixed_7b': _mixed_7(),
  'mixed_7c': _mixed_7(),
}


def _layer_name(branch: int, number: int, conv: _Conv) -> str:
  return f'branch{branch}_layer{number}_{conv.height}x{conv.width}'


def conv_names(block: str) -> list[list[str]]:
  """The convolutions of each branch, in order, without '_conv' and '_bn'.

  Args:
    block: 'stem', or an endpoint but `features`.
  """
  names = []
  for branch, layers in enumerate(_BLOCKS[block], start=1):
    names.append([])
    for number, layer in enumerate(layers, start=1):
      convs = layer.convs if isinstance(layer, _Split) else [layer]
      names[-1] += [
        _layer_name(branch, number, conv)
        for conv in convs
        if isinstance(conv, _Conv)
      ]
  return names


class _Block(nn.Module):
  """Concatenates its branches: [B, H, W, C] -> [B, H', W', C'].

  Attributes:
    branches: of `_BLOCKS`.
    count_include_pad: whether average pools count the zeros of their padding.
    conv: makes a convolution.
    bn: makes a batch normalisation.
  """

  branches: tuple[tuple[_Conv | _Split | _AvgPool | Callable, ...], ...]
  count_include_pad: bool
  conv: Callable[..., nn.Module]
  bn: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    outputs = []
    for branch, layers in enumerate(self.branches, start=1):
      output = x
      for number, layer in enumerate(layers, start=1):
        output = self._apply(layer, output, branch, number)
      outputs.append(output)
    return jnp.concatenate(outputs, axis=-1)

  def _apply(self, layer, x, branch, number):
    match layer:
      case _Split(convs):
        return jnp.concatenate(
          [self._apply(conv, x, branch, number) for conv in convs], axis=-1
        )
      case _Conv(channels, height, width, stride, padding):
        name = _layer_name(branch, number, layer)
        x = self.conv(
          channels,
          (height, width),
          strides=stride,
          padding=padding,
          name=f'{name}_conv',
        )(x)
        return nn.relu(self.bn(name=f'{name}_bn')(x))
      case _AvgPool():
        return nn.avg_pool(
          x,
          (3, 3),
          padding='SAME',
          count_include_pad=self.count_include_pad,
        )
      case pool:
        return pool(x)


class InceptionV3(nn.Module):
  """Szegedy et al. 2016 (arXiv:1512.00567), table 1, as TF-Slim builds it.

  Endpoints, named as in TF-Slim and torchvision, sizes for images
  [B, 299, 299, 3]: mixed_5b [B, 35, 35, 256], mixed_5c-5d [B, 35, 35, 288],
  mixed_6a-6e [B, 17, 17, 768], mixed_7a [B, 8, 8, 1280], mixed_7b-7c
  [B, 8, 8, 2048], each the concatenation of rectified branches (and of a max
  pool in 6a and 7a), then features [B, 2048], the average pool of mixed_7c.

  Choices where implementations differ:
    - No auxiliary head, no dropout but the objective's.
    - Batch normalisation: eps 1e-3 as in all of them; decay 0.9 as in
      torchvision (TF-Slim: 0.9997); with a scale as in torchvision (TF-Slim
      and Keras: a shift only).
    - Average pools leave the padding out of the count, as TensorFlow does;
      torchvision and timm count its zeros: `count_include_pad`.
    - Convolutions start as truncated normals of variance 1/fan_in, as our
      ResNet's (TF-Slim: 2/fan_in; torchvision: standard deviation 0.1).

  Attributes:
    count_include_pad: whether average pools count the zeros of their padding.
    dtype: of the computation; parameters and statistics stay float32.
    precision: of products in convolutions of float32.
    batch_norm: makes a batch normalisation.
  """

  # What leaves one pixel at mixed_7a.
  min_image_size: ClassVar[int] = 75

  count_include_pad: bool = False
  dtype: jnp.dtype = jnp.float32
  precision: jax.lax.PrecisionLike = None
  batch_norm: Callable[..., nn.Module] = nn.BatchNorm

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Images [B, H, W, C] -> named endpoints, `features` float32 last.

    Raises:
      ValueError: if the images are too small.
    """
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
      epsilon=1e-3,
      dtype=self.dtype,
    )
    x = images
    endpoints = {}
    for name, branches in _BLOCKS.items():
      x = _Block(branches, self.count_include_pad, conv, bn, name=name)(x)
      endpoints[name] = x
    del endpoints['stem']
    endpoints['features'] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return endpoints
