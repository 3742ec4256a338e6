"""Which configurations are refused before anything is compiled."""

import math

import jax
import ml_collections


def check_config(config: ml_collections.ConfigDict):
  """Refuses what would fail, or mislead, after minutes of compilation.

  Raises:
    ValueError: naming the field, its value, what was expected and the remedy.
  """
  num_devices = jax.device_count()
  for name in ('batch_size', 'eval_batch_size'):
    size = config[name]
    if size < 1 or size % num_devices:
      lower = max(num_devices, size - size % num_devices)
      raise ValueError(
        f'--config.{name}={size} is not a positive multiple of the '
        f'{num_devices} devices. Take for example {lower}.'
      )
  parts = num_devices * config.accumulation_steps
  if config.accumulation_steps < 1 or config.batch_size % parts:
    raise ValueError(
      f'--config.batch_size={config.batch_size} is not a multiple of '
      f'{num_devices} devices x --config.accumulation_steps='
      f'{config.accumulation_steps}, which must be >= 1.'
    )
  if config.data_on_device and (config.resize_images or config.autoaugment):
    raise ValueError(
      '--config.data_on_device=True cannot resize images or apply AutoAugment, '
      'which the host does. Set it to False.'
    )
  for name, known in (
    ('eval_crop', ('crop_then_resize', 'resize_then_crop')),
    ('resize_method', ('bilinear', 'bicubic', 'bicubic_tf1')),
  ):
    if config[name] not in known:
      raise ValueError(
        f'--config.{name} must be one of {", ".join(known)}; got '
        f'{config[name]!r}.'
      )
  if config.resize_antialias and config.resize_method == 'bicubic_tf1':
    raise ValueError(
      '--config.resize_method=bicubic_tf1 has no antialiasing. Set '
      '--config.resize_antialias=False, or take bicubic.'
    )
  if config.on_bad_image not in ('raise', 'skip'):
    raise ValueError(
      "--config.on_bad_image must be 'raise' or 'skip'; got "
      f'{config.on_bad_image!r}.'
    )
  if config.autoaugment not in ('', 'imagenet', 'cifar'):
    raise ValueError(
      "--config.autoaugment must be '', 'imagenet' or 'cifar'; got "
      f'{config.autoaugment!r}.'
    )
  for name in ('num_epochs', 'learning_rate', 'eval_every_epochs'):
    if not (config[name] > 0 and math.isfinite(config[name])):
      raise ValueError(f'--config.{name} must be > 0; got {config[name]}.')
  if not 0 <= config.stop_epoch <= config.num_epochs:
    raise ValueError(
      f'--config.stop_epoch={config.stop_epoch} is not in [0, '
      f'{config.num_epochs}], up to --config.num_epochs.'
    )
  for name in ('log_every_steps', 'keep_checkpoints'):
    if config[name] < 1:
      raise ValueError(f'--config.{name} must be >= 1; got {config[name]}.')
  for name in (
    'checkpoint_every_steps',
    'crop_padding',
    'keep_every_epochs',
    'learning_rate_batch_size',
    'mixup_alpha',
    'profile_steps',
    'seed',
    'stall_secs',
    'weight_decay',
  ):
    if config[name] < 0:
      raise ValueError(f'--config.{name} must be >= 0; got {config[name]}.')
  for name in ('ema_decay', 'momentum'):
    if not 0 <= config[name] < 1:
      raise ValueError(
        f'--config.{name} must be in [0, 1); got {config[name]}.'
      )
