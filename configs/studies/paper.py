"""The paper's main tables and figures: all recipes, 8 ImageNet and 25 CIFAR seeds.

  python -m lossbench.study --config=configs/studies/paper.py --workdir=studies/paper --list

Three runs of each ImageNet objective keep a holdout, on which the epoch to stop
at is chosen; the final eight train on all images up to there. On CIFAR the
learning rate ends at zero, and no run stops early.
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
  # IN(50k): the source task relearned from as many images as the holdout has.
  'imagenet2012:train[-50046:]',
)


def imagenet_groups(name, **fields):
  """Runs that choose when to stop, and final ones that stop there."""
  recipe = f'configs/{name}.py'
  variants = {key: fields[key] for key in fields if key != 'transfer'}
  return {
    f'{name}_holdout': default.group(
      recipe,
      **variants | {'num_seeds': 3, 'compare': False, 'ood': False},
      evaluate=False,
      overrides=('keep_every_epochs=1',),
    ),
    name: default.group(
      recipe,
      **fields,
      overrides=('num_holdout=0', 'checkpoint_every_steps=1000'),
      stop_epoch_from=f'{name}_holdout',
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
