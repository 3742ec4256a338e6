"""All-CNN-C at a quarter of its width on CIFAR-10 at 16 x 16 pixels, for a CPU.

  python main.py --config=configs/cifar10_small.py:sigmoid --workdir=runs/small --config.data_dir=DIR

87,000 parameters see means of 2 x 2 pixels of 10,000 training images, without flips
and crops, so that softmax gets nearly all of them right, as the paper's networks do,
in minutes of one core; on all images, augmented, it is far from that. The other
40,000 are the holdout. Everything else is `cifar10_all_cnn.py`'s, also the losses' own
hyperparameters and weight decay (Table A.2).
"""

from configs import cifar10_all_cnn, default

_TABLE = cifar10_all_cnn.OBJECTIVES
OBJECTIVES = {
  name: dict(_TABLE[name])
  for name in (
    'softmax',
    'label_smoothing',
    'dropout',
    'extra_final_layer_l2',
    'logit_penalty',
    'logit_normalization',
    'cosine_softmax',
    'sigmoid',
    'squared_error',
  )
}


def get_config(objective: str = 'softmax'):
  config = cifar10_all_cnn.get_config()
  config.downscale = 2
  config.crop_padding = 0
  config.random_flip = False
  config.num_holdout = 40_000
  config.model.width_multiplier = 0.25
  config.num_epochs = 60.0
  config.eval_every_epochs = 20.0
  config.eval_batch_size = 1_000
  return default.set_objective(config, objective, OBJECTIVES)
