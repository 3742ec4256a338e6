"""Backbones (images -> named endpoints) and their registry."""

import flax.linen as nn
import jax.numpy as jnp

from lossbench.models.all_cnn_c import AllCnnC
from lossbench.models.classifier import Classifier
from lossbench.models.digits_cnn import DigitsCnn
from lossbench.models.inception_v3 import InceptionV3
from lossbench.models.resnet import ResNet
from lossbench.models.wide_resnet import WideResNet
from lossbench.names import did_you_mean

__all__ = ['Classifier', 'create_backbone', 'known_backbones']

_BACKBONES = {
  'digits_cnn': DigitsCnn,
  'all_cnn_c': AllCnnC,
  'wide_resnet': WideResNet,
  'resnet': ResNet,
  'inception_v3': InceptionV3,
}


def known_backbones() -> tuple[str, ...]:
  """The names of all backbones, sorted."""
  return tuple(sorted(_BACKBONES))


def create_backbone(
  name: str, *, image_size: int, dtype: jnp.dtype = jnp.float32, **fields
) -> nn.Module:
  """Builds a backbone by name.

  Args:
    name: one of `known_backbones()`.
    image_size: side of the images that it will see, in pixels.
    dtype: of the computation; parameters and statistics are float32.
    **fields: further fields of the backbone's module, e.g. width.

  Raises:
    ValueError: if the name or a field is unknown, or the images are too small.
  """
  if name not in _BACKBONES:
    known = ', '.join(known_backbones())
    hint = did_you_mean(name, _BACKBONES)
    raise ValueError(f'Unknown model {name!r}. Known: {known}. {hint}'.rstrip())
  try:
    backbone = _BACKBONES[name](dtype=dtype, **fields)
  except TypeError as error:
    raise ValueError(f'Model {name!r}: {error}') from error
  if image_size < backbone.min_image_size:
    raise ValueError(
      f'Model {name!r} needs images of at least {backbone.min_image_size} '
      f'pixels a side; got image_size={image_size}.'
    )
  return backbone
