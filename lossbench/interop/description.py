"""config.json of an exported network: what it is, sees and means."""

import dataclasses
import json
import math
from typing import Any

import flax.linen as nn
import ml_collections

import lossbench
from lossbench import build
from lossbench.interop.recognising import find_architecture
from lossbench.interop.torch_names import PADDINGS
from lossbench.objectives import Objective
from lossbench.runs.directory import fields_of, safe_name

# Function of objectives/losses.py -> what it makes of logits l.
FORMULAS = {
  'log_softmax': 'l_k - log sum_j exp(l_j)',
  'normalize_logits': 'l / (temperature * ||l||_2)',
  'temper_logits': 'l / temperature',
  'normalized_sigmoid_log_probs': (
    'log s_k - log sum_j s_j, where s_k = 1 / (1 + exp(-l_k))'
  ),
}
# Fields of an output layer's module that are for training, or for its start.
_TRAINING_FIELDS = (
  'bias_init',
  'keep_prob',
  'kernel_stddev',
  'name',
  'num_classes',
  'parent',
)
_PATHS = ('data_dir', 'init_from')
_NO_PATHS = ('', 'balanced')  # of class_weights
_INTERPOLATIONS = {
  'bilinear': 'bilinear',
  'bicubic': 'bicubic',
  'bicubic_tf1': 'bicubic',
}


def _module_fields(module: nn.Module, *, without: tuple[str, ...] = ()) -> dict:
  """The fields of a module that JSON can hold."""
  values = {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in without
  }
  kinds = bool | int | float | str | tuple
  return {n: value for n, value in values.items() if isinstance(value, kinds)}


def build_description(
  config: ml_collections.ConfigDict,
  *,
  objective: Objective,
  num_features: int,
  source: dict[str, Any],
) -> dict[str, Any]:
  """The content of config.json.

  `architecture`, `num_classes`, `num_features` and `pretrained_cfg` are those of
  timm; all that timm does not know is under `lossbench`.

  Args:
    config: of the run.
    objective: of the run.
    num_features: M.
    source: of the checkpoint: step, fingerprint, ...
  """
  backbone = build.build_backbone(config)
  layer = objective.output_layer(num_classes=config.num_classes)
  model = {
    'name': config.model.name,
    **_module_fields(backbone, without=('name', 'parent', 'precision')),
  }
  stages = objective.log_probs_stages()
  return {
    'architecture': find_architecture(model) or model['name'],
    'num_classes': config.num_classes,
    'num_features': num_features,
    'pretrained_cfg': _build_pretrained_cfg(config),
    'lossbench': {
      'version': lossbench.__version__,
      **source,
      'model': model,
      'output_layer': _module_fields(layer, without=_TRAINING_FIELDS),
      'objective': objective.name,
      'hyperparameters': {k: dict(v) for k, v in objective.hparams.items()},
      'log_probs': [
        {'function': name, 'formula': FORMULAS.get(name, name), **hparams}
        for name, hparams in stages
      ],
      'preprocessing': _build_preprocessing(config),
      'config': _build_public(config),
    },
  }


def _build_public(config) -> dict[str, Any]:
  """The run's configuration without the paths of a machine."""
  fields = json.loads(config.to_json()) | dict.fromkeys(_PATHS, '')
  fields['dataset'] = safe_name(config.dataset)
  if config.class_weights not in _NO_PATHS:
    fields['class_weights'] = ''
  return fields


def _build_preprocessing(config) -> dict[str, Any]:
  names = [
    'image_size',
    'downscale',
    'pixel_mean',
    'pixel_std',
    'resize_images',
  ]
  if config.resize_images:
    names += ['resize_ratio', 'eval_crop', 'resize_method', 'resize_antialias']
    names.append('eval_pixels')
  fields = fields_of(config)
  return {name: fields[name] for name in names}


def _build_pretrained_cfg(config) -> dict[str, Any]:
  """The nearest of what timm computes."""
  side, channels = config.image_size, len(config.pixel_mean)
  crop = {'crop_pct': 1.0, 'interpolation': 'bilinear'}
  if config.resize_images:
    # timm rounds size / crop_pct down, which must not lose a pixel.
    resized = round(side * config.resize_ratio)
    crop_pct = side / resized
    if math.floor(side / crop_pct) < resized:
      crop_pct = math.nextafter(crop_pct, 0)
    crop = {
      'crop_pct': crop_pct,
      'interpolation': _INTERPOLATIONS[config.resize_method],
    }
  return {
    'input_size': [channels, side, side],
    'mean': list(config.pixel_mean),
    'std': list(config.pixel_std),
    'crop_mode': 'center',
    'num_classes': config.num_classes,
    'first_conv': _FIRST_CONV.get(config.model.name, ''),
    'classifier': 'fc',
    **crop,
  }


_FIRST_CONV = {'resnet': 'conv1', 'inception_v3': 'Conv2d_1a_3x3.conv'}


def reasons_against_torch(
  model: dict[str, Any],
  output_layer: dict[str, Any],
  *,
  downscale: int,
  num_channels: int,
) -> list[str]:
  """Why a network with torchvision's names would compute something else.

  Args:
    model: its name and fields, as `build_description` has them.
    output_layer: its fields, likewise.
    downscale: of the images.
    num_channels: of the images.

  Returns:
    Reasons, in words; none if it would not.
  """
  if find_architecture(model) is None:
    shape = ''.join(
      f', {k} {model[k]}' for k in ('depth', 'width') if k in model
    )
    return [f'torchvision has no {model["name"]}{shape}']
  reasons = [
    f"its {name} is {model[name]!r}, torchvision's is {value!r}"
    for name, value in PADDINGS[model['name']].items()
    if model[name] != value
  ]
  switches = [name for name, value in output_layer.items() if value is True]
  if switches != ['use_bias']:
    reasons.append('its output layer is not linear with a bias')
  if num_channels != 3:
    reasons.append(f'its images have {num_channels} channel(s) instead of 3')
  if downscale > 1:
    reasons.append(f'its images are downscaled by {downscale} before it')
  return reasons
