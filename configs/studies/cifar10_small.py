"""CIFAR-10 on a CPU: the paper's objectives on images of 16 x 16 pixels.

  python -m lossbench.study --config=configs/studies/cifar10_small.py --workdir=studies/cifar10_small --config.data_dir=DIR

All-CNN-C at a quarter of its width on means of 2 x 2 pixels, nine objectives x 2
seeds with the hyperparameters of Table A.2 for the whole width; transfer to
Caltech-101 and relearning of CIFAR-10 from its holdout. DIR is a TFDS directory
with cifar10 and caltech101. Hours of one core; killed and started again it goes on.
"""

from configs.studies import default


def get_config():
  config = default.get_default_study()
  config.title = 'Nine objectives on CIFAR-10 at 16 x 16 pixels'
  config.groups.cifar10_all_cnn = default.group(
    'configs/cifar10_all_cnn.py',
    num_seeds=2,
    overrides=(
      'downscale=2',
      'model.width_multiplier=0.25',
      'num_epochs=60',
      'eval_every_epochs=10',
      'eval_batch_size=1000',
    ),
    transfer=('caltech101', 'cifar10:holdout'),
  )
  return config
