"""Tunes hyperparameters by the paper's protocol: python -m lossbench.tune.

  python -m lossbench.tune --config=configs/cifar10_all_cnn.py:label_smoothing --workdir=tuning/smooth

Coarse grid, extension of its edges, fine grid; every point is the mean holdout
accuracy of several seeds; the test split is never looked at. Trials are kept by
Optuna, in <workdir>/tuning.db or any database (--storage). It can be killed and
run again to continue, and the same command in several processes or on several
machines shares the trials between them. Prints the ranking and the overrides of
the best point, and writes tuning.json and tuning.png.

Ranges are those of appendix A.1 for learning rate and weight decay, and ours for
the objective's own hyperparameters, for the paper gives none. Change them with
--search FIELD=LOW:HIGH:STEP in powers of ten, and --search_linear.
"""

import contextlib
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence

from absl import app, flags
from ml_collections import config_flags

from configs import legal
from lossbench.early_stopping import best_epoch, read_history
from lossbench.runs.directory import (
  RunDirectory,
  differing_fields,
  what_decides_numbers,
  write_json,
)
from lossbench.runtime import console
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import format_duration
from lossbench.runtime.storage import is_remote
from lossbench.tuning import search
from lossbench.tuning.ranges import build_dimensions, override_line, parse_range
from lossbench.tuning.results import print_ranking, write_results
from lossbench.tuning.trials import POLL_SECS, Trial, TrialStore

_WORST = 0.0  # accuracy of trials that failed or diverged


def with_values(config, values: dict[str, float], *, seed: int):
  """The configuration of one run of a trial.

  Raises:
    ValueError: if a value is not legal, as may be at the end of an extension.
  """
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(values)
  changed.seed = seed
  legal.check_config(changed)
  return changed


def run_trial(
  config, values: dict[str, float], *, num_seeds: int, directory: pathlib.Path
):
  """Trains all seeds of a point; returns the last evaluation's mean over seeds.

  Raises:
    FloatingPointError: if a run diverges.
  """
  from lossbench.train import loop

  histories = []
  for seed in range(num_seeds):
    workdir = directory / f'seed{seed}'
    loop.train(with_values(config, values, seed=seed), workdir=str(workdir))
    histories.append(read_history(RunDirectory(workdir)))
  # The recipe's end: of each history only the last record.
  return best_epoch([history[-1:] for history in histories])


def point_name(dimensions, point: search.Point) -> str:
  """A directory's name."""
  values = search.values(dimensions, point)
  return ','.join(f'{k.split(".")[-1]}={v:g}' for k, v in values.items())


def tune(
  config,
  *,
  workdir: str | pathlib.Path,
  dimensions: Sequence[search.Dimension],
  num_seeds: int,
  storage: str = '',
) -> list[Trial]:
  """Runs the protocol to its end, together with whoever else does.

  Args:
    config: of the recipe and objective.
    workdir: of the runs, shared by all workers.
    dimensions: from `build_dimensions`.
    num_seeds: runs of every point.
    storage: URL of a database; '' for SQLite in the workdir.

  Returns:
    All trials, best first.

  Raises:
    ValueError: if the configuration keeps no holdout or is refused, or the
      tuning in this place is another one.
  """
  from lossbench.train.checks import check_config

  check_config(config)
  if not config.num_holdout:
    raise ValueError(
      'Tuning looks at the holdout only, and this configuration keeps none. Set '
      '--config.num_holdout.'
    )
  if is_remote(workdir):
    raise ValueError(
      f'--workdir={workdir} is in a bucket, which holds no database. Tune in a '
      'local directory; many workers share trials by --storage.'
    )
  root = pathlib.Path(workdir).expanduser()
  root.mkdir(parents=True, exist_ok=True)
  protocol = {
    'dimensions': [dataclasses.asdict(d) for d in dimensions],
    'num_seeds': num_seeds,
    # A database may hold the tunings of many directories of one name.
    'config': what_decides_numbers(config),
  }
  for dimension in protocol['dimensions']:
    dimension['maximum'] = str(dimension['maximum'])  # JSON has no infinity
  _check_config_file(root / 'config.json', config)
  store = TrialStore(
    storage or f'sqlite:///{root.absolute()}/tuning.db',
    name=root.name,
    protocol=protocol,
  )
  began, num_done = time.monotonic(), 0
  while True:
    store.give_up_dead_trials()
    results = {trial.point: trial.accuracy for trial in store.finished()}
    progress = search.pending_points(dimensions, results)
    if progress.stage == 'done':
      break
    if progress.stage != 'coarse' and all(t.error for t in store.finished()):
      break  # extending a grid of failures finds nothing
    running = store.running()
    free = [point for point in progress.pending if point not in running]
    if not free:
      time.sleep(POLL_SECS)
      continue
    point = free[0]
    values = search.values(dimensions, point)
    trial = store.claim(point, values)
    if trial is None:
      continue
    left = '?'
    if num_done:
      secs = (time.monotonic() - began) / num_done
      left = format_duration(secs * len(free))
    LOGGER.info(
      '%s grid: %s (%d points left in it, ETA %s)',
      progress.stage,
      override_line(values),
      len(free),
      left,
    )
    directory = root / 'runs' / point_name(dimensions, point)
    _do_trial(store, trial, config, values, num_seeds, directory)
    num_done += 1
  finished = store.finished()
  best = progress.best
  # The winner is the fine grid's; the coarse grid's best is one of its points.
  return sorted(finished, key=lambda t: (t.point != best, -t.accuracy, t.point))


