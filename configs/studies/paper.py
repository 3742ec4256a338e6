"""The paper's main tables and figures: all recipes, 8 ImageNet and 25 CIFAR seeds.

  python -m lossbench.study --config=configs/studies/paper.py --workdir=studies/paper --list

Three runs of each ImageNet objective keep a holdout, on which the epoch to stop
at is chosen; the final eight train on all images up to there. On CIFAR the
learning rate ends at zero, and no run stops early.

The source task is relearned, IN(50k) of Table 3 and Figure 5, from the holdout,
images that the network has not seen: features of images it has fitted would
flatter the objectives that fit closest. So it is of the three runs that have a
holdout, whose features are transferred too, for Figure 5 pairs both measures of
one network.
"""

from configs.studies import default

TRANSFER = (
  'food101',
  'cifar10',
  'cifar100',
  'caltech_birds2011',
  'sun397',
  'cars196',
  'oxford_iiit_pet',
  'oxford_flowers102',
)
RELEARNED = 'imagenet2012:holdout'


def imagenet_groups(name, *, transfer=(), **fields):
  """Runs that choose when to stop, and final ones that stop there."""
  recipe = f'configs/{name}.py'
  return {
    f'{name}_holdout': default.group(
      recipe,
      **fields | {'num_seeds': 3, 'compare': False, 'ood': False},
      evaluate=False,
      overrides=('keep_every_epochs=1',),
      transfer=(*transfer, RELEARNED) if transfer else (),
    ),
    name: default.group(
      recipe,
      **fields,
      overrides=('num_holdout=0', 'checkpoint_every_steps=1000'),
      stop_epoch_from=f'{name}_holdout',
      transfer=transfer,
    ),
  }


def get_config():
  config = default.get_default_study()
  config.title = 'Demystifying loss functions for classification'
  config.groups.update(
    imagenet_groups('imagenet_resnet50', num_seeds=8, transfer=TRANSFER)
  )
  config.groups.update(
    imagenet_groups(
      'imagenet_inception_v3', num_seeds=8, ood=False, compare=False
    )
  )
  for name in ('cifar10_all_cnn', 'cifar100_wrn16_8'):
    config.groups[name] = default.group(
      f'configs/{name}.py',
      num_seeds=25,
      overrides=('num_holdout=0', 'checkpoint_every_steps=1000'),
      cka=False,
    )
  return config
