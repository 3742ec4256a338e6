"""Table C.1: combining losses and regularisers on ImageNet.

  python -m lossbench.study --config=configs/studies/combinations.py --workdir=studies/combinations --list

The best holdout accuracy at any time in training, three runs each.
"""

import itertools

from configs.studies import default

LOSSES = ('softmax', 'sigmoid', 'cosine_softmax', 'logit_normalization')
REGULARIZERS = (
  '',
  'label_smoothing',
  'dropout',
  'extra_final_layer_l2',
  'logit_penalty',
)
# Refused by the objectives: the norm of their logits is fixed.
SENSELESS = {'logit_normalization+logit_penalty'}


def get_config():
  config = default.get_default_study()
  config.title = 'Combinations of losses and regularisers'
  names = [
    '+'.join(filter(None, pair))
    for pair in itertools.product(LOSSES, REGULARIZERS)
  ]
  config.groups.imagenet_resnet50 = default.group(
    'configs/imagenet_resnet50.py',
    objectives=tuple(name for name in names if name not in SENSELESS),
    evaluate=False,
    compare=False,
  )
  return config
