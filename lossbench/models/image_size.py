"""Refusing images that a model would shrink to nothing."""

import flax.linen as nn
import jax


def check_image_size(backbone: nn.Module, images: jax.Array):
  """Raises ValueError if images [B, H, W, C] are under `min_image_size`."""
  height, width = images.shape[1:3]
  smallest = backbone.min_image_size
  if min(height, width) < smallest:
    raise ValueError(
      f'{type(backbone).__name__} needs images of at least {smallest} pixels '
      f'a side; got {height} x {width}.'
    )
