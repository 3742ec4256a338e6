"""ResNets of Flax's ImageNet example (google/flax, examples/imagenet).

A file that `flax.training.checkpoints.save_checkpoint` wrote: msgpack of the train
state. Its blocks' convolutions pad as SAME. Images are the central 224/256 of the
shorter side, bicubic without antialiasing; the example rounds that side down,
where lossbench rounds it, which may be one pixel more.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from lossbench.interop import imagenet
from lossbench.interop.formats import Origin, Source
from lossbench.interop.recognising import ARCHITECTURES, recognise
from lossbench.interop.resnet_blocks import SHORTCUT, STEM, resnet_blocks

_IMAGE_FIELDS = {
  'image_size': 224,
  'resize_ratio': 256 / 224,
  'eval_crop': 'crop_then_resize',
  'resize_method': 'bicubic',
  'resize_antialias': False,
  'eval_pixels': 'float32',
  'pixel_mean': imagenet.MEAN,
  'pixel_std': imagenet.STD,
}
_PADDINGS = {'max_pool_padding': 'same', 'conv_padding': 'same'}


def open_source(path: str, *, dataset: str | None = None) -> Source:
  """Opens a checkpoint; see `lossbench.interop.formats.Format.open_source`.

  Args:
    path: a file, for example .../checkpoint_112590.
    dataset: whose classes the network's are; None for ImageNet's.
  """
  arrays = _read(path)
  shapes = {name: array.shape for name, array in arrays.items()}
  origins = {
    name: dict(_origins(fields['depth']))
    for name, fields in ARCHITECTURES.items()
    if 'depth' in fields
  }
  architecture, num_classes = recognise(shapes, origins, where=path)
  fields = imagenet.run_fields(
    architecture,
    num_classes=num_classes,
    dataset=dataset,
    paddings=_PADDINGS,
    where=path,
  )
  return Source(
    recipe=imagenet.RECIPE,
    objective=imagenet.OBJECTIVE,
    fields={**fields, **_IMAGE_FIELDS},
    shapes=shapes,
    origin_fn=origins[architecture].get,
    read_fn=arrays.__getitem__,
    about={'architecture': architecture},
  )


def _read(path: str) -> dict[str, np.ndarray]:
  """The arrays of a train state that evaluation uses."""
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise FileNotFoundError(
      f'There is no file --source={path}. Give one that Flax wrote, for example '
      '.../checkpoint_112590, copied from its bucket.'
    )
  try:
    state = serialization.msgpack_restore(file.read_bytes())
  except Exception as error:
    # Of msgpack, of NumPy, or of Flax, which have no base in common.
    reason = ' '.join(str(error).split())[:200].rstrip('.')
    reason = reason or type(error).__name__
    raise ValueError(
      f'{path} is no msgpack of Flax, or a damaged one: {reason}. Copy it again.'
    ) from error
  names = 'params', 'batch_stats'
  if not isinstance(state, dict) or not all(
    isinstance(state.get(name), dict) for name in names
  ):
    raise ValueError(
      f'{path} is no train state of the example: it has no params or no '
      'batch_stats. Give another file.'
    )
  wanted = {name: state[name] for name in names}
  return {
    name: np.asarray(array)
    for name, array in traverse_util.flatten_dict(wanted, sep='/').items()
  }


def _origins(depth: int) -> Iterator[tuple[str, Origin]]:
  """(path of an array of ours, its origin)."""
  for (conv, bn), (their_conv, their_bn) in _layers(depth):
    yield (
      f'params/backbone/{conv}/kernel',
      Origin(f'params/{their_conv}/kernel'),
    )
    for kind, names in (
      ('params', ('scale', 'bias')),
      ('batch_stats', ('mean', 'var')),
    ):
      for name in names:
        yield (
          f'{kind}/backbone/{bn}/{name}',
          Origin(f'{kind}/{their_bn}/{name}'),
        )
  for name in ('kernel', 'bias'):
    yield f'params/output_layer/{name}', Origin(f'params/Dense_0/{name}')


def _layers(depth: int) -> Iterator[Any]:
  """(convolution, batch normalisation), ours and theirs."""
  yield STEM, ('conv_init', 'bn_init')
  for block in resnet_blocks(depth):
    kind = 'BottleneckResNetBlock' if '3' in block.layers else 'ResNetBlock'
    prefix = f'{kind}_{block.index}/'
    for layer in block.layers:
      conv, bn = 'conv_proj', 'norm_proj'
      if layer != SHORTCUT:
        number = int(layer) - 1
        conv, bn = f'Conv_{number}', f'BatchNorm_{number}'
      yield block.names(layer), (prefix + conv, prefix + bn)
