"""Runs a study: python -m lossbench.study --config=FILE --workdir=DIR.

  python -m lossbench.study --config=configs/studies/digits.py --workdir=studies/digits

Trains, evaluates, transfers and compares whatever is missing. It can be killed
at any moment and run again to continue: what is done is read from the run
directories. A run that fails is reported at the end, and the others go on; the
next call tries it again.
"""

import contextlib
import fcntl
import os
import sys

import rich.console
from absl import app, flags
from ml_collections import config_flags

from configs import legal
from configs.studies.default import check_study
from lossbench.runtime import console, storage
from lossbench.study import plan, pool, states, table
from lossbench.train.checks import check_relations


@contextlib.contextmanager
def _locked(study: plan.Study):
  """One process at a time; the system gives the lock back when it dies."""
  with (study.workdir / 'lock').open('a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise BlockingIOError(
        f'Another process works on the study in {study.workdir}. Wait for it, '
        'or stop it.'
      ) from error
    yield


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


def _share_compilations(study: plan.Study):
  """Compiled programs are kept in the study, for all of its processes."""
  # Read by JAX when it is imported, in this process and in workers.
  os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(study.workdir.absolute() / 'compiled')
  )
  import jax

  jax.config.update(
    'jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR']
  )


def _write_study(study: plan.Study):
  plan.write_study(
    study, states.final_configs(study), states.wanted_checkpoints(study)
  )


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


def define_flags():
  """Not at import, so that binaries can import one another."""
  config_flags.DEFINE_config_file(
    'config', None, 'Study, e.g. configs/studies/digits.py.', lock_config=True
  )
  flags.DEFINE_string('workdir', None, 'Directory of the study.')
  flags.DEFINE_bool('list', False, 'Only print runs and their states.')
  flags.DEFINE_bool(
    'commands', False, 'Only print the commands of what is missing.'
  )
  flags.DEFINE_multi_string(
    'only', [], 'Only runs whose names contain this; repeat for several.'
  )
  flags.DEFINE_integer(
    'num_workers',
    0,
    'Processes that share the runs, on a machine whose device they can share; '
    '0 runs everything in this process, on all devices.',
    lower_bound=0,
  )


def main(argv):
  args = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  # Before anything is redirected.
  output = console.output()
  try:
    changed = config_flags.get_override_values(flags.FLAGS['config'])
    check_study(args.config)
    study = plan.build_study(
      args.config,
      config_file=flags.FLAGS['config'].config_filename,
      workdir=args.workdir,
      overrides=[f'--config.{name}={value}' for name, value in changed.items()],
    )
    check_configs(study)
    states.check_runs(study)
    runs = plan.select_runs(study.runs, args.only)
    if args.list:
      table.print_states(study, runs, output)
      return
    storage.check_reachable(study.workdir)
    _write_study(study)
    if args.commands:
      found = {run.name: states.read_state(study, run) for run in runs}
      missing = [
        c for c in study.comparisons if not states.is_compared(study, c)
      ]
      table.print_commands(study, found, missing)
      return
    if storage.is_remote(study.workdir):
      raise ValueError(
        f'A study cannot be run from here into {study.workdir}: buckets know no '
        'locks. Launch its runs as jobs (launch/README.md); --list shows their '
        'states, and --commands what is missing.'
      )
    with _locked(study):
      _share_compilations(study)
      if not args.num_workers:
        console.configure()
        pool.configure_devices(0)
      errors = run_study(
        study, only=args.only, num_workers=args.num_workers, output=output
      )
      # Again, with the stop epochs and checkpoints that are known now.
      _write_study(study)
  except KeyboardInterrupt:
    sys.exit('Interrupted. Run the same command again to continue.')
  except (ValueError, OSError) as error:
    console.fail(error)
  if errors:
    table.print_errors(errors, output)
    sys.exit(
      f'Error: {len(errors)} of the runs or comparisons failed. Their log.txt '
      f'in {study.workdir} tells more; run the same command again to retry.'
    )
  output.print(
    f'All done. Report: python -m lossbench.report --workdir={study.workdir}',
    highlight=False,
    soft_wrap=True,
  )


if __name__ == '__main__':
  define_flags()
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=console.parse_flags)
