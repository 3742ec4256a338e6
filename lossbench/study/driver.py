"""Doing whatever is missing of a study, until nothing more can be done."""

import rich.console

from configs import legal
from lossbench.study import plan, pool, states, table
from lossbench.train.checks import check_relations


def check_configs(study: plan.Study):
  """Refuses runs that training would refuse, before the first one starts.

  Raises:
    ValueError: naming the run, the field, its value and the remedy.
  """
  for run in study.runs:
    try:
      legal.check_config(run.config)
      check_relations(run.config)
    except ValueError as error:
      raise ValueError(f'Run {run.name!r}: {error}') from error


def write_study(study: plan.Study):
  """Writes study.json: what is wanted, as far as it is known."""
  plan.write_study(
    study, states.final_configs(study), states.wanted_checkpoints(study)
  )


def run_study(
  study: plan.Study,
  *,
  only: list[str],
  num_workers: int,
  output: rich.console.Console,
) -> dict[str, str]:
  """Does whatever is missing of a study.

  Args:
    study: from `plan.build_study`.
    only: words that names of runs must contain; [] for all.
    num_workers: processes; 0 for this one.
    output: the console to report on.

  Returns:
    Name -> error of what failed.
  """
  errors: dict[str, str] = {}

  def work(tasks, on_event):
    if num_workers:
      pool.do_in_workers(study, tasks, on_event, num_workers=num_workers)
    else:
      pool.do_here(study, tasks, on_event)

  found = {
    run.name: states.read_state(study, run)
    for run in plan.select_runs(study.runs, only)
  }
  comparisons = [c for c in study.comparisons if not _unselected(c, found)]
  view = table.StudyTable(
    study,
    found,
    num_comparisons=len(comparisons),
    num_workers=num_workers,
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
