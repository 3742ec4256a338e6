"""The training run: from a configuration and a directory to checkpoints."""

import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import metric_writers, parameter_overview, periodic_actions

from lossbench import build
from lossbench.data import bad_images, datasets
from lossbench.evaluation.loop import Evaluator
from lossbench.runs import provenance
from lossbench.runs.checkpoints import Checkpoint, Checkpointer
from lossbench.runs.directory import RunDirectory, fields_of, write_json
from lossbench.runtime import cluster, devices
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import Progress
from lossbench.train import class_weights
from lossbench.train.checks import check_config
from lossbench.train.dispatch import Batches, Pace
from lossbench.train.initialization import (
  initial_state,
  load_source,
  start_from,
)
from lossbench.train.inputs import TrainInputs, build_train_inputs
from lossbench.train.label_counts import write_label_counts
from lossbench.train.log import TrainLog
from lossbench.train.plan import FIRST_PROFILED_STEP, Plan, build_plan
from lossbench.train.preemption import Preempted, PreemptionNotice
from lossbench.train.program import (
  build_step_hparams,
  build_train_step,
  dispatch_size,
)
from lossbench.train.replicas import check_replicas
from lossbench.train.state import StepHparams, TrainState
from lossbench.train.step import TrainStep
from lossbench.train.upkeep import Upkeep
from lossbench.train.watchdog import Watchdog

# Opening data sets and filling caches, of which several runs may want the same.
_building = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Run:
  """All that a run is made of, built and in order.

  Attributes:
    config: of the run.
    directory: where it writes.
    plan: what it does at which step.
    inputs: its batches.
    evaluator: on the holdout; None without one.
    hparams: of the step, on the devices.
    train_step: compiled at its first call.
    state: before the first step, on the host.
    source: what it is fine-tuned from; None without one.
    dataset: what tells its data set from others.
    label_counts: how often each class occurs; None where nobody asks.
  """

  config: ml_collections.ConfigDict
  directory: RunDirectory
  plan: Plan
  inputs: TrainInputs
  evaluator: Evaluator | None
  hparams: StepHparams
  train_step: TrainStep
  state: TrainState
  source: Checkpoint | None
  dataset: dict[str, Any]
  label_counts: dict[str, Any] | None


def train(
  config: ml_collections.ConfigDict,
  *,
  workdir: str,
  allow: Sequence[str] = (),
  notice: PreemptionNotice | None = None,
):
  """Trains one model, or continues where an earlier call was stopped.

  Everything is built, and its shapes are checked, before anything of the run is
  written: a mistake that is found then leaves the directory as it was.

  Args:
    config: all fields of configs/default.py.
    workdir: the run directory; see `lossbench.runs.directory`.
    allow: which of `lossbench.runs.directory.CHANGES` a resumed run may find.
    notice: that runs of one process share; None for one of its own.

  Raises:
    ValueError: if the configuration is refused, the directory holds another
      run, its checkpoints are all damaged, or an image or a label is.
    Disagreement: a ValueError, on all processes, if they hold different
      configurations or data sets, or their devices different states.
    FileNotFoundError: if the data set, or the run that config.init_from names,
      is not there.
    OSError: if the directory cannot be written to, or another process trains
      into it.
    FloatingPointError: if the loss stops being finite; checkpoints made before
      are kept.
    Preempted: a SystemExit, if the run was asked to stop and has saved.
  """
  check_config(config)
  directory = RunDirectory(workdir)
  directory.check_compatible(config)
  directory.check_not_imported()
  with _building:
    run = build_run(config, directory)
    # Compiles nothing, and raises what compilation would.
    jax.eval_shape(run.train_step, *step_arguments(run))
  with directory.locked():
    directory.claim(
      config,
      num_steps=run.plan.num_steps,
      start=provenance.describe_start(
        step=directory.last_step, dataset=run.dataset, allowed=allow
      ),
      source=_describe_source(run),
    )
    if run.label_counts is not None:
      write_label_counts(directory, run.label_counts)
    _train(run, notice)


def _describe_source(run: Run) -> dict[str, Any] | None:
  if run.source is None:
    return None
  return {
    'path': run.config.init_from,
    'step': run.source.step,
    'fingerprint': run.source.fingerprint,
  }


