"""Table C.2: AutoAugment and mixup on top of four losses, on ImageNet.

  python -m lossbench.study --config=configs/studies/augmentation.py --workdir=studies/augmentation --list

Three runs of each keep a holdout and choose the epoch to stop at; the final ones,
on all of train, stop there. Hyperparameters are those without augmentation.
"""

from configs.studies import default

LOSSES = ('softmax', 'sigmoid', 'logit_penalty', 'cosine_softmax')
AUGMENTATIONS = ('', 'autoaugment', 'mixup')


def get_config():
  config = default.get_default_study()
  config.title = 'AutoAugment and mixup'
  objectives = tuple(
    '+'.join(filter(None, (loss, augmentation)))
    for augmentation in AUGMENTATIONS
    for loss in LOSSES
  )
  common = dict(objectives=objectives, compare=False, ood=False)
  config.groups.imagenet_resnet50_holdout = default.group(
    'configs/imagenet_resnet50.py',
    num_seeds=3,
    evaluate=False,
    overrides=('keep_every_epochs=1',),
    **common,
  )
  config.groups.imagenet_resnet50 = default.group(
    'configs/imagenet_resnet50.py',
    num_seeds=8,
    overrides=('num_holdout=0', 'checkpoint_every_steps=1000'),
    stop_epoch_from='imagenet_resnet50_holdout',
    **common,
  )
  return config
