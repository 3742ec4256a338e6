"""Their arrays and ours: all names and shapes agree, or nothing is taken."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from lossbench.interop.formats import Origin, Shape, Source
from lossbench.models import Classifier

_SEPARATOR = '/'


def model_shapes(
  classifier: Classifier, *, num_channels: int
) -> dict[str, Shape]:
  """Path -> shape of all variables of a network, which is not computed."""
  side = classifier.backbone.min_image_size
  images = np.zeros((1, side, side, num_channels), np.float32)
  variables = jax.eval_shape(
    lambda key: classifier.init(key, images, train=False), jax.random.key(0)
  )
  flat = traverse_util.flatten_dict(variables, sep=_SEPARATOR)
  return {path: leaf.shape for path, leaf in flat.items()}


def take_arrays(
  source: Source, wanted: Mapping[str, Shape], *, where: str
) -> dict[str, Any]:
  """Reads a checkpoint into the variables of a model.

  Args:
    source: the checkpoint.
    wanted: path of every array of the model, 'params/...' or 'batch_stats/...'
      -> its shape.
    where: the checkpoint's path, for errors.

  Returns:
    {'params', 'batch_stats'}: nested dictionaries of float32 arrays.

  Raises:
    ValueError: listing every name that is missing or left over, every shape that
      differs, or every array with values that are not finite.
  """
  origins = {path: source.origin_fn(path) for path in wanted}
  problems = _problems(source, wanted, origins)
  if problems:
    raise ValueError(
      f'{where} does not hold this model: {"; ".join(problems)}. Nothing was '
      'imported: give the format and the options that it was written with.'
    )
  stored = {origin.name: None for origin in origins.values()}
  for name in stored:
    stored[name] = source.read_fn(name)
  broken = [
    name for name, array in stored.items() if not np.isfinite(array).all()
  ]
  if broken:
    raise ValueError(
      f'{where} has values that are not finite in {", ".join(broken)}. Nothing '
      'was imported: give another checkpoint.'
    )
  leaves = {
    path: np.ascontiguousarray(
      origin.convert_fn(stored[origin.name]), np.float32
    )
    for path, origin in origins.items()
  }
  variables = traverse_util.unflatten_dict(leaves, sep=_SEPARATOR)
  return {'params': {}, 'batch_stats': {}, **variables}


def _problems(
  source: Source,
  wanted: Mapping[str, Shape],
  origins: Mapping[str, Origin | None],
) -> list[str]:
  """What keeps a checkpoint from being the model, in words."""
  used = {origin.name for origin in origins.values() if origin}
  homeless = [path for path, origin in origins.items() if origin is None]
  missing = sorted(used - set(source.shapes))
  left_over = sorted(set(source.shapes) - used)
  differing = []
  for path, origin in origins.items():
    if origin is None or origin.name in missing:
      continue
    shape = source.shapes[origin.name]
    converted = converted_shape(origin, shape)
    if converted != wanted[path]:
      gives = '' if converted == shape else f' gives {converted or "nothing"}'
      differing.append(
        f'{origin.name} {shape}{gives}, but {path} is {wanted[path]}'
      )
  found = {
    'the format has no place for': homeless,
    'missing': missing,
    'left over': left_over,
    'shapes differ': differing,
  }
  return [
    f'{words} ({len(names)}): {", ".join(names)}'
    for words, names in found.items()
    if names
  ]


def converted_shape(origin: Origin, shape: Shape) -> Shape | None:
  """The shape that a conversion gives; None if it cannot take the array."""
  try:
    return np.shape(origin.convert_fn(np.broadcast_to(np.float32(0), shape)))
  except (IndexError, ValueError):
    return None
