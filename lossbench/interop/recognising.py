"""Which of our networks a file of arrays holds, by all of its names and shapes."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from lossbench.interop.formats import Origin, Shape
from lossbench.interop.matching import converted_shape, model_shapes
from lossbench.models import Classifier, create_backbone
from lossbench.models.resnet import STAGE_SIZES
from lossbench.objectives import create_objective

# Architecture, as torchvision and timm call it -> its fields here, but for those
# that change no name.
ARCHITECTURES: dict[str, dict[str, Any]] = {
  **{f'resnet{n}': {'name': 'resnet', 'depth': n} for n in STAGE_SIZES},
  'inception_v3': {'name': 'inception_v3'},
}
# Path of an array of ours -> its origin.
Origins = Mapping[str, Origin]

_BIAS = 'params/output_layer/bias'


def recognise(
  shapes: Mapping[str, Shape],
  origins: Mapping[str, Origins],
  *,
  where: str,
  called: str = '',
) -> tuple[str, int]:
  """The architecture that a file holds, and its number of classes.

  Args:
    shapes: name -> shape of the file's arrays.
    origins: architecture -> where its arrays would come from.
    where: the file, for errors.
    called: what the file's own description calls it; '' if it has none.

  Raises:
    ValueError: if it is none of them; with the first name or shape that differs
      from those of the nearest.
  """
  nearest = called
  if called not in origins:
    nearest = max(origins, key=lambda name: _agreement(shapes, origins[name]))
  difference = _difference(shapes, origins[nearest], nearest)
  known = f'Known: {", ".join(origins)}.'
  is_called = f'a {called}, ' if called not in ('', nearest) else ''
  if difference:
    raise ValueError(
      f'{where} is {is_called}not our {nearest}: {difference}. {known}'
    )
  if is_called:
    raise ValueError(
      f'{where} is {is_called}whose names and shapes are those of {nearest}, but '
      f'which may compute something else. {known}'
    )
  return nearest, shapes[origins[nearest][_BIAS].name][0]


def _agreement(shapes: Iterable[str], origins: Origins) -> int:
  """The fewer names differ, the larger."""
  return -len({*shapes} ^ {origin.name for origin in origins.values()})


def _difference(
  shapes: Mapping[str, Shape], origins: Origins, architecture: str
) -> str:
  """The first name or shape that differs, in words; '' if all agree."""
  expected = {origin.name: path for path, origin in origins.items()}
  found = {
    'lacks': [name for name in expected if name not in shapes],
    'has': [name for name in shapes if name not in expected],
  }
  words = [
    f'{verb} {names[0]}' + f' (and {len(names) - 1} more)' * (len(names) > 1)
    for verb, names in found.items()
    if names
  ]
  if words:
    return f'it {" but ".join(words)}'
  num_classes = shapes[origins[_BIAS].name][:1]
  wanted = _shapes_of(architecture, *num_classes)
  for path, origin in origins.items():
    shape = shapes[origin.name]
    if converted_shape(origin, shape) != wanted[path]:
      return (
        f'its {origin.name} of shape {list(shape)} is no {path} of '
        f'{list(wanted[path])}'
      )
  return ''


@functools.lru_cache(maxsize=8)
def _shapes_of(architecture: str, num_classes: int = 0) -> dict[str, Shape]:
  """Path -> shape of a network's arrays."""
  backbone = create_backbone(image_size=299, **ARCHITECTURES[architecture])
  output_layer = create_objective('softmax').output_layer(
    num_classes=num_classes
  )
  return model_shapes(Classifier(backbone, output_layer), num_channels=3)


def find_architecture(model: Mapping[str, Any]) -> str | None:
  """Their name of a model of ours; None if they have no such.

  Args:
    model: its name and fields; paddings do not matter.
  """
  shape = {k: model[k] for k in ('name', 'depth') if k in model}
  for architecture, fields in ARCHITECTURES.items():
    if fields == shape:
      return architecture if model.get('width', 64) == 64 else None
  return None
