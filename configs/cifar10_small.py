"""All-CNN-C at a quarter of its width on CIFAR-10 at 16 x 16 pixels, for a CPU.

  python main.py --config=configs/cifar10_small.py:sigmoid --workdir=runs/small --config.data_dir=DIR

87,000 parameters see means of 2 x 2 pixels of 10,000 training images, without flips
and crops, so that all objectives get nearly all of them right, as the paper's networks
do, in minutes of one core. The other 40,000 are the holdout, whose accuracy is around
60 %. Hyperparameters are those of `cifar10_all_cnn.py` (Table A.2), but for two learning
rates, which suit many times as many steps: after 10 epochs logit normalization had a
holdout accuracy of 47 % and cosine softmax of 45 % with them, and of 59 and 57 % at the
best of the coarse grid of `lossbench.tune` (powers of ten in steps of a half, one seed).
"""

from configs import cifar10_all_cnn, default

_LEARNING_RATES = {
  'logit_normalization': 10**-0.5,
  'cosine_softmax': 10**-0.75,
}
OBJECTIVES = cifar10_all_cnn.OBJECTIVES | {
  name: cifar10_all_cnn.OBJECTIVES[name] | dict(learning_rate=value)
  for name, value in _LEARNING_RATES.items()
}


def get_config(objective: str = 'softmax'):
  config = cifar10_all_cnn.get_config()
  config.downscale = 2
  config.crop_padding = 0
  config.random_flip = False
  config.num_holdout = 40_000
  config.model.width_multiplier = 0.25
  config.num_epochs = 50.0
  config.eval_every_epochs = 25.0
  config.eval_batch_size = 1_000
  return default.set_objective(config, objective, OBJECTIVES)
