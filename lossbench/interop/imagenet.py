"""What the runs have in common that are made of networks trained on ImageNet."""

from collections.abc import Mapping
from typing import Any

from lossbench.interop.recognising import ARCHITECTURES

RECIPE, OBJECTIVE = 'imagenet_resnet50', 'softmax'
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DATASET, _NUM_CLASSES = 'imagenet2012', 1000


def run_fields(
  architecture: str,
  *,
  num_classes: int,
  dataset: str | None,
  paddings: Mapping[str, Any],
  where: str,
) -> dict[str, Any]:
  """Fields of a run, but for what its network sees of an image.

  Args:
    architecture: one of `ARCHITECTURES`.
    num_classes: of the output layer.
    dataset: whose classes they are; None for ImageNet's.
    paddings: fields of the model that change no shape.
    where: the source, for errors.

  Raises:
    ValueError: if the data set must be named.
  """
  if dataset is None and num_classes != _NUM_CLASSES:
    raise ValueError(
      f'{where} has {num_classes} classes, so they are not those of '
      f'{_DATASET}. Say with --dataset whose they are.'
    )
  model = {**ARCHITECTURES[architecture], **paddings}
  return {
    'dataset': dataset or _DATASET,
    'num_classes': num_classes,
    'num_holdout': 0,
    'downscale': 1,
    'resize_images': True,
    'compute_dtype': 'float32',
    **{f'model.{name}': value for name, value in model.items()},
  }
