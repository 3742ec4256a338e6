"""A small CNN on pairs of handwritten digits: a hundred classes in seconds.

  python main.py --config=configs/digit_pairs_cnn.py:sigmoid --workdir=runs/sigmoid

A few seconds on one CPU core after the compilation; about 94 % test accuracy
where nearly all training images are right, so that objectives can differ. The
losses' own hyperparameters are those of the paper's CIFAR-100, which has a hundred
classes too (Table A.2). Learning rates are tuned by `lossbench.tune`, of every objective
the best of a grid of halves, then quarters of powers of ten, by the holdout accuracy of
two seeds, in the setting of `studies/digit_pairs.py`. The weight decay is not tuned.
Evaluation uses moving averages of the parameters, whose decay is ramped up to 0.95.
"""

from configs import default

OBJECTIVES = {
  'softmax': dict(),
  'label_smoothing': dict(alpha=0.18),
  'dropout': dict(keep_prob=0.75),
  'extra_final_layer_l2': dict(learning_rate=10**-0.25, lambda_final=10**-3.33),
  'logit_penalty': dict(beta=10**-2.83),
  'logit_normalization': dict(learning_rate=10**-0.25, temperature=0.11),
  'cosine_softmax': dict(learning_rate=10**-0.5, temperature=0.1),
  'sigmoid': dict(learning_rate=10**-0.5),
  'squared_error': dict(
    learning_rate=10**-0.5, kappa=6.0, target_logit=12.0, scale=1.0
  ),
}


def get_config(objective: str = 'softmax'):
  config = default.get_default_config()
  config.dataset = 'digit_pairs'
  config.num_classes = 100
  config.image_size = 14
  config.num_holdout = 1_000
  config.data_on_device = True
  config.pixel_mean = (0.21,)
  config.pixel_std = (0.33,)
  config.model.name = 'digits_cnn'
  config.model.width = 24
  config.model.strides = (2, 2, 2, 2)
  config.output_kernel_stddev = 0.07  # near 1 / sqrt(192 features)
  config.batch_size = 100
  config.num_epochs = 8.0
  # A step is over in milliseconds, less than it takes to dispatch.
  config.steps_per_dispatch = 16
  config.learning_rate = 1.0  # the best of four of the nine
  config.schedule = 'cosine'
  config.weight_decay = 2e-3
  config.ema_decay = 0.95
  config.eval_batch_size = 512
  config.eval_every_epochs = 2.0
  return default.set_objective(config, objective, OBJECTIVES)
