"""Doing whatever is missing of a study, until nothing more can be done."""

from collections.abc import Sequence

import rich.console

from configs import legal
from lossbench.study import plan, pool, record, states, table
from lossbench.train.checks import check_relations, check_trainable


def check_configs(study: plan.Study):
  """Refuses runs that training would refuse, before the first one starts.

  Raises:
    ValueError: naming the run, the field, its value and the remedy.
  """
  for run in study.runs:
    try:
      legal.check_config(run.config)
      check_relations(run.config)
      if run.source is None:
        check_trainable(run.config)
    except ValueError as error:
      raise ValueError(f'Run {run.name!r}: {error}') from error


def write_study(study: plan.Study):
  """Writes study.json: what is wanted, as far as it is known."""
  record.write_study(
    study, states.final_configs(study), states.wanted_checkpoints(study)
  )


def run_study(
  study: plan.Study,
  *,
  only: list[str],
  names: Sequence[str] = (),
  num_workers: int,
  runs_per_program: str = '1',
  output: rich.console.Console,
) -> dict[str, str]:
  """Does whatever is missing of a study.

  Args:
    study: from `configuration.build_study`.
    only: words that names of runs must contain; [] for all.
    names: whole names, in place of words; then nothing is compared.
    num_workers: processes; 0 for this one.
    runs_per_program: how many are trained at once in this process, each on one
      device: 'auto' or a number; 1 for one on all of its devices.
    output: the console to report on.

  Returns:
    Name -> error of what failed.

  Raises:
    ValueError: if the runs cannot be trained so many at once.
  """
  errors: dict[str, str] = {}
  runs = plan.select_runs(study.runs, only, names)
  num_runs = _num_runs_at_once(runs, runs_per_program)

  def work(tasks, on_event):
    if num_workers:
      pool.do_in_workers(study, tasks, on_event, num_workers=num_workers)
      return
    untrained = [task for task in tasks if _is_untrained(study, task)]
    if num_runs > 1 and untrained:
      pool.train_on_devices(study, untrained, on_event, num_runs=num_runs)
    left = [task for task in tasks if task.name not in errors]
    pool.do_here(study, left, on_event, alone=num_runs > 1)

  found = {run.name: states.read_state(study, run) for run in runs}
  comparisons = [
    c for c in study.comparisons if not (names or _unselected(c, found))
  ]
  view = table.StudyTable(
    study,
    found,
    num_comparisons=len(comparisons),
    num_workers=num_workers,
    num_trained_at_once=num_runs,
    console=output,
  )

  def on_event(event):
    view.update(event)
    if not event.stage and event.text:
      errors[event.task] = event.text

  with view:
    while ready := _ready_runs(study, found, errors):
      work(ready, on_event)
    work([c for c in comparisons if not states.is_compared(study, c)], on_event)
  for name in found:
    state = states.read_state(study, study_run(study, name))
    if state.waits_for and name not in errors:
      errors[name] = f'waits for {state.waits_for}, which is not trained'
  return errors


def _num_runs_at_once(
  runs: Sequence[plan.PlannedRun], runs_per_program: str
) -> int:
  if runs_per_program == '1':
    return 1
  # Not above: JAX takes hold of the devices, which workers may want.
  import jax

  from lossbench.train.side_by_side import num_runs_at_once

  runs = [run for run in runs if run.source is None]
  num_runs = num_runs_at_once(runs_per_program, [run.config for run in runs])
  num_devices = jax.local_device_count()
  for run in runs if num_runs > 1 else ():
    size = run.config.eval_batch_size
    if size % num_devices:
      raise ValueError(
        f'Run {run.name!r}: --config.eval_batch_size={size} is not a multiple of '
        f'the {num_devices} devices, which evaluate it together once it is '
        f'trained. Take for example {max(1, size // num_devices) * num_devices}.'
      )
  return num_runs


def _is_untrained(study: plan.Study, task: pool.Task) -> bool:
  return isinstance(task, plan.PlannedRun) and (
    plan.TRAIN in states.read_state(study, task).missing
  )


def _unselected(comparison, found) -> bool:
  return not any(name in found for name in comparison.runs)


def study_run(study: plan.Study, name: str) -> plan.PlannedRun:
  """A run by name."""
  return next(run for run in study.runs if run.name == name)


def _ready_runs(study, found, errors) -> list[plan.PlannedRun]:
  """Runs that miss something, wait for nobody and have not just failed."""
  ready = []
  for name in found:
    run = study_run(study, name)
    state = states.read_state(study, run)
    if state.missing and not state.waits_for and name not in errors:
      ready.append(run)
  return ready
