"""ResNet-50 v1.5 on ImageNet, as in section 2 and appendix A.1 of the paper.

  python main.py --config=configs/imagenet_resnet50.py:sigmoid --workdir=runs/r50

Batch 4096, Nesterov momentum 0.9, linear warm-up to 1.6 over 10 epochs, then
x 0.975 per epoch, L2 8e-5 on kernels, moving averages 0.9999 of parameters and
batch statistics (ramped, min(0.9999, (1 + n) / (10 + n)) at step n, as in both
public Google Inception trainers; --config.ema_ramp=False for a constant decay).
50,046 training images are held out for choosing hyperparameters and the epoch to
stop at; final runs train on all images up to that epoch. The paper does not give
the number of epochs; 200 here. Published top-1 test accuracy (Table C.2):
softmax 77.0 %, logit penalty 77.7 %, sigmoid and cosine softmax 77.9 %.

Images are resized as in the released code, by TensorFlow 1's bicubic, in crops of
training and of evaluation (the central 0.875 of the shorter side).

Convolutions and activations are computed in bfloat16, for TPUs; parameters,
statistics, gradients' sums and losses are float32. The paper does not say what it
used: --config.compute_dtype=float32 trains, and `python -m lossbench.evaluate
--compute_dtype=float32` evaluates, in float32.

`OBJECTIVES` holds the released values; the same ones serve Inception v3.
"""

from configs import default

OBJECTIVES = {
  'softmax': dict(),
  'label_smoothing': dict(alpha=0.1),
  'dropout': dict(keep_prob=0.7),
  'extra_final_layer_l2': dict(lambda_final=8e-4),
  # Half the released 6e-4, whose code halves the norm.
  'logit_penalty': dict(beta=3e-4),
  'logit_normalization': dict(temperature=0.04),
  'cosine_softmax': dict(temperature=0.05),
  'sigmoid': dict(),
  # At the start its gradient on the right logit is -10.8 (softmax: -1), and the
  # output layer alone diverges above a learning rate of 0.25 on untrained
  # features: watch the warm-up.
  'squared_error': dict(kappa=9.0, target_logit=60.0, scale=10.0),
}
AUGMENTATIONS = {
  # The paper chose alpha from 0.1, 0.2, 0.3 and 0.4 on the holdout.
  'mixup': dict(mixup_alpha=0.2),
  'autoaugment': dict(autoaugment='imagenet'),
}


def get_config(objective: str = 'softmax'):
  config = default.get_default_config()
  config.dataset = 'imagenet2012'
  config.num_classes = 1000
  config.image_size = 224
  config.resize_images = True
  config.resize_method = 'bicubic_tf1'
  config.random_flip = True
  config.num_holdout = 50_046
  config.pixel_mean = (0.485, 0.456, 0.406)
  config.pixel_std = (0.229, 0.224, 0.225)
  config.model.name = 'resnet'
  config.model.depth = 50
  # As the released code; PyTorch's max pool is 'symmetric', Flax's example has
  # convolutions that are 'same'.
  config.model.max_pool_padding = 'same'
  config.model.conv_padding = 'symmetric'
  config.compute_dtype = 'bfloat16'
  config.output_kernel_stddev = 0.01
  config.batch_size = 4096
  config.eval_batch_size = 1024
  config.num_epochs = 200.0
  config.learning_rate = 1.6
  config.schedule = 'exponential'
  config.warmup_epochs = 10.0
  config.decay_per_epoch = 0.975
  config.weight_decay = 8e-5
  config.ema_decay = 0.9999
  config.log_every_steps = 100
  return default.set_objective(
    config, objective, OBJECTIVES, augmentations=AUGMENTATIONS
  )
