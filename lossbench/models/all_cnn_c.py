"""All-CNN-C for CIFAR, with batch normalisation."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lossbench.models.convolution import Conv
from lossbench.models.image_size import check_image_size


class _Conv(NamedTuple):
  channels: int
  size: int = 3
  stride: int = 1
  padding: int = 1


# Springenberg et al. 2014, table 1 ("C") with its max pools replaced as in
# table 2. The seventh pads nothing: "global averaging over 6 x 6".
_CONVS = (
  _Conv(96),
  _Conv(96),
  _Conv(96, stride=2),
  _Conv(192),
  _Conv(192),
  _Conv(192, stride=2),
  _Conv(192, padding=0),
  _Conv(192, size=1, padding=0),
)


class AllCnnC(nn.Module):
  """All-CNN-C: Springenberg et al. 2014 (arXiv:1412.6806).

  Eight times convolution, batch normalisation, ReLU; the ninth convolution of
  the original, 1 x 1 to K channels, is the output layer and not part of this.

  Endpoints: conv<i>, after batch normalisation and ReLU, and features [B, M],
  the average pool of conv8. With images [B, 32, 32, 3]: conv1-2
  [B, 32, 32, 96], conv3 [B, 16, 16, 96], conv4-5 [B, 16, 16, 192], conv6
  [B, 8, 8, 192], conv7-8 [B, 6, 6, 192], M = 192.

  Departures from Springenberg et al.: batch normalisation, hence no biases of
  convolutions; global average pooling BEFORE the last convolution, which is
  then linear, without its ReLU (both as the paper does); and no dropout but
  that which the objective may apply to the features. Kernels start as He's
  normal by fan-in (He et al. 2015).

  Attributes:
    width_multiplier: factor on all channels; others than 1 are for tests.
    dtype: of the computation; parameters and statistics stay float32.
    precision: of products in convolutions of float32.
    batch_norm: makes a batch normalisation.
  """

  # 9 -> 5 -> 3 pixels, what the unpadded conv7 needs.
  min_image_size: ClassVar[int] = 9

  width_multiplier: float = 1.0
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
    x = images
    endpoints = {}
    for number, layer in enumerate(_CONVS, start=1):
      x = Conv(
        round(self.width_multiplier * layer.channels),
        (layer.size, layer.size),
        strides=layer.stride,
        padding=layer.padding,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        precision=self.precision,
        name=f'conv{number}',
      )(x)
      x = self.batch_norm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=self.dtype,
        name=f'bn{number}',
      )(x)
      x = nn.relu(x)
      endpoints[f'conv{number}'] = x
    endpoints['features'] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return endpoints
