"""Table C.2: AutoAugment and mixup on top of four losses, on ImageNet.

  python -m lossbench.study --config=configs/studies/augmentation.py --workdir=studies/augmentation --list

Three runs of each keep a holdout and choose the epoch to stop at, and of mixup its
alpha from 0.1 to 0.4; the final ones, on all of train, stop there: eight seeds, as
in the paper three with AutoAugment. Other hyperparameters are those without
augmentation.
"""

from configs.studies import default

LOSSES = ('softmax', 'sigmoid', 'logit_penalty', 'cosine_softmax')
ALPHAS = (0.1, 0.2, 0.3, 0.4)
# Augmentation -> seeds of the final runs, variants of those with a holdout.
AUGMENTATIONS = {
  '': (8, ((),)),
  'autoaugment': (3, ((),)),
  'mixup': (8, tuple((f'mixup_alpha={alpha}',) for alpha in ALPHAS)),
}


def get_config():
  config = default.get_default_study()
  config.title = 'AutoAugment and mixup'
  for augmentation, (num_seeds, variants) in AUGMENTATIONS.items():
    name = '_'.join(filter(None, ('imagenet_resnet50', augmentation)))
    common = dict(
      objectives=tuple(
        '+'.join(filter(None, (loss, augmentation))) for loss in LOSSES
      ),
      compare=False,
      ood=False,
    )
    config.groups[f'{name}_holdout'] = default.group(
      'configs/imagenet_resnet50.py',
      num_seeds=3,
      evaluate=False,
      overrides=('keep_every_epochs=1',),
      variants=variants,
      **common,
    )
    config.groups[name] = default.group(
      'configs/imagenet_resnet50.py',
      num_seeds=num_seeds,
      overrides=('num_holdout=0', 'checkpoint_every_steps=1000'),
      stop_epoch_from=f'{name}_holdout',
      **common,
    )
  return config
