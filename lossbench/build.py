"""From a configuration to the objects that it names."""

import functools
import json
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from lossbench.data import device_augment
from lossbench.models import Classifier, create_backbone
from lossbench.objectives import Objective, create_objective
from lossbench.runtime import devices

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def pack_fields(config: ml_collections.ConfigDict, names: Sequence[str]) -> str:
  """Some fields as a string, equal for equal values: what a cache is keyed by.

  Compiled steps are kept under the fields they depend on, so that runs that
  differ in others (seeds, hyperparameters) share them.
  """
  fields = ml_collections.ConfigDict({name: config[name] for name in names})
  return fields.to_json(sort_keys=True)


def unpack_fields(fields: str) -> ml_collections.ConfigDict:
  """The configuration of only those fields that `pack_fields` was given."""
  return ml_collections.ConfigDict(json.loads(fields))


def build_objective(config: ml_collections.ConfigDict) -> Objective:
  """The objective and its hyperparameters."""
  hparams = {
    name: dict(value)
    for name, value in config.objective.items()
    if name != 'name'
  }
  return create_objective(
    config.objective.name, hparams, released=config.output_layer == 'released'
  )


def _compute_dtype(config):
  if config.compute_dtype not in _DTYPES:
    raise ValueError(
      f'--config.compute_dtype must be one of {", ".join(_DTYPES)}; got '
      f'{config.compute_dtype!r}.'
    )
  return _DTYPES[config.compute_dtype]


def build_batch_norm(
  config: ml_collections.ConfigDict,
) -> Callable[..., nn.Module]:
  """What makes the batch normalisations of the train step.

  Devices follow one another within a host, and so do those of a group.
  """
  size = config.batch_norm_group
  if not size:
    return nn.BatchNorm
  first = range(0, devices.count(), size)
  groups = tuple(tuple(range(start, start + size)) for start in first)
  return functools.partial(
    nn.BatchNorm, axis_name=devices.AXIS, axis_index_groups=groups
  )


def build_backbone(
  config: ml_collections.ConfigDict,
  *,
  batch_norm: Callable[..., nn.Module] = nn.BatchNorm,
) -> nn.Module:
  """The backbone, its fields taken from config.model.

  Args:
    config: of the run.
    batch_norm: of `build_batch_norm` in the train step.
  """
  fields = {k: v for k, v in config.model.items() if k != 'name'}
  return create_backbone(
    config.model.name,
    image_size=config.image_size // config.downscale,
    dtype=_compute_dtype(config),
    precision=config.precision,
    batch_norm=batch_norm,
    **fields,
  )


def build_classifier(
  config: ml_collections.ConfigDict, objective: Objective
) -> Classifier:
  """Backbone and output layer, as initialised and as evaluated."""
  return Classifier(
    build_backbone(config),
    objective.output_layer(
      num_classes=config.num_classes,
      kernel_stddev=config.output_kernel_stddev,
    ),
  )


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
  """[H, W, C] of images as they come to the devices."""
  return (config.image_size, config.image_size, len(config.pixel_mean))


def build_normalize_fn(config: ml_collections.ConfigDict):
  """Grey levels from 0 to 255 -> what the model sees, for use on the device."""
  if len(config.pixel_mean) != len(config.pixel_std):
    raise ValueError(
      '--config.pixel_mean and --config.pixel_std must have one value per '
      f'channel each; got {tuple(config.pixel_mean)} and '
      f'{tuple(config.pixel_std)}.'
    )
  dtype = _compute_dtype(config)
  mean, std = tuple(config.pixel_mean), tuple(config.pixel_std)

  def normalize_fn(images: jax.Array) -> jax.Array:
    return device_augment.normalize(
      images, mean=mean, std=std, downscale=config.downscale, dtype=dtype
    )

  return normalize_fn
