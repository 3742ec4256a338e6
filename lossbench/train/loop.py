"""The training run: from a configuration and a directory to checkpoints."""

import functools
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import metric_writers, parameter_overview, periodic_actions

from lossbench import build
from lossbench.data import datasets
from lossbench.evaluation.loop import Evaluator
from lossbench.runs.checkpoints import Checkpointer
from lossbench.runs.directory import RunDirectory, write_json
from lossbench.runtime import devices
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import Progress
from lossbench.train.checks import check_config
from lossbench.train.initialization import (
  initial_state,
  load_source,
  start_from,
)
from lossbench.train.inputs import (
  build_input_fn,
  build_train_inputs,
  prefetch_to_devices,
)
from lossbench.train.log import TrainLog
from lossbench.train.plan import build_plan
from lossbench.train.preemption import Preempted, PreemptionNotice
from lossbench.train.schedules import create_schedule
from lossbench.train.state import StepHparams
from lossbench.train.step import TrainStep, create_train_step
from lossbench.train.watchdog import Watchdog

_FIRST_PROFILED_STEP = 10

# What the compiled step depends on, besides the structure of its arguments.
_STEP_FIELDS = (
  'accumulation_steps',
  'compute_dtype',
  'crop_padding',
  'data_on_device',
  'decay_batch_norm',
  'decay_per_epoch',
  'image_size',
  'model',
  'num_classes',
  'num_epochs',
  'pixel_mean',
  'pixel_std',
  'random_flip',
  'schedule',
  'warmup_epochs',
)


def build_step_hparams(config: ml_collections.ConfigDict) -> StepHparams:
  """The numbers that the compiled step takes as arguments."""
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
  )


def _build_schedule(config, steps_per_epoch):
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
    build.pack_fields(config, _STEP_FIELDS), steps_per_epoch
  )


@functools.lru_cache(maxsize=64)
def _compiled_step(fields: str, steps_per_epoch: int) -> TrainStep:
  config = build.unpack_fields(fields)
  return create_train_step(
    build.build_backbone(config),
    num_classes=config.num_classes,
    input_fn=build_input_fn(config),
    schedule_fn=_build_schedule(config, steps_per_epoch),
    decay_batch_norm=config.decay_batch_norm,
    accumulation_steps=config.accumulation_steps,
  )


def _report_start(config, plan, inputs, state, holdout):
  LOGGER.info(
    'Devices: %d x %s in %d process(es). Global batch %d, %d per device.',
    jax.device_count(),
    jax.devices()[0].device_kind,
    jax.process_count(),
    config.batch_size,
    config.batch_size // jax.device_count(),
  )
  LOGGER.info(
    'Data: %s, %d training images, holdout %s. %d steps = %g epochs of %d.',
    config.dataset,
    inputs.num_examples,
    holdout or 'none',
    plan.num_steps,
    config.stop_epoch or config.num_epochs,
    plan.steps_per_epoch,
  )
  LOGGER.info(
    'Objective %s, model %s:\n%s',
    config.objective.name,
    config.model.name,
    parameter_overview.get_parameter_overview(
      state.params, include_stats=False
    ),
  )


def _report_holdout(history, writer, run):
  """Writes the newest record of the history to all who want to see it."""
  step = history[-1]['step']
  metrics = {k: v for k, v in history[-1].items() if k not in ('step', 'epoch')}
  writer.write_scalars(step, {f'holdout/{k}': v for k, v in metrics.items()})
  LOGGER.info(
    'step %d  holdout accuracy %.4f  nll %.4f',
    step,
    metrics['top1_accuracy'],
    metrics['nll'],
  )
  if jax.process_index() == 0:
    write_json(run.history_path, history)


