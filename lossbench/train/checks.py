"""Which configurations are refused before anything is compiled.

The legal values of each field by itself are in configs/legal.py.
"""

import ml_collections

from lossbench import build
from lossbench.runtime import devices
from lossbench.train.schedules import create_schedule


def check_config(config: ml_collections.ConfigDict):
  """Refuses what would fail, or mislead, after minutes of compilation.

  Raises:
    ValueError: naming the field, its value, what was expected and the remedy.
  """
  check_relations(config)
  check_trainable(config)
  _check_batches(config)


def check_relations(config: ml_collections.ConfigDict):
  """Refuses fields that contradict one another, wherever the run may be.

  Raises:
    ValueError: naming the fields, their values and the remedy.
  """
  if config.data_on_device and (config.resize_images or config.autoaugment):
    raise ValueError(
      '--config.data_on_device=True cannot resize images or apply AutoAugment, '
      'which the host does. Set it to False.'
    )
  if config.resize_antialias and config.resize_method == 'bicubic_tf1':
    raise ValueError(
      '--config.resize_method=bicubic_tf1 has no antialiasing. Set '
      '--config.resize_antialias=False, or take bicubic.'
    )
  if not 0 <= config.stop_epoch <= config.num_epochs:
    raise ValueError(
      f'--config.stop_epoch={config.stop_epoch} is not in [0, '
      f'{config.num_epochs}], up to --config.num_epochs.'
    )
  _check_images(config)
  _check_idle(config)
  # These refuse what they cannot build.
  build.build_objective(config)
  build.build_backbone(config)
  build.build_normalize_fn(config)
  create_schedule(
    config.schedule,
    num_epochs=config.num_epochs,
    steps_per_epoch=1,
    warmup_epochs=config.warmup_epochs,
    decay_per_epoch=config.decay_per_epoch,
  )


def check_trainable(config: ml_collections.ConfigDict):
  """Refuses a network that is imported and evaluated, but is not trained here.

  Raises:
    ValueError: naming the field, its value and the remedy.
  """
  layer = build.build_objective(config).output_layer(
    num_classes=config.num_classes
  )
  if layer.background:
    raise ValueError(
      f'--config.output_layer={config.output_layer} with '
      f'{config.objective.name} has an output of no class, which the published '
      'networks had in the softmax of their training too and which has no place '
      'in it here: they are imported and not trained. Set '
      '--config.output_layer=paper, which is their formula without that output.'
    )


def _check_images(config):
  if len(config.pixel_mean) != 3:
    for name in ('autoaugment', 'resize_images'):
      if config[name]:
        raise ValueError(
          f'--config.{name}={config[name]} is for colour images, but '
          f'--config.pixel_mean={tuple(config.pixel_mean)} has one value, for '
          f'grey ones. Leave {name} out.'
        )
  if config.image_size % config.downscale:
    raise ValueError(
      f'--config.downscale={config.downscale} does not divide '
      f'--config.image_size={config.image_size}. Give a divisor, 1 for none.'
    )
  if config.crop_padding >= config.image_size:
    raise ValueError(
      f'--config.crop_padding={config.crop_padding} is not less than '
      f'--config.image_size={config.image_size}: crops may show nothing of the '
      'image. Give for example an eighth of image_size.'
    )


# Fields that others make idle: (field, the value of who does not ask for it,
# whether it is idle, what to do). Whatever else it is would be ignored. The
# filter of resizing is never idle: transfer resizes images whatever the run does.
_IDLE = (
  (
    'decay_per_epoch',
    1.0,
    lambda config: config.schedule != 'exponential',
    'set --config.schedule=exponential',
  ),
  (
    'ema_ramp',
    True,
    lambda config: not config.ema_decay,
    'set --config.ema_decay',
  ),
  (
    'init_step',
    'best',
    lambda config: not config.init_from,
    'set --config.init_from',
  ),
  (
    'precision',
    'default',
    lambda config: config.compute_dtype != 'float32',
    'set --config.compute_dtype=float32',
  ),
  (
    'crop_padding',
    0,
    lambda config: config.resize_images,
    'set --config.resize_images=False',
  ),
  (
    'steps_per_dispatch',
    0,
    lambda config: not config.data_on_device,
    'set --config.data_on_device=True',
  ),
  (
    'resize_ratio',
    256 / 224,
    lambda config: not config.resize_images,
    'set --config.resize_images=True',
  ),
)


def _check_idle(config):
  for name, neutral, is_idle, remedy in _IDLE:
    if config[name] != neutral and is_idle(config):
      raise ValueError(
        f'--config.{name}={config[name]} would be ignored. Leave it at '
        f'{neutral}, or {remedy}.'
      )


def _check_batches(config):
  num_devices = devices.count()
  for name in ('batch_size', 'eval_batch_size'):
    size = config[name]
    if size % num_devices:
      lower = max(num_devices, size - size % num_devices)
      raise ValueError(
        f'--config.{name}={size} is not a multiple of the '
        f'{num_devices} devices. Take for example {lower}.'
      )
  group = config.batch_norm_group
  if group and num_devices % group:
    raise ValueError(
      f'--config.batch_norm_group={group} does not divide the {num_devices} '
      'devices. Give a divisor, or 0 for statistics of each by itself.'
    )
  parts = num_devices * config.accumulation_steps
  if config.batch_size % parts:
    raise ValueError(
      f'--config.batch_size={config.batch_size} is not a multiple of '
      f'{num_devices} devices x --config.accumulation_steps='
      f'{config.accumulation_steps}.'
    )
