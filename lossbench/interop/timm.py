"""Networks of timm: a directory with model.safetensors and config.json.

As the Hugging Face Hub has them. How images are prepared is taken from
`pretrained_cfg`, from what it says of tests where it says it.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lossbench.interop.formats import Source
from lossbench.interop.recognising import ARCHITECTURES
from lossbench.interop.tensor_files import find_file
from lossbench.interop.torch_source import open_torch_source

_CONFIG = 'config.json'
# Arguments of timm.create_model that change nothing of these networks; whatever
# else one was made with may be another activation, stem or pool.
_PLAIN = {'global_pool': 'avg', 'in_chans': 3}
_INTERPOLATIONS = ('bilinear', 'bicubic')


def open_source(path: str, *, dataset: str | None = None) -> Source:
  """Opens a checkpoint; see `lossbench.interop.formats.Format.open_source`.

  Args:
    path: a directory, or a file that lies beside its config.json.
    dataset: whose classes the network's are; None for ImageNet's.
  """
  file = find_file(path)
  config = _read_config(file.with_name(_CONFIG))
  called = config.get('architecture')
  if not isinstance(called, str) or not called:
    raise ValueError(
      f'{file.with_name(_CONFIG)} names no architecture. Give a directory of '
      'timm.'
    )
  _check_plain(config, str(file.with_name(_CONFIG)))
  # Names of weights may follow: 'resnet50.a1_in1k'.
  called = called.partition('.')[0]
  fields = {}
  if called in ARCHITECTURES:
    fields = _image_fields(config, str(file.with_name(_CONFIG)))
    _check_export(config.get('lossbench'), fields, str(file.with_name(_CONFIG)))
  return open_torch_source(
    file, {called: fields}, dataset=dataset, called=called
  )


def _check_export(own: Any, fields: Mapping[str, Any], where: str):
  """Refuses what we exported, if timm's fields cannot say what it computes."""
  if not isinstance(own, dict):
    return
  images = own.get('preprocessing', {})
  differing = [
    name
    for name, value in fields.items()
    if name in images and not _is_close(value, images[name])
  ]
  maps = [step.get('function') for step in own.get('log_probs', [])]
  if maps != ['log_softmax']:
    differing.append('log_probs')
  if differing:
    raise ValueError(
      f'{where}: an export of lossbench whose {", ".join(differing)} timm has no '
      'words for, so that it would come back as another network. Evaluate the '
      'run that it is of.'
    )


def _is_close(value: Any, other: Any) -> bool:
  """Equal, numbers but for their rounding."""
  if isinstance(value, str):
    return value == other
  return np.allclose(value, other, rtol=1e-9)


def _check_plain(config: Mapping[str, Any], where: str):
  """Refuses what only looks like the network of this name."""
  arguments = config.get('model_args') or {}
  if not isinstance(arguments, dict):
    raise ValueError(f'{where}: its model_args is no object. Copy it again.')
  arguments = {**arguments, 'global_pool': config.get('global_pool', 'avg')}
  arguments.pop('num_classes', None)
  for name, value in arguments.items():
    if name not in _PLAIN or value != _PLAIN[name]:
      raise ValueError(
        f'{where}: the network was made with {name}={value!r}, which is not '
        'computed here.'
      )


def _read_config(path: pathlib.Path) -> Mapping[str, Any]:
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is not there, which says what the network is and sees. Put it '
      'beside the arrays, or give --format=torchvision with --weights.'
    )
  try:
    config = json.loads(path.read_bytes())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is no JSON: {error}. Copy it again.') from error
  if not isinstance(config, dict):
    raise ValueError(f'{path} holds no object. Copy it again.')
  return config


def _image_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  # Before timm 0.9 these stood beside the architecture.
  about = config.get('pretrained_cfg', config)
  if not isinstance(about, dict):
    raise ValueError(
      f'{where}: its pretrained_cfg is no object. Copy it again.'
    )

  def get(name: str, default: Any) -> Any:
    return about.get(f'test_{name}', about.get(name, default))

  channels, height, width = _numbers(
    get('input_size', None), 3, where, 'input_size'
  )
  if channels != 3 or height != width:
    raise ValueError(
      f'{where}: input_size is {[channels, height, width]}; only square images '
      'of 3 channels are read.'
    )
  crop_mode = about.get('crop_mode') or 'center'
  if crop_mode != 'center':
    raise ValueError(
      f'{where}: crop_mode is {crop_mode!r}; only center is computed here.'
    )
  interpolation = get('interpolation', None)
  if interpolation not in _INTERPOLATIONS:
    raise ValueError(
      f'{where}: interpolation is {interpolation!r}; only '
      f'{" and ".join(_INTERPOLATIONS)} are computed here.'
    )
  [crop_pct] = _numbers([get('crop_pct', None)], 1, where, 'crop_pct')
  if not 0.25 <= crop_pct <= 1:
    raise ValueError(f'{where}: crop_pct is {crop_pct}, not in [0.25, 1].')
  side = int(height)
  return {
    'image_size': side,
    # timm rounds down.
    'resize_ratio': math.floor(side / crop_pct) / side,
    'eval_crop': 'resize_then_crop',
    'resize_method': interpolation,
    'resize_antialias': True,
    'eval_pixels': 'uint8',
    'pixel_mean': tuple(_numbers(get('mean', None), 3, where, 'mean')),
    'pixel_std': tuple(_numbers(get('std', None), 3, where, 'std')),
  }


def _numbers(values: Any, count: int, where: str, name: str) -> list[float]:
  is_list = isinstance(values, list) and len(values) == count
  if not is_list or not all(
    isinstance(value, int | float) and math.isfinite(value) for value in values
  ):
    raise ValueError(
      f'{where}: {name} is {values}, not {count} numbers. Copy it again.'
    )
  return values