def _do_trial(store, trial, config, values, num_seeds, directory):
  """One trial; whatever goes wrong in training counts as the worst result.

  Raises:
    OSError: if data are missing or the disk is full, which says nothing of the
      hyperparameters; the trial's point is free again.
  """
  try:
    with store.alive(trial), _quiet():
      result = run_trial(
        config, values, num_seeds=num_seeds, directory=directory
      )
  except BlockingIOError:
    # Its run directory is in use: a worker that was thought dead is alive.
    store.give_up(trial)
    time.sleep(POLL_SECS)
    return
  except OSError:
    store.give_up(trial)
    raise
  except Exception as error:
    message = ' '.join(str(error).split()) or type(error).__name__
    LOGGER.warning('failed, counts as the worst: %s', message)
    store.finish(trial, _WORST, error=message)
    return
  LOGGER.info('holdout accuracy %.4f', result.mean)
  store.finish(trial, result.mean, standard_error=result.standard_error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps the runs' own lines from the terminal."""
  level = LOGGER.level
  LOGGER.setLevel('WARNING')
  try:
    yield
  finally:
    LOGGER.setLevel(level)


def _check_config_file(path: pathlib.Path, config):
  """The configuration that all trials change: one for all workers."""
  import ml_collections

  from lossbench.runs.directory import read_json

  if path.exists():
    old = ml_collections.ConfigDict(read_json(path))
    names = [name for name, *_ in differing_fields(old, config)]
    if names:
      raise ValueError(
        f'{path.parent} holds the tuning of a configuration that differs in '
        f'{", ".join(names)}. Choose another --workdir.'
      )
    return
  write_json(path, json.loads(config.to_json()))


def _check_any_success(trials: Sequence[Trial]):
  if all(trial.error for trial in trials):
    raise ValueError(
      f'All of the {len(trials)} trials failed, so there is no best one. The '
      f'first: {trials[0].error} Correct it, and tune in another --workdir.'
    )


def check_ranges(config, dimensions: Sequence[search.Dimension]):
  """Refuses ranges with values that the configuration may not have.

  Raises:
    ValueError: naming the field, the value and the remedy.
  """
  for dimension in dimensions:
    field = legal.get_field(config, dimension.field)
    for coordinate in (0, dimension.coarse()[-1]):
      legal.check_value(field, dimension.value(coordinate), flag='--search ')


def define_flags():
  """Not at import, so that binaries can import one another."""
  config_flags.DEFINE_config_file(
    'config', None, 'Recipe and objective, as for main.py.', lock_config=True
  )
  flags.DEFINE_string('workdir', None, 'Directory of the tuning.')
  flags.DEFINE_integer(
    'num_seeds', 5, 'Runs of every point, averaged.', lower_bound=1
  )
  flags.DEFINE_multi_string(
    'search',
    [],
    'FIELD=LOW:HIGH:STEP in powers of ten; repeat for several fields. LOW = HIGH '
    'holds a field fixed.',
  )
  flags.DEFINE_multi_string(
    'search_linear', [], 'FIELD=LOW:HIGH:STEP in plain numbers.'
  )
  flags.DEFINE_string(
    'storage',
    '',
    "URL of the trials' database, e.g. postgresql://user@host/tuning, for "
    'workers without a common disk; default: SQLite in the workdir.',
  )


def main(argv):
  args = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  root = pathlib.Path(args.workdir).expanduser()
  try:
    legal.check_config(args.config)
    ranges = [parse_range(text, log=True) for text in args.search]
    ranges += [parse_range(text, log=False) for text in args.search_linear]
    dimensions = build_dimensions(args.config, ranges)
    check_ranges(args.config, dimensions)
    console.configure()
    trials = tune(
      args.config,
      workdir=root,
      dimensions=dimensions,
      num_seeds=args.num_seeds,
      storage=args.storage,
    )
    _check_any_success(trials)
    print_ranking(dimensions, trials, console.output())
    command = shlex.join(['python', '-m', 'lossbench.tune', *sys.argv[1:]])
    write_results(root, dimensions, trials, command=command)
  except ModuleNotFoundError as error:
    sys.exit(
      f"Error: tuning needs {error.name}: pip install -e '.[tune]' (in the "
      'checkout).'
    )
  except KeyboardInterrupt:
    sys.exit('Interrupted. Run the same command again to continue.')
  except (ValueError, OSError) as error:
    console.fail(error)
  LOGGER.info('Wrote %s and tuning.png', root / 'tuning.json')


if __name__ == '__main__':
  define_flags()
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=console.parse_flags)