def _check_agreement(config, directory: RunDirectory, dataset: dict[str, Any]):
  """Refuses, before the first collective, processes of different runs."""
  fields = {
    f'--config.{name}': value
    for name, value in fields_of(config).items()
    if name != 'data_dir'  # hosts may have copies of their own
  }
  cluster.check_agreement(
    {**fields, '--workdir': str(directory.path), 'the data set': dataset}
  )


def build_run(
  config: ml_collections.ConfigDict, directory: RunDirectory
) -> Run:
  """Opens and builds all that a run needs; writes and compiles nothing."""
  from lossbench.data.examples import build_examples

  builder = datasets.open_dataset(
    config.dataset, data_dir=config.data_dir, num_classes=config.num_classes
  )
  dataset = datasets.describe(builder)
  dataset |= class_weights.describe_file(
    config.class_weights, num_classes=config.num_classes
  )
  _check_agreement(config, directory, dataset)
  datasets.check_image_shape(
    builder, build.image_shape(config), resized=config.resize_images
  )
  train_split, holdout = datasets.holdout_splits(
    builder, num_holdout=config.num_holdout
  )
  # A run that has begun no longer needs what it started from.
  begun = directory.has_checkpoints()
  if not begun and config.on_bad_image == 'raise':
    bad_images.check_pngs(builder, 'train')
  source = None if begun else load_source(config, directory)
  examples = build_examples(config, builder, train_split, run=directory)
  counts = class_weights.build_label_counts(
    config, examples, directory=directory, dataset=dataset
  )
  hparams = build_step_hparams(
    config, class_weights=class_weights.build_class_weights(config, counts)
  )
  inputs = build_train_inputs(config, examples)
  plan = build_plan(config, num_examples=inputs.num_examples)
  evaluator = None
  if holdout:
    evaluator = Evaluator(
      config, build_examples(config, builder, holdout, run=directory)
    )
  return Run(
    config=config,
    directory=directory,
    plan=plan,
    inputs=inputs,
    evaluator=evaluator,
    hparams=devices.broadcast(hparams),
    train_step=build_train_step(config, steps_per_epoch=plan.steps_per_epoch),
    state=initial_state(config, hparams),
    source=source,
    dataset=dataset,
    label_counts=counts,
  )


def step_arguments(run: Run) -> tuple[Any, ...]:
  """What the step is called with, of state and batch their shapes."""

  def on_devices(leaf):
    return jax.ShapeDtypeStruct((devices.count(), *np.shape(leaf)), leaf.dtype)

  size = dispatch_size(run.config)
  steps = (size,) if size else ()

  def split(leaf):
    rows = leaf.shape[0] // len(devices.local())
    return jax.ShapeDtypeStruct(
      (devices.count(), *steps, rows, *leaf.shape[1:]), leaf.dtype
    )

  return (
    jax.tree.map(on_devices, run.state),
    jax.tree.map(split, run.inputs.batch_shapes),
    run.inputs.data,
    run.hparams,
    *([np.int32(1)] if size else []),
  )


def _train(run: Run, notice: PreemptionNotice | None):
  """Trains into a directory that is ours."""
  writer = metric_writers.create_default_writer(
    run.directory.path, just_logging=jax.process_index() > 0
  )
  with (
    metric_writers.ensure_flushes(writer),
    Checkpointer(
      run.directory.checkpoints_path,
      keep_last=run.plan.keep_last,
      keep_every_steps=run.plan.keep_every,
    ) as checkpointer,
  ):
    _report_start(run)
    state, history = _first_state(run, checkpointer)
    if state.step >= run.plan.num_steps:
      LOGGER.info(
        'Already trained to step %d: %s', state.step, run.directory.path
      )
      return
    _take_steps(run, state, history, writer, checkpointer, notice)
    checkpointer.wait()
  LOGGER.info(
    'Trained to step %d. Evaluate with: python -m lossbench.evaluate '
    '--workdir=%s',
    run.plan.num_steps,
    run.directory.path,
  )


