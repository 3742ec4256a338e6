"""All-CNN-C at a quarter of its width on CIFAR-10 at 16 x 16 pixels, for a CPU.

  python main.py --config=configs/cifar10_small.py:sigmoid --workdir=runs/small --config.data_dir=DIR

87,000 parameters see means of 2 x 2 pixels of 10,000 training images, without flips
and crops, so that all objectives get nearly all of them right, as the paper's networks
do, in minutes of one core. The other 40,000 are the holdout, whose accuracy is around
60 %. Learning rates are tuned by `lossbench.tune`, of every objective the best of a grid
around Table A.2's in powers of ten, halves and then quarters, extended where the best
was on its edge, by the holdout accuracy after 20 epochs with one seed: most are higher
than those of the whole width, whose runs have twenty times as many steps. Weight decays
and the losses' own hyperparameters are Table A.2's.
"""

from configs import cifar10_all_cnn, default

# Exponents of ten.
_LEARNING_RATES = {
  'softmax': -0.5,
  'label_smoothing': -0.5,
  'dropout': -0.75,
  'extra_final_layer_l2': -0.5,
  'logit_penalty': -0.75,
  'logit_normalization': -0.25,
  'cosine_softmax': -0.75,
  'sigmoid': 0.0,
  'squared_error': -0.5,
}
OBJECTIVES = cifar10_all_cnn.OBJECTIVES | {
  name: cifar10_all_cnn.OBJECTIVES[name] | dict(learning_rate=10**exponent)
  for name, exponent in _LEARNING_RATES.items()
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
