"""A checkpoint in torchvision's names, as torchvision and timm write it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from lossbench.interop import imagenet
from lossbench.interop.formats import Origin, Source
from lossbench.interop.recognising import ARCHITECTURES, recognise
from lossbench.interop.tensor_files import open_tensors
from lossbench.interop.torch_names import PADDINGS, is_ignored, torch_names


def open_torch_source(
  file: pathlib.Path,
  image_fields: Mapping[str, Mapping[str, Any]],
  *,
  dataset: str | None,
  called: str = '',
) -> Source:
  """Opens a file of arrays.

  Args:
    file: of `find_file`.
    image_fields: architecture -> the fields that say what the network sees of an
      image; of those that are not here the checkpoint is refused.
    dataset: whose classes the network's are; None for ImageNet's.
    called: what the file's own description calls the network.

  Raises:
    ValueError: if it is damaged or none of the networks.
  """
  tensors = open_tensors(file)
  shapes = {
    name: shape
    for name, shape in tensors.shapes.items()
    if not is_ignored(name)
  }
  origins = {
    architecture: {
      path: Origin(theirs.name, theirs.to_ours)
      for path, theirs in torch_names(architecture).items()
    }
    for architecture in ARCHITECTURES
  }
  architecture, num_classes = recognise(
    shapes, origins, where=str(file), called=called
  )
  if architecture not in image_fields:
    raise ValueError(
      f'{file} is a {architecture}, of which there are no such weights. They are '
      f'of {", ".join(image_fields)}.'
    )
  fields = imagenet.run_fields(
    architecture,
    num_classes=num_classes,
    dataset=dataset,
    paddings=PADDINGS[ARCHITECTURES[architecture]['name']],
    where=str(file),
  )
  return Source(
    recipe=imagenet.RECIPE,
    objective=imagenet.OBJECTIVE,
    fields={**fields, **image_fields[architecture]},
    shapes=shapes,
    origin_fn=origins[architecture].get,
    read_fn=tensors.read_fn,
    about={'architecture': architecture},
  )
