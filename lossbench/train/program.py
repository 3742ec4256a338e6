"""The compiled step of a configuration, and the numbers that are its data."""

import functools

import ml_collections
import numpy as np

from lossbench import build
from lossbench.runtime import devices
from lossbench.train.dispatch import max_steps
from lossbench.train.inputs import build_input_fn
from lossbench.train.schedules import ScheduleFn, create_schedule
from lossbench.train.state import StepHparams
from lossbench.train.step import TrainStep, create_train_step

# What the compiled step depends on, besides the structure of its arguments.
STEP_FIELDS = (
  'accumulation_steps',
  'batch_norm_group',
  'compute_dtype',
  'crop_padding',
  'data_on_device',
  'decay_batch_norm',
  'decay_per_epoch',
  'downscale',
  'image_size',
  'model',
  'num_classes',
  'num_epochs',
  'pixel_mean',
  'pixel_std',
  'precision',
  'random_flip',
  'schedule',
  'warmup_epochs',
)


def build_step_hparams(
  config: ml_collections.ConfigDict, *, class_weights: np.ndarray | None = None
) -> StepHparams:
  """The numbers that the compiled step takes as arguments.

  Args:
    config: of the run.
    class_weights: of `lossbench.train.class_weights.build_class_weights`.
  """
  learning_rate = config.learning_rate
  if config.learning_rate_batch_size:
    learning_rate *= config.batch_size / config.learning_rate_batch_size
  weight_decay = config.weight_decay
  if config.divide_weight_decay_by_learning_rate:
    weight_decay /= config.learning_rate
  return StepHparams(
    objective=build.build_objective(config),
    learning_rate=learning_rate,
    momentum=config.momentum,
    weight_decay=weight_decay,
    ema_decay=config.ema_decay,
    ema_ramp=config.ema_ramp,
    seed=np.uint32(config.seed),
    mixup_alpha=config.mixup_alpha or None,
    class_weights=class_weights,
  )


def build_schedule(
  config: ml_collections.ConfigDict, *, steps_per_epoch: int
) -> ScheduleFn:
  """Step -> factor of the peak learning rate."""
  return create_schedule(
    config.schedule,
    num_epochs=config.num_epochs,
    steps_per_epoch=steps_per_epoch,
    warmup_epochs=config.warmup_epochs,
    decay_per_epoch=config.decay_per_epoch,
  )


def build_train_step(
  config: ml_collections.ConfigDict, *, steps_per_epoch: int
) -> TrainStep:
  """The pmapped step, shared by runs that differ in seed and numbers only."""
  return _compiled_step(
    build.pack_fields(config, STEP_FIELDS), steps_per_epoch, devices.chosen()
  )


@functools.lru_cache(maxsize=64)
def _compiled_step(fields: str, steps_per_epoch: int, chosen) -> TrainStep:
  del chosen  # found by who compiles
  config = build.unpack_fields(fields)
  return create_train_step(
    build.build_backbone(config, batch_norm=build.build_batch_norm(config)),
    num_classes=config.num_classes,
    input_fn=build_input_fn(config),
    schedule_fn=build_schedule(config, steps_per_epoch=steps_per_epoch),
    decay_batch_norm=config.decay_batch_norm,
    accumulation_steps=config.accumulation_steps,
    several=config.data_on_device,
  )


def dispatch_size(config: ml_collections.ConfigDict) -> int:
  """Steps that one call of the program can take; 0 for a program of one."""
  return max_steps(config.steps_per_dispatch) if config.data_on_device else 0
