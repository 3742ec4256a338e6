"""Every field of a run's configuration, with its meaning and unit.

Recipes start from `get_default_config`, override what they must and pick an
objective with `set_objective`. Any field can be overridden on the command
line: --config.batch_size=64, --config.objective.label_smoothing.alpha=0.2.
"""

import ml_collections

from lossbench.objectives import check_spec, get_part

# Hyperparameters that mean the same in every recipe; a recipe's own table
# comes first. Sources: the papers that introduced the losses.
COMMON_HPARAMS = {
  'focal': dict(gamma=2.0),  # Lin et al. 2017
  'poly1': dict(epsilon=2.0),  # Leng et al. 2022, best on ImageNet
  'cosface': dict(margin=0.35),  # Wang et al. 2018
  'arcface': dict(margin=0.5),  # Deng et al. 2019
  'softmax': {},
  'sigmoid': {},
  'scale_by_temperature': {},
}
# Fields of the recipe, not of the objective, that a recipe's table may set.
RECIPE_FIELDS = ('learning_rate', 'weight_decay')
# What some recipes allow beside the parts of an objective.
_AUGMENTATIONS = ('mixup', 'autoaugment')


def get_default_config() -> ml_collections.ConfigDict:
  """All fields with values that suit no recipe in particular."""
  config = ml_collections.ConfigDict()

  # The objective: `name` is set by `set_objective`, together with one
  # sub-dictionary of hyperparameters per part that has any.
  config.objective = ml_collections.ConfigDict({'name': 'softmax'})

  # Seed of initialisation, data order, augmentation and dropout.
  config.seed = 0

  # Data: a data set that lossbench knows, or 'folder:PATH' for images in
  # PATH/train/<class>/ and PATH/val/<class>/ (or test/). `data_dir` is a TFDS
  # directory; '' means $TFDS_DATA_DIR or ~/tensorflow_datasets. Where it is
  # given, it is also where a relative PATH begins.
  config.dataset = 'digits'
  config.data_dir = ''
  config.num_classes = 10
  # Side of the images, in pixels.
  config.image_size = 8
  # The model sees the means of squares of so many pixels a side, after
  # augmentation: small images for small machines.
  config.downscale = 1
  # Examples cut off the end of train for choosing hyperparameters and the
  # checkpoint; 0 trains on all of train.
  config.num_holdout = 0
  # Keep the decoded training set in device memory and augment it there.
  config.data_on_device = False
  # GiB of encoded records that are held back to shuffle streamed data, over all
  # processes; twice as much where one epoch gives way to the next. The order of
  # the examples depends on it. On ImageNet, 4 lets batch-mates meet again about
  # as often as chance would. Images in folders are shuffled whole, without it.
  config.shuffle_gib = 4.0
  # What an image that cannot be decoded does: 'raise' stops the run and names
  # it; 'skip' decodes everything once beforehand and leaves such images out.
  config.on_bad_image = 'raise'
  # Images are of any size: train on random resized crops (10-100 % of the
  # area, aspect 3/4-4/3), evaluate on the centre, which is 1 / resize_ratio of
  # the shorter side.
  config.resize_images = False
  config.resize_ratio = 256 / 224
  # 'crop_then_resize' cuts the centre out in whole pixels of the original;
  # 'resize_then_crop' first resizes the shorter side to resize_ratio *
  # image_size, as torchvision and timm do.
  config.eval_crop = 'crop_then_resize'
  # How images are resized, in training, evaluation and transfer: 'bilinear',
  # 'bicubic', or 'bicubic_tf1', TensorFlow 1's bicubic; and whether the first
  # two are antialiased.
  config.resize_method = 'bilinear'
  config.resize_antialias = False
  # Resized images of evaluation and transfer are rounded to whole grey levels, as
  # in training ('uint8'), or handed on as they are ('float32', as in the study's
  # released code), at four times the traffic.
  config.eval_pixels = 'uint8'
  # AutoAugment policy, 'imagenet' or 'cifar'; '' = none.
  config.autoaugment = ''
  # Random crops of images padded by this many pixels with zeros; 0 = none.
  config.crop_padding = 0
  # Horizontal flips with probability 1/2.
  config.random_flip = False
  # Mixup with m ~ Beta(alpha, alpha) on the devices; 0 = none.
  config.mixup_alpha = 0.0
  # Per-channel mean and standard deviation of pixels in [0, 1].
  config.pixel_mean = (0.5,)
  config.pixel_std = (0.5,)

  # Model: a registered name; further entries are fields of its module.
  config.model = ml_collections.ConfigDict({'name': 'digits_cnn'})
  # 'float32' or 'bfloat16'; parameters and statistics are always float32.
  config.compute_dtype = 'float32'
  # What float32 means in convolutions: 'default' is one pass of bfloat16 on
  # TPUs and TF32 on GPUs since Ampere; 'high' three passes of bfloat16, and TF32;
  # 'highest' six passes, and float32. CPUs always compute in float32, and so
  # does the output layer everywhere.
  config.precision = 'default'
  # Devices that share the statistics of batch normalisation in training, a
  # divisor of their number; 0 = each its own, as in the paper. With
  # accumulation_steps it is their pieces that share them.
  config.batch_norm_group = 0
  # 'released' computes the logits as the study's released code does where that
  # differs from the paper: cosine softmax (x W_k/||W_k|| + b_k) / temperature, of
  # features whose length is kept; logit normalization counts an output of no class
  # in the norm, and is only evaluated, of networks that were imported: in their
  # training that output was in the softmax too. Other objectives have one output
  # layer.
  config.output_layer = 'paper'
  # Standard deviation of the output layer's initial kernel.
  config.output_kernel_stddev = 0.01

  # Fine-tuning: a run directory whose backbone this run starts from, with a new
  # output layer; '' starts from the seed. And which of its checkpoints: 'best',
  # 'last' or a step.
  config.init_from = ''
  config.init_step = 'best'

  # What the loss of an example of each class counts for: '' the same; 'balanced'
  # n / (K n_k), counted over the training images without the holdout; or a file,
  # a JSON list or an .npy array of num_classes numbers from 0, taken as they are.
  config.class_weights = ''

  # Optimisation. Batch sizes are global, over all devices and processes.
  config.batch_size = 128
  config.num_epochs = 10.0
  # Stop after this many epochs of a schedule that still spans num_epochs;
  # 0 trains all of them. `python -m lossbench.early_stopping` finds the best.
  config.stop_epoch = 0.0
  # A device works its part of the batch off in this many pieces, so that a
  # large batch fits on few devices. To batch normalisation a piece is what the
  # part of a device is, in training and in its running statistics.
  config.accumulation_steps = 1
  # Steps that the devices take in one call where the data are on them; 0 takes
  # as many as last half a second, up to 16. Changes no number.
  config.steps_per_dispatch = 0
  config.learning_rate = 0.1
  # If not 0, the learning rate is meant for this batch size and is multiplied
  # by batch_size / learning_rate_batch_size.
  config.learning_rate_batch_size = 0
  config.schedule = 'cosine'  # 'constant', 'cosine' or 'exponential'
  config.warmup_epochs = 0.0
  config.decay_per_epoch = 1.0  # of the exponential schedule
  config.momentum = 0.9
  # Coefficient of L2: its gradient is weight_decay * w.
  config.weight_decay = 1e-4
  # The coefficient is weight_decay / learning_rate, the paper's lambda / eta.
  config.divide_weight_decay_by_learning_rate = False
  # L2 on batch normalisation's scale and bias too.
  config.decay_batch_norm = False
  # Decay of the moving averages of parameters and batch statistics that
  # evaluation then uses; 0 keeps none.
  config.ema_decay = 0.0
  # The decay at step n is min(ema_decay, (1 + n) / (10 + n)), so that averages
  # forget the random initial values at once; False takes ema_decay throughout.
  config.ema_ramp = True

  # Evaluation on the holdout, logging, checkpoints.
  config.eval_batch_size = 256
  config.eval_every_epochs = 1.0
  config.log_every_steps = 50
  # Besides those made at every evaluation; 0 makes none between.
  config.checkpoint_every_steps = 0
  config.keep_checkpoints = 2
  # Checkpoints at multiples of this are made and never deleted, so that any of
  # them can be evaluated later; 0 = none. Equal to eval_every_epochs, it keeps
  # every epoch that early stopping may choose.
  config.keep_every_epochs = 0.0
  # Steps between comparisons of the devices' copies of the state, which must be
  # equal; besides those of every checkpoint. 0 makes none between.
  config.replica_check_every_steps = 1000
  # Seconds without a step after which every process says what it waits for; 0 =
  # never.
  config.stall_secs = 300.0
  # Steps to profile for TensorBoard, starting at step 10; 0 = off.
  config.profile_steps = 0
  return config


