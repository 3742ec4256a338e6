"""The layers of our ResNets, for formats that call them otherwise."""

from collections.abc import Iterator
from typing import NamedTuple

from lossbench.models.resnet import FIRST_BOTTLENECK_DEPTH, STAGE_SIZES

# (convolution, batch normalisation) before the first block.
STEM = ('conv_stem', 'bn_stem')
SHORTCUT = '_shortcut'


class Block(NamedTuple):
  """A residual block.

  Attributes:
    stage: from 1.
    number: in its stage, from 1.
    index: in the network, from 0.
    layers: what the names of its layers end in, in the order in which the
      study's code creates them: `SHORTCUT` where there is one, '1', '2' and, of
      bottlenecks, '3'.
  """

  stage: int
  number: int
  index: int
  layers: tuple[str, ...]

  def names(self, layer: str) -> tuple[str, str]:
    """(convolution, batch normalisation) of one of `layers`."""
    path = f'stage{self.stage}_block{self.number}'
    return f'{path}/conv{layer}', f'{path}/bn{layer}'


def resnet_blocks(depth: int) -> Iterator[Block]:
  """The blocks of a ResNet in forward order."""
  is_bottleneck = depth >= FIRST_BOTTLENECK_DEPTH
  layers = ('1', '2', '3') if is_bottleneck else ('1', '2')
  index = 0
  for stage, num_blocks in enumerate(STAGE_SIZES[depth], start=1):
    for number in range(1, num_blocks + 1):
      # What changes shape on the way needs a convolution past it.
      projects = number == 1 and (stage > 1 or is_bottleneck)
      shortcut = (SHORTCUT,) if projects else ()
      yield Block(stage, number, index, (*shortcut, *layers))
      index += 1