def _report_start(run: Run):
  config, plan = run.config, run.plan
  LOGGER.info(
    'Devices: %d x %s in %d process(es). Global batch %d, %d per device.',
    devices.count(),
    devices.local()[0].device_kind,
    jax.process_count(),
    config.batch_size,
    config.batch_size // devices.count(),
  )
  LOGGER.info(
    'Data: %s, %d training images, holdout %s. %d steps = %g epochs of %d.',
    config.dataset,
    run.inputs.num_examples,
    run.evaluator.num_examples if run.evaluator else 'none',
    plan.num_steps,
    config.stop_epoch or config.num_epochs,
    plan.steps_per_epoch,
  )
  LOGGER.info(
    'Objective %s, model %s:\n%s',
    config.objective.name,
    config.model.name,
    parameter_overview.get_parameter_overview(
      run.state.params, include_stats=False
    ),
  )


def _first_state(run: Run, checkpointer: Checkpointer):
  """(state, history) to go on from: of a checkpoint, the source or the seed."""
  checkpoint = checkpointer.restore_last(final_step=run.plan.num_steps)
  if checkpoint is not None:
    LOGGER.info(
      'Resuming at step %d of %d.', checkpoint.step, run.plan.num_steps
    )
    if checkpoint.history and jax.process_index() == 0:
      write_json(run.directory.history_path, checkpoint.history)
    return checkpoint.restore_into(run.state), checkpoint.history
  source = run.source
  if source is None:  # another process may have seen a checkpoint
    source = load_source(run.config, run.directory)
  state = run.state if source is None else start_from(run.state, source)
  return state, []


def _take_steps(run: Run, state, history, writer, checkpointer, notice):
  """The loop: from a state on the host to the last step, or until preempted."""
  plan, start_step = run.plan, int(state.step)
  progress = Progress(start_step, plan.num_steps)
  log = TrainLog(
    writer,
    progress,
    objective=run.config.objective.name,
    learning_rate=run.config.learning_rate,
    batch_size=run.config.batch_size,
    plan=plan,
  )
  profile = _create_profile(run, start_step)
  state = devices.replicate(state)
  check_replicas(state, step=start_step)
  batches = Batches(
    run.inputs,
    start_step,
    plan.num_steps,
    size=dispatch_size(run.config),
  )
  pace = Pace(
    plan,
    fixed=run.config.steps_per_dispatch,
    one_by_one=not run.config.data_on_device or profile is not None,
  )
  LOGGER.info('Compiling...')
  with (
    contextlib.nullcontext(notice) if notice else PreemptionNotice() as notice,
    Watchdog(run.config.stall_secs) as watchdog,
    Upkeep(
      plan,
      run.directory,
      evaluator=run.evaluator,
      checkpointer=checkpointer,
      history=history,
      log=log,
      writer=writer,
    ) as upkeep,
  ):
    step = start_step
    while step < plan.num_steps:
      steps = range(step + 1, pace.last_step(step) + 1)
      with watchdog.waiting_for('the input pipeline'):
        batch, count = batches.take(len(steps))
      state, metrics = run.train_step(
        state, batch, run.inputs.data, run.hparams, *count
      )
      step = steps[-1]
      log.append(steps, metrics)
      if profile:
        profile(step)
      with watchdog.waiting_for('evaluation and checkpoint'):
        upkeep.count_dispatch()
        if plan.should_stop(step):
          upkeep.finish()
      if plan.should_log(step):
        with watchdog.waiting_for('the devices'):
          pace.observe(log.flush())
      preempted = notice.reached(step)
      save = preempted or plan.should_save(step)
      with watchdog.waiting_for('evaluation and checkpoint'):
        if save or plan.should_check_replicas(step):
          upkeep.begin(state, metrics, step=step, save=save)
        if preempted or step == plan.num_steps:
          upkeep.finish()
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


def _create_profile(run: Run, start_step):
  num_profiled = run.plan.num_profiled
  if not num_profiled:
    return None
  first = start_step + FIRST_PROFILED_STEP
  if first + num_profiled > run.plan.num_steps:  # of a run that is resumed
    LOGGER.warning('Too few steps are left to profile.')
    return None
  return periodic_actions.Profile(
    logdir=run.directory.path,
    num_profile_steps=num_profiled,
    profile_duration_ms=None,
    first_profile=first,
    every_secs=None,
  )
