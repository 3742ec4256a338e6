"""Values that the paper printed, as text, for the side column.

Of its tables only C.2 survives in the text that this project was restated from;
its ResNet-50 rows without augmentation are also those of Table 1.
"""

import pathlib

# (objective, metric) -> percent, mean ± standard error, ResNet-50 on ImageNet.
IMAGENET_RESNET50 = {
  ('softmax', 'top1_accuracy'): '77.0 ± 0.06',
  ('softmax', 'top5_accuracy'): '93.40 ± 0.02',
  ('sigmoid', 'top1_accuracy'): '77.9 ± 0.05',
  ('sigmoid', 'top5_accuracy'): '93.50 ± 0.02',
  ('logit_penalty', 'top1_accuracy'): '77.7 ± 0.02',
  ('logit_penalty', 'top5_accuracy'): '93.83 ± 0.02',
  ('cosine_softmax', 'top1_accuracy'): '77.9 ± 0.02',
  ('cosine_softmax', 'top5_accuracy'): '93.86 ± 0.01',
  ('softmax+autoaugment', 'top1_accuracy'): '77.7 ± 0.05',
  ('softmax+autoaugment', 'top5_accuracy'): '93.74 ± 0.05',
  ('sigmoid+autoaugment', 'top1_accuracy'): '78.5 ± 0.04',
  ('sigmoid+autoaugment', 'top5_accuracy'): '93.82 ± 0.02',
  ('logit_penalty+autoaugment', 'top1_accuracy'): '78.3 ± 0.05',
  ('logit_penalty+autoaugment', 'top5_accuracy'): '94.10 ± 0.03',
  ('cosine_softmax+autoaugment', 'top1_accuracy'): '78.3 ± 0.02',
  ('cosine_softmax+autoaugment', 'top5_accuracy'): '94.12 ± 0.04',
  ('softmax+mixup', 'top1_accuracy'): '78.0 ± 0.05',
  ('softmax+mixup', 'top5_accuracy'): '93.98 ± 0.03',
  ('sigmoid+mixup', 'top1_accuracy'): '78.5 ± 0.07',
  ('sigmoid+mixup', 'top5_accuracy'): '93.94 ± 0.04',
  ('logit_penalty+mixup', 'top1_accuracy'): '78.0 ± 0.05',
  ('logit_penalty+mixup', 'top5_accuracy'): '93.95 ± 0.05',
  ('cosine_softmax+mixup', 'top1_accuracy'): '78.4 ± 0.04',
  ('cosine_softmax+mixup', 'top5_accuracy'): '94.14 ± 0.02',
}


def published(recipe: str, objective: str, metric: str) -> str:
  """The printed value, or ''.

  Args:
    recipe: file of the runs' recipe.
    objective: as after the colon of --config.
    metric: its name.
  """
  if pathlib.PurePath(recipe).stem == 'imagenet_resnet50':
    return IMAGENET_RESNET50.get((objective, metric), '')
  return ''
