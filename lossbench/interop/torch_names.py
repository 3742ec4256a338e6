"""What torchvision and timm call the arrays of networks that we have too.

One map for both directions. Where a network's names are ours its shapes must be
too, or it only looks alike: `wide_resnet50_2` has the names of `resnet50`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lossbench.interop.recognising import ARCHITECTURES
from lossbench.interop.resnet_blocks import SHORTCUT, STEM, resnet_blocks
from lossbench.models.inception_v3 import conv_names

_BATCH_NORM = {
  ('params', 'scale'): 'weight',
  ('params', 'bias'): 'bias',
  ('batch_stats', 'mean'): 'running_mean',
  ('batch_stats', 'var'): 'running_var',
}
# Theirs [C', C, h, w], ours [h, w, C, C']; theirs [K, M], ours [M, K].
_CONV_AXES, _LINEAR_AXES = (2, 3, 1, 0), (1, 0)
# Counters of batch normalisation, which nothing here reads.
COUNTER = 'num_batches_tracked'

# Theirs, by branches, of the blocks of Inception v3.
_MIXED_5 = (
  ('branch1x1',),
  ('branch5x5_1', 'branch5x5_2'),
  ('branch3x3dbl_1', 'branch3x3dbl_2', 'branch3x3dbl_3'),
  ('branch_pool',),
)
_MIXED_6 = (
  ('branch1x1',),
  tuple(f'branch7x7_{i}' for i in range(1, 4)),
  tuple(f'branch7x7dbl_{i}' for i in range(1, 6)),
  ('branch_pool',),
)
_MIXED_7 = (
  ('branch1x1',),
  ('branch3x3_1', 'branch3x3_2a', 'branch3x3_2b'),
  ('branch3x3dbl_1', 'branch3x3dbl_2', 'branch3x3dbl_3a', 'branch3x3dbl_3b'),
  ('branch_pool',),
)
_INCEPTION_STEM = (
  'Conv2d_1a_3x3',
  'Conv2d_2a_3x3',
  'Conv2d_2b_3x3',
  'Conv2d_3b_1x1',
  'Conv2d_4a_3x3',
)
_INCEPTION_BLOCKS = {
  'Mixed_5b': _MIXED_5,
  'Mixed_5c': _MIXED_5,
  'Mixed_5d': _MIXED_5,
  'Mixed_6a': (('branch3x3',), tuple(f'branch3x3dbl_{i}' for i in range(1, 4))),
  'Mixed_6b': _MIXED_6,
  'Mixed_6c': _MIXED_6,
  'Mixed_6d': _MIXED_6,
  'Mixed_6e': _MIXED_6,
  'Mixed_7a': (
    ('branch3x3_1', 'branch3x3_2'),
    tuple(f'branch7x7x3_{i}' for i in range(1, 5)),
  ),
  'Mixed_7b': _MIXED_7,
  'Mixed_7c': _MIXED_7,
}

# What pads as theirs do.
PADDINGS: dict[str, dict[str, Any]] = {
  'resnet': {'max_pool_padding': 'symmetric', 'conv_padding': 'symmetric'},
  'inception_v3': {'count_include_pad': True},
}


class TorchName(NamedTuple):
  """An array of theirs.

  Attributes:
    name: in the state dictionary.
    axes: transposition that makes it ours.
  """

  name: str
  axes: tuple[int, ...]

  def to_ours(self, array: np.ndarray) -> np.ndarray:
    """Theirs -> ours, a view."""
    return array.transpose(self.axes)

  def to_theirs(self, array: np.ndarray) -> np.ndarray:
    """Ours -> theirs, contiguous."""
    return np.ascontiguousarray(array.transpose(np.argsort(self.axes)))


def torch_names(architecture: str) -> dict[str, TorchName]:
  """Path of an array of ours, 'params/backbone/conv_stem/kernel' -> theirs.

  Args:
    architecture: one of `ARCHITECTURES`.
  """
  names = {}
  depth = ARCHITECTURES[architecture].get('depth')
  layers = _resnet_layers(depth) if depth else _inception_layers()
  for (conv, bn), (their_conv, their_bn) in layers:
    names[f'params/backbone/{conv}/kernel'] = TorchName(
      f'{their_conv}.weight', _CONV_AXES
    )
    for (kind, ours), theirs in _BATCH_NORM.items():
      names[f'{kind}/backbone/{bn}/{ours}'] = TorchName(
        f'{their_bn}.{theirs}', (0,)
      )
  names['params/output_layer/kernel'] = TorchName('fc.weight', _LINEAR_AXES)
  names['params/output_layer/bias'] = TorchName('fc.bias', (0,))
  return names


# (convolution, batch normalisation), ours and theirs.
_Layers = Iterator[tuple[tuple[str, str], tuple[str, str]]]


def _resnet_layers(depth: int) -> _Layers:
  yield STEM, ('conv1', 'bn1')
  for block in resnet_blocks(depth):
    prefix = f'layer{block.stage}.{block.number - 1}.'
    for layer in block.layers:
      conv, bn = f'conv{layer}', f'bn{layer}'
      if layer == SHORTCUT:
        conv, bn = 'downsample.0', 'downsample.1'
      yield block.names(layer), (prefix + conv, prefix + bn)


def _inception_layers() -> _Layers:
  blocks = {'stem': ('', (_INCEPTION_STEM,))}
  blocks |= {
    name.lower(): (f'{name}.', branches)
    for name, branches in _INCEPTION_BLOCKS.items()
  }
  for block, (prefix, branches) in blocks.items():
    # Ours has a branch more where that is a pool alone.
    ours = [names for names in conv_names(block) if names]
    for our_names, their_names in zip(ours, branches, strict=True):
      for our, their in zip(our_names, their_names, strict=True):
        yield (
          (f'{block}/{our}_conv', f'{block}/{our}_bn'),
          (f'{prefix}{their}.conv', f'{prefix}{their}.bn'),
        )


def is_ignored(name: str) -> bool:
  """Whether an array of theirs is none of the network that is evaluated.

  Counters, and Inception's auxiliary head.
  """
  return name.endswith(f'.{COUNTER}') or name.startswith('AuxLogits.')