def set_objective(
  config: ml_collections.ConfigDict,
  objective: str,
  table: dict,
  *,
  augmentations: dict | None = None,
) -> ml_collections.ConfigDict:
  """Writes an objective and its published hyperparameters into a config.

  Args:
    config: to be changed.
    objective: parts joined by '+', e.g. 'sigmoid+dropout', and possibly
      augmentations: 'sigmoid+mixup'.
    table: part -> its hyperparameters in this recipe, and possibly
      learning_rate and weight_decay. Of several parts, the first that the
      table gives a learning rate or weight decay sets it.
    augmentations: what else may stand in the string -> the fields that it
      sets, e.g. {'mixup': {'mixup_alpha': 0.2}}.

  Returns:
    The same config.

  Raises:
    ValueError: if the objective is refused, it asks for an augmentation that
      the recipe does not have, or neither the table nor `COMMON_HPARAMS` has a
      hyperparameter of a part.
  """
  augmentations = augmentations or {}
  words = objective.split('+')
  for word in words:
    if word in _AUGMENTATIONS and word not in augmentations:
      raise ValueError(
        f'This recipe has no {word!r}. Leave it out, or take one that has, e.g. '
        'configs/imagenet_resnet50.py or configs/cifar10_all_cnn.py.'
      )
    if word in augmentations and words.count(word) > 1:
      raise ValueError(f'{objective!r} is refused: {word!r} is named twice.')
    config.update(augmentations.get(word, {}))
  names = [word for word in words if word not in augmentations] or ['softmax']
  objective = '+'.join(names)
  config.objective = ml_collections.ConfigDict({'name': objective})
  recipe_fields = {}
  for name in names:
    part = get_part(name)
    published = {**COMMON_HPARAMS.get(name, {}), **table.get(name, {})}
    cosine = table.get('cosine_softmax', {})
    if part.cosine_head and 'temperature' in cosine:
      published.setdefault('temperature', cosine['temperature'])
    missing = [hparam for hparam in part.hparams if hparam not in published]
    if missing:
      raise ValueError(
        f'This recipe has no value of {name}.{missing[0]}. Add it to the '
        "recipe's table of objectives."
      )
    hparams = {hparam: published[hparam] for hparam in part.hparams}
    if hparams:
      config.objective[name] = ml_collections.ConfigDict(hparams)
    for field in RECIPE_FIELDS:
      if field in published:
        recipe_fields.setdefault(field, published[field])
  config.update(recipe_fields)
  parts = {k: v for k, v in config.objective.items() if k != 'name'}
  check_spec(objective, parts)  # refuses nonsense before anything loads
  return config
