"""When a run does what, and which configurations are refused beforehand."""

import dataclasses
import math

import jax
import ml_collections


@dataclasses.dataclass(frozen=True)
class Plan:
  """Steps at which a run does things.

  Attributes:
    steps_per_epoch: optimiser steps in one pass over the training split.
    num_steps: that the run takes; fewer than its schedule spans if it stops
      early.
    eval_every: steps between evaluations on the holdout; 0 without a holdout.
    checkpoint_every: steps between checkpoints that are not evaluations, or 0.
    keep_every: steps between checkpoints that are never deleted, or 0.
    log_every: steps between log lines.
  """

  steps_per_epoch: int
  num_steps: int
  eval_every: int
  checkpoint_every: int
  keep_every: int
  log_every: int

  def _due(self, step: int, every: int) -> bool:
    return step == self.num_steps or (every > 0 and step % every == 0)

  def should_log(self, step: int) -> bool:
    return self._due(step, self.log_every)

  def should_evaluate(self, step: int) -> bool:
    return self.eval_every > 0 and self._due(step, self.eval_every)

  def should_save(self, step: int) -> bool:
    return (
      self.should_evaluate(step)
      or self._due(step, self.checkpoint_every)
      or self._due(step, self.keep_every)
    )


def build_plan(config: ml_collections.ConfigDict, *, num_examples: int) -> Plan:
  """Turns epochs into steps."""
  steps_per_epoch = num_examples // config.batch_size
  if steps_per_epoch == 0:
    raise ValueError(
      f'--config.batch_size={config.batch_size} is more than the '
      f'{num_examples} training examples. Lower it.'
    )

  def to_steps(num_epochs):
    # Zero means never and stays; anything else is a step at least.
    return max(1, round(num_epochs * steps_per_epoch)) if num_epochs else 0

  return Plan(
    steps_per_epoch=steps_per_epoch,
    num_steps=to_steps(config.stop_epoch or config.num_epochs),
    eval_every=to_steps(config.eval_every_epochs) if config.num_holdout else 0,
    checkpoint_every=config.checkpoint_every_steps,
    keep_every=to_steps(config.keep_every_epochs),
    log_every=config.log_every_steps,
  )


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
