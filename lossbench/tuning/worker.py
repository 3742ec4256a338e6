"""One worker of a tuning: claims points, trains their runs, books results."""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator, Sequence

from configs import legal
from lossbench.runs.directory import (
  RunDirectory,
  differing_fields,
  what_decides_numbers,
  write_json,
)
from lossbench.runs.history import best_epoch, read_history
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import format_duration
from lossbench.runtime.storage import is_remote
from lossbench.tuning import search
from lossbench.tuning.ranges import override_line
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


def check_any_success(trials: Sequence[Trial]):
  if all(trial.error for trial in trials):
    raise ValueError(
      f'All of the {len(trials)} trials failed, so there is no best one. The '
      f'first: {trials[0].error} Correct it, and tune in another --workdir.'
    )
