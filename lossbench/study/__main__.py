"""Runs a study: python -m lossbench.study --config=FILE --workdir=DIR.

  python -m lossbench.study --config=configs/studies/digits.py --workdir=studies/digits

Trains, evaluates, transfers and compares whatever is missing. It can be killed
at any moment and run again to continue: what is done is read from the run
directories. A run that fails is reported at the end, and the others go on; the
next call tries it again.
"""

from lossbench import cli  # isort: split

import contextlib
import sys

from absl import flags
from ml_collections import config_flags

from lossbench.runtime import console, locks, storage


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  config_flags.DEFINE_config_file(
    'config', None, 'Study, e.g. configs/studies/digits.py.', lock_config=True
  )
  cli.define_workdir('Directory of the study.')
  cli.define_allow()
  flags.DEFINE_bool('list', False, 'Only print runs and their states.')
  flags.DEFINE_bool(
    'commands', False, 'Only print the commands of what is missing.'
  )
  flags.DEFINE_multi_string(
    'only', [], 'Only runs whose names contain this; repeat for several.'
  )
  flags.DEFINE_list(
    'runs',
    [],
    'Only these runs, by their whole names, and no comparisons: the part of one '
    'job of several, which may lie in a bucket. Other jobs must have others.',
  )
  flags.DEFINE_integer(
    'num_workers',
    0,
    'Processes that share the runs, on a machine whose device they can share; '
    '0 runs everything in this process, on all devices.',
    lower_bound=0,
  )
  cli.define_runs_per_program()


def _build_study(args):
  from configs.studies.default import check_study
  from lossbench.study import configuration, driver, states

  check_study(args.config)
  changed = config_flags.get_override_values(args['config'])
  study = configuration.build_study(
    args.config,
    config_file=args['config'].config_filename,
    workdir=args.workdir,
    overrides=[f'--config.{name}={value}' for name, value in changed.items()],
    allow=args.allow,
  )
  driver.check_configs(study)
  storage.check_reachable(study.workdir)
  states.check_runs(study)
  return study


def _print_missing(study, runs):
  """Prints the commands of what is missing of these runs and comparisons."""
  from lossbench.study import states, table

  found = {run.name: states.read_state(study, run) for run in runs}
  missing = [c for c in study.comparisons if not states.is_compared(study, c)]
  table.print_commands(study, found, missing)


def main(arguments):
  del arguments
  from lossbench.study import driver, plan, table

  args = flags.FLAGS
  if args.num_workers and args.runs_per_program != '1':
    raise ValueError(
      f'--runs_per_program={args.runs_per_program} and --num_workers='
      f'{args.num_workers} are two ways to train several runs at once. Give one.'
    )
  if args.runs and args.only:
    raise ValueError('--runs and --only both choose runs. Give one.')
  output = console.output()  # before anything is redirected
  study = _build_study(args)
  runs = plan.select_runs(study.runs, args.only, args.runs)
  if args.list:
    table.print_states(study, runs, output)
    return
  if not args.commands:
    # Before the study's directory is made.
    if args.num_workers:
      console.check_device_of_children()
    else:
      console.configure()
  if not args.runs:  # of everybody
    driver.write_study(study)
  if args.commands:
    _print_missing(study, runs)
    return
  is_remote = storage.is_remote(study.workdir)
  if is_remote:
    storage.check_keeps_checkpoints(study.workdir)
  lock = contextlib.nullcontext()
  # Chosen runs have locks of their own, and buckets know none.
  if not (args.runs or is_remote):
    lock = locks.locked(study.workdir)
  with lock:
    errors = driver.run_study(
      study,
      only=args.only,
      names=args.runs,
      num_workers=args.num_workers,
      runs_per_program=args.runs_per_program,
      output=output,
    )
    if not args.runs:
      # Again, with the stop epochs and checkpoints that are known now.
      driver.write_study(study)
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
  cli.run(main, required=['config', 'workdir'], takes_study=True)
