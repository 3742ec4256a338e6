"""The networks that the study's authors published: 9 objectives x 8 seeds.

TensorFlow checkpoints of ResNet-50, from
gs://gresearch/loss_functions_transfer/checkpoints/OBJECTIVE/seedK/model.ckpt, to be
given by this prefix, or by that of a copy. What is evaluated are the moving
averages, of batch statistics too; whatever else the checkpoint holds (raw
variables, momenta, counters) is not looked at.

Variables are numbered as `tf.layers` creates them: conv2d, conv2d_1, ..., and
likewise their batch normalisations; in the first block of a stage the shortcut's
convolution comes first. There are 1001 outputs, the first of no class, which is
dropped. Where the released code computes other logits than the paper's formulas:

  - cosine softmax and logit normalization: --config.output_layer=released; the
    dropped output counts in the norm.
  - sigmoid subtracts log(1001) from the outputs: from the bias here.
  - squared error lacks 1/K and the logit penalty is halved: of training only.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from configs import imagenet_resnet50
from configs.studies.default import OBJECTIVES
from lossbench.interop import imagenet
from lossbench.interop.formats import Origin, Source
from lossbench.interop.resnet_blocks import STEM, resnet_blocks
from lossbench.objectives import create_objective

_AVERAGED = '/ExponentialMovingAverage'
_NUM_OUTPUTS = 1001
_BATCH_NORM = {
  ('params', 'scale'): 'gamma',
  ('params', 'bias'): 'beta',
  ('batch_stats', 'mean'): 'moving_mean',
  ('batch_stats', 'var'): 'moving_variance',
}
_PADDINGS = {'max_pool_padding': 'same', 'conv_padding': 'symmetric'}
_IMAGE_FIELDS = {
  'image_size': 224,
  'resize_ratio': 1 / 0.875,
  'eval_crop': 'crop_then_resize',
  'resize_method': 'bicubic_tf1',
  'resize_antialias': False,
  'eval_pixels': 'float32',
  'pixel_mean': imagenet.MEAN,
  'pixel_std': imagenet.STD,
}
# .../OBJECTIVE/seedK/model.ckpt
_PUBLISHED_PATH = re.compile(r'(?:.*/)?(\w+)/seed(\d+)/[^/]+')


def open_source(path: str, *, objective: str, seed: int) -> Source:
  """Opens a checkpoint; see `lossbench.interop.formats.Format.open_source`.

  Args:
    path: its prefix, without '.index'.
    objective: one of the nine.
    seed: of the network.
  """
  _check_path(path, objective, seed)
  reader = _open(path)
  suffixed = {
    name: tuple(shape)
    for name, shape in reader.get_variable_to_shape_map().items()
    if name.endswith(_AVERAGED)
  }
  if not suffixed:
    raise ValueError(
      f'{path} has no moving averages: none of its names ends in {_AVERAGED}. '
      'Give a checkpoint of the published networks.'
    )
  origins = _origins(objective)

  def read_fn(name: str) -> np.ndarray:
    return _read(reader, name, path)

  return Source(
    recipe=imagenet.RECIPE,
    objective=objective,
    fields=_fields(objective, path),
    shapes=suffixed,
    origin_fn=origins.get,
    read_fn=read_fn,
  )


def _check_path(path: str, objective: str, seed: int):
  """Refuses a published path that says another objective or seed."""
  match = _PUBLISHED_PATH.fullmatch(path)
  if not match or match[1] not in OBJECTIVES:
    return
  if (match[1], int(match[2])) != (objective, seed):
    raise ValueError(
      f'--source={path} is of objective {match[1]} and seed {match[2]}, but '
      f'--objective={objective} and --seed={seed} were given. Give one or the '
      'other.'
    )


def _open(path: str):
  """TensorFlow's reader of a checkpoint."""
  import tensorflow as tf  # takes seconds, and options are checked before

  try:
    if not tf.io.gfile.exists(f'{path}.index'):
      raise FileNotFoundError(
        f'There is no checkpoint --source={path}: {path}.index is not there. '
        'Give the prefix of its files, for example .../model.ckpt.'
      )
    return tf.train.load_checkpoint(path)
  except (tf.errors.OpError, RuntimeError) as error:
    raise ValueError(f'{path} cannot be read: {_first_line(error)}.') from error


def _read(reader, name: str, path: str) -> np.ndarray:
  import tensorflow as tf

  try:
    return reader.get_tensor(name)
  except (tf.errors.OpError, RuntimeError) as error:
    raise ValueError(
      f'{path} is damaged at {name}: {_first_line(error)}. Copy it again.'
    ) from error


def _first_line(error: Exception) -> str:
  return str(error).strip().splitlines()[0][:300].rstrip('.')


def _output_layer(objective: str, num_classes: int):
  hparams = {objective: imagenet_resnet50.OBJECTIVES[objective]}
  built = create_objective(objective, hparams, released=True)
  return built.output_layer(num_classes=num_classes)


def _fields(objective: str, path: str) -> dict[str, Any]:
  """What the arrays mean, and what the network saw."""
  hparams = imagenet_resnet50.OBJECTIVES[objective]
  return {
    **imagenet.run_fields(
      'resnet50',
      num_classes=_NUM_OUTPUTS - 1,
      dataset=None,
      paddings=_PADDINGS,
      where=path,
    ),
    **_IMAGE_FIELDS,
    'output_layer': 'released',
    **{f'objective.{objective}.{name}': x for name, x in hparams.items()},
  }


def _layers() -> Iterator[tuple[str, str]]:
  """Ours, as the authors' code creates them: (convolution, normalisation)."""
  yield STEM
  for block in resnet_blocks(50):
    for layer in block.layers:
      yield block.names(layer)


def _origins(objective: str) -> dict[str, Origin]:
  """Path of an array of ours -> its origin."""
  found = {}
  for number, (conv, bn) in enumerate(_layers()):
    suffix = f'_{number}' if number else ''
    found[f'params/backbone/{conv}/kernel'] = _average(f'conv2d{suffix}/kernel')
    for (kind, ours), theirs in _BATCH_NORM.items():
      found[f'{kind}/backbone/{bn}/{ours}'] = _average(
        f'batch_normalization{suffix}/{theirs}'
      )
  layer = _output_layer(objective, _NUM_OUTPUTS)
  kernel = 'dense/normalized_kernel' if layer.cosine else 'dense/kernel'
  ours = 'params/output_layer'
  # What their code adds to the outputs is where our biases start.
  shift = np.float32(layer.bias_init)
  found[f'{ours}/kernel'] = _average(kernel, lambda array: array[:, 1:])
  found[f'{ours}/bias'] = _average(
    'dense/bias', lambda array: array[1:] + shift
  )
  if layer.background:
    found[f'{ours}/background/kernel'] = _average(
      kernel, lambda array: array[:, :1]
    )
    found[f'{ours}/background/bias'] = _average(
      'dense/bias', lambda array: array[:1]
    )
  return found


def _average(
  name: str, convert_fn: Callable[[np.ndarray], np.ndarray] | None = None
) -> Origin:
  name += _AVERAGED
  return Origin(name, convert_fn) if convert_fn else Origin(name)