def train(config: ml_collections.ConfigDict, *, workdir: str):
  """Trains one model, or continues where an earlier call was stopped.

  Args:
    config: all fields of configs/default.py.
    workdir: the run directory; see `run_directory`.

  Raises:
    ValueError: if the configuration is refused or the directory holds another
      run.
    FileNotFoundError: if the data set is not on the disk.
    OSError: if the directory cannot be written to, or another process trains
      into it.
    FloatingPointError: if the loss stops being finite; checkpoints made before
      are kept.
    Preempted: a SystemExit, if the run was asked to stop and has saved.
  """
  check_config(config)
  hparams = build_step_hparams(config)
  run = RunDirectory(workdir)
  run.check_compatible(config)
  builder = datasets.open_dataset(
    config.dataset, data_dir=config.data_dir, num_classes=config.num_classes
  )
  datasets.check_image_shape(
    builder, build.image_shape(config), resized=config.resize_images
  )
  train_split, holdout = datasets.holdout_splits(
    builder, num_holdout=config.num_holdout
  )
  plan = build_plan(
    config, num_examples=datasets.num_examples(builder, train_split)
  )
  # A run that has begun no longer needs what it started from.
  source = None if run.has_checkpoints() else load_source(config, run)
  with run.locked():
    run.claim(config, num_steps=plan.num_steps)
    _train(config, hparams, run, builder, train_split, holdout, plan, source)


def _train(config, hparams, run, builder, train_split, holdout, plan, source):
  """Trains into a directory that is ours."""
  from lossbench.data.examples import build_examples

  examples = build_examples(config, builder, train_split, run=run)
  inputs = build_train_inputs(config, examples)
  if examples.bad_ids:
    plan = build_plan(config, num_examples=inputs.num_examples)
    run.claim(config, num_steps=plan.num_steps)
  state = initial_state(config, hparams)
  if source is not None:
    state = start_from(state, source)
  history: list[dict[str, Any]] = []
  writer = metric_writers.create_default_writer(
    run.path, just_logging=jax.process_index() > 0
  )
  with (
    metric_writers.ensure_flushes(writer),
    Checkpointer(
      run.checkpoints_path,
      keep_last=config.keep_checkpoints,
      keep_every_steps=plan.keep_every,
    ) as checkpointer,
  ):
    _report_start(config, plan, inputs, state, holdout)
    checkpoint = checkpointer.restore_last()
    if checkpoint is not None:
      state = checkpoint.restore_into(state)
      history = checkpoint.history
      LOGGER.info('Resuming at step %d of %d.', checkpoint.step, plan.num_steps)
    start_step = int(state.step)
    if start_step >= plan.num_steps:
      LOGGER.info('Already trained to step %d: %s', start_step, run.path)
      return
    evaluator = None
    if holdout:
      evaluator = Evaluator(
        config, build_examples(config, builder, holdout, run=run)
      )
    train_step = build_train_step(config, steps_per_epoch=plan.steps_per_epoch)
    log = TrainLog(
      writer, Progress(start_step, plan.num_steps), config=config, plan=plan
    )
    profile = _create_profile(config, run, start_step)
    state = devices.replicate(state)
    LOGGER.info('Compiling...')

    def save(step):
      log.check_finite()
      if evaluator and plan.should_evaluate(step):
        metrics = evaluator.scalars(state)
        epoch = step / plan.steps_per_epoch
        history.append({'step': step, 'epoch': epoch, **metrics})
        _report_holdout(history, writer, run)
      checkpointer.save(state, history=history)

    batches = prefetch_to_devices(inputs.batches_fn(start_step, plan.num_steps))
    with PreemptionNotice() as notice, Watchdog(config.stall_secs) as watchdog:
      for step in range(start_step + 1, plan.num_steps + 1):
        with watchdog.waiting_for('the input pipeline'):
          batch = next(batches)
        state, metrics = train_step(state, batch, inputs.data, hparams)
        log.append(step, metrics)
        if profile:
          profile(step)
        if plan.should_log(step):
          with watchdog.waiting_for('the devices'):
            log.flush()
        preempted = notice.reached(step)
        if plan.should_save(step) or preempted:
          with log.pause(), watchdog.waiting_for('evaluation and checkpoint'):
            save(step)
        if preempted and step < plan.num_steps:
          checkpointer.wait()
          LOGGER.warning(
            'Asked to stop: saved step %d of %d. Run the same command again to '
            'resume.',
            step,
            plan.num_steps,
          )
          raise Preempted(step)
        watchdog.beat(step)
    checkpointer.wait()
  LOGGER.info(
    'Trained to step %d. Evaluate with: python -m lossbench.evaluate '
    '--workdir=%s',
    plan.num_steps,
    run.path,
  )


def _create_profile(config, run, start_step):
  if not config.profile_steps:
    return None
  return periodic_actions.Profile(
    logdir=run.path,
    num_profile_steps=config.profile_steps,
    profile_duration_ms=None,
    first_profile=start_step + _FIRST_PROFILED_STEP,
    every_secs=None,
  )
