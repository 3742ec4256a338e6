"""A small CNN on pairs of handwritten digits: a hundred classes in seconds.

  python main.py --config=configs/digit_pairs_cnn.py:sigmoid --workdir=runs/sigmoid

A few seconds on one CPU core after the compilation; about 94 % test accuracy
where nearly all training images are right, so that objectives can differ. The
losses' own hyperparameters are those of the paper's CIFAR-100, which has a hundred
classes too (Table A.2). Learning rates are two values at which every objective's holdout
accuracy is within 0.7 points of the best of a grid of `lossbench.tune`, in the setting of
`studies/digit_pairs.py` (results/digit_pairs/tuning.csv); four are better at 1, where
units die and what is left of the features is badly conditioned. The weight decay is not
tuned.
Evaluation uses moving averages of the parameters, whose decay is ramped up to 0.95.
"""

from configs import default

OBJECTIVES = {
  'softmax': dict(),
  'label_smoothing': dict(alpha=0.18),
  'dropout': dict(keep_prob=0.75),
  'extra_final_layer_l2': dict(lambda_final=10**-3.33),
  'logit_penalty': dict(beta=10**-2.83),
  'logit_normalization': dict(temperature=0.11),
  'cosine_softmax': dict(temperature=0.1),
  'sigmoid': dict(),
  'squared_error': dict(
    kappa=6.0, target_logit=12.0, scale=1.0, learning_rate=0.1
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
  config.learning_rate = 0.3
  config.schedule = 'cosine'
  config.weight_decay = 2e-3
  config.ema_decay = 0.95
  config.eval_batch_size = 512
  config.eval_every_epochs = 2.0
  return default.set_objective(config, objective, OBJECTIVES)
