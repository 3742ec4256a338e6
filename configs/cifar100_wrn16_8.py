"""Wide ResNet 16-8 on CIFAR-100, as in section 2 and appendix A.1 of the paper.

  python main.py --config=configs/cifar100_wrn16_8.py:sigmoid --workdir=runs/c100

Batch 256, Nesterov momentum 0.9, cosine decay to 0, flips and 4-pixel-padded
crops, no weight averaging, L2 also on batch normalisation's parameters. The
paper does not give the number of epochs; 200 here. Final runs train on all
50,000 images (--config.num_holdout=0); 5,000 are held out by default. Zagoruyko
& Komodakis 2016 report 79.57 % test accuracy under their own recipe.

`OBJECTIVES` is Table A.2: eta, lambda (the L2 coefficient is lambda / eta) and
the loss's own hyperparameters, tuned with 5 seeds a configuration.
"""

from configs import default

OBJECTIVES = {
  'softmax': dict(learning_rate=0.1, weight_decay=10**-4.0),
  'label_smoothing': dict(learning_rate=0.1, weight_decay=10**-3.5, alpha=0.18),
  'dropout': dict(
    learning_rate=10**-1.25, weight_decay=10**-3.75, keep_prob=0.75
  ),
  # lambda_final is taken as a direct coefficient; the text leaves this open.
  'extra_final_layer_l2': dict(
    learning_rate=0.1, weight_decay=10**-3.75, lambda_final=10**-3.33
  ),
  'logit_penalty': dict(
    learning_rate=10**-1.25, weight_decay=10**-3.75, beta=10**-2.83
  ),
  'logit_normalization': dict(
    learning_rate=10**-2.25, weight_decay=10**-3.75, temperature=0.11
  ),
  'cosine_softmax': dict(
    learning_rate=0.01, weight_decay=10**-3.75, temperature=0.1
  ),
  'sigmoid': dict(learning_rate=0.1, weight_decay=10**-3.75),
  'squared_error': dict(
    learning_rate=0.1,
    weight_decay=10**-3.75,
    kappa=6.0,
    target_logit=12.0,
    scale=1.0,
  ),
  # Not in the paper: as softmax, and as cosine softmax.
  'focal': dict(learning_rate=0.1, weight_decay=10**-4.0),
  'poly1': dict(learning_rate=0.1, weight_decay=10**-4.0),
  'cosface': dict(learning_rate=0.01, weight_decay=10**-3.75),
  'arcface': dict(learning_rate=0.01, weight_decay=10**-3.75),
  'cosine': dict(),
}
AUGMENTATIONS = {
  'mixup': dict(mixup_alpha=0.2),
  # AutoAugment works on the host, so the data must be streamed.
  'autoaugment': dict(autoaugment='cifar', data_on_device=False),
}


def get_config(objective: str = 'softmax'):
  config = default.get_default_config()
  config.dataset = 'cifar100'
  config.num_classes = 100
  config.image_size = 32
  config.num_holdout = 5_000
  config.data_on_device = True
  config.crop_padding = 4
  config.random_flip = True
  config.pixel_mean = (0.5071, 0.4865, 0.4409)
  config.pixel_std = (0.2673, 0.2564, 0.2762)
  config.model.name = 'wide_resnet'
  config.model.depth = 16
  config.model.width = 8
  # Of a linear layer with 512 inputs: He et al. 2015, sqrt(2 / 512).
  config.output_kernel_stddev = 0.0625
  config.batch_size = 256
  config.num_epochs = 200.0
  config.schedule = 'cosine'
  config.divide_weight_decay_by_learning_rate = True
  config.decay_batch_norm = True
  config.log_every_steps = 100
  return default.set_objective(
    config, objective, OBJECTIVES, augmentations=AUGMENTATIONS
  )
