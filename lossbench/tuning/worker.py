"""One of the workers of a tuning: tries points until the search is done."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections

from lossbench.runs.directory import (
  RunDirectory,
  differing_fields,
  read_json,
  what_decides_numbers,
  write_json,
)
from lossbench.runs.history import BestEpoch, best_epoch, read_history
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import format_duration
from lossbench.runtime.storage import Path, as_path, is_remote
from lossbench.tuning import search
from lossbench.tuning.ranges import override_line
from lossbench.tuning.trials import Timing, Trial, TrialStore


@dataclasses.dataclass(frozen=True)
class Tuning:
  """A search that is done.

  Attributes:
    trials: best first.
    edges: of what was tried, beyond which better values may lie.
    num_ties: other points of the fine grid that are as good as the best.
  """

  trials: tuple[Trial, ...]
  edges: tuple[search.Edge, ...]
  num_ties: int


def with_values(config, values: dict[str, float], *, seed: int):
  """The configuration of one run of a point."""
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(values)
  changed.seed = seed
  return changed


def train_point(
  config,
  values: dict[str, float],
  *,
  num_seeds: int,
  directory: pathlib.Path,
  allow: Sequence[str] = (),
) -> BestEpoch:
  """Trains all seeds of a point; the last evaluation's mean over seeds.

  Args:
    config: of the recipe.
    values: of the point, field -> value.
    num_seeds: runs.
    directory: of the runs.
    allow: as `train.loop.train`.

  Raises:
    FloatingPointError: if a run diverges.
    ValueError, OSError, Preempted: see `train.loop.train`.
  """
  from lossbench.train import loop

  histories = []
  for seed in range(num_seeds):
    workdir = directory / f'seed{seed}'
    loop.train(
      with_values(config, values, seed=seed),
      workdir=str(workdir),
      allow=allow,
    )
    histories.append(read_history(RunDirectory(workdir)))
  # The recipe's end: of each history only the last record.
  return best_epoch([history[-1:] for history in histories])


def point_name(values: dict[str, float]) -> str:
  """A directory's name."""
  return ','.join(f'{k.split(".")[-1]}={v:g}' for k, v in values.items())


def tune(
  config,
  *,
  workdir: str | pathlib.Path,
  dimensions: Sequence[search.Dimension],
  num_seeds: int,
  storage: str = '',
  timing: Timing = Timing(),  # noqa: B008, it is frozen
  train_point_fn: Callable[..., BestEpoch] = train_point,
) -> Tuning:
  """Runs the protocol to its end, together with whoever else does.

  A loss that is not finite is the worst result. No other failure says anything
  of the hyperparameters, whose values are legal: data that are missing or
  damaged, a full disk, a package that is not installed, a fault of the program.
  It ends this worker, and leaves the point to others and to the next call.

  Args:
    config: of the recipe and objective.
    workdir: of the runs, shared by all workers; on a disk or in a bucket.
    dimensions: from `build_dimensions`.
    num_seeds: runs of every point.
    storage: URL of a database; '' for SQLite in a workdir on a disk.
    timing: of workers that share the trials.
    train_point_fn: called like `train_point`.

  Raises:
    ValueError: if the configuration keeps no holdout or is refused, or the
      tuning in this place is another one, or all points diverge, or SQLite is
      wanted of a bucket.
    OSError: if the workdir cannot be written to, or the database is away.
  """
  if is_remote(workdir) and not storage:
    raise ValueError(
      f'--workdir={workdir} is in a bucket, which holds no SQLite. Give '
      '--storage=postgresql://user@host/tuning, or for the workers of one '
      'machine --storage=sqlite:////DIRECTORY/tuning.db.'
    )
  root = _claim_directory(config, workdir)
  store = TrialStore(
    storage or f'sqlite:///{root.absolute()}/tuning.db',
    name=root.name,
    protocol=_protocol(config, dimensions, num_seeds),
    timing=timing,
  )
  began, num_done = time.monotonic(), 0
  in_use: dict[search.Point, float] = {}  # point -> when to look again
  while True:
    store.give_up_dead_trials()
    trials = store.finished()
    progress = _progress(dimensions, trials)
    if progress.stage == 'done':
      break
    running = store.running()
    left = [point for point in progress.pending if point not in running]
    free = [p for p in left if in_use.get(p, 0) < time.monotonic()]
    if not free:
      time.sleep(timing.poll_secs)
      continue
    values = search.values(dimensions, free[0])
    number = store.claim(free[0], values)
    if number is None:
      continue
    LOGGER.info(
      '%s grid: %s (%d points left in it, ETA %s)',
      progress.stage,
      override_line(values),
      len(left),
      _remaining(began, num_done, len(left)),
    )
    train_fn = functools.partial(
      train_point_fn,
      config,
      values,
      num_seeds=num_seeds,
      directory=root / 'runs' / point_name(values),
    )
    try:
      _try_point(store, number, train_fn)
    except BlockingIOError as error:
      # Its worker was given up, but is only suspended.
      LOGGER.info('%s', error)
      in_use[free[0]] = time.monotonic() + timing.grace_secs
    else:
      num_done += 1
  trials.sort(key=lambda t: (t.point != progress.best, -t.score, t.point))
  return Tuning(tuple(trials), progress.edges, progress.num_ties)


def _claim_directory(config, workdir: str | pathlib.Path) -> Path:
  """Makes the directory of the tuning of a configuration, for all workers."""
  from lossbench.train.checks import check_config

  check_config(config)
  if not config.num_holdout:
    raise ValueError(
      'Tuning looks at the holdout only, and this configuration keeps none. Set '
      '--config.num_holdout.'
    )
  root = as_path(workdir)
  root.mkdir(parents=True, exist_ok=True)
  path = root / 'config.json'
  if not path.exists():
    write_json(path, json.loads(config.to_json()))
    return root
  old = read_json(path, remedy='Delete it: the next call writes it anew.')
  old = ml_collections.ConfigDict(old)
  names = [name for name, *_ in differing_fields(old, config)]
  if names:
    raise ValueError(
      f'{root} holds the tuning of a configuration that differs in '
      f'{", ".join(names)}. Choose another --workdir.'
    )
  return root


def _protocol(config, dimensions, num_seeds: int) -> dict[str, Any]:
  """What must be the same for all workers, as JSON."""
  return {
    'dimensions': [[d.field, d.low, d.high, d.step, d.log] for d in dimensions],
    'num_seeds': num_seeds,
    # A database may hold the tunings of many directories of one name.
    'config': what_decides_numbers(config),
  }


def _progress(dimensions, trials: Sequence[Trial]) -> search.Progress:
  """Where the search stands.

  Raises:
    ValueError: if the whole coarse grid diverged.
  """
  results = {trial.point: trial.score for trial in trials}
  progress = search.pending_points(dimensions, results)
  if progress.stage != 'coarse' and all(t.divergence for t in trials):
    raise ValueError(
      f'All of the {len(trials)} points diverged, so there is no best one. The '
      f'first: {trials[0].divergence} Search other values (--search) in another '
      '--workdir.'
    )
  return progress


def _remaining(began: float, num_done: int, num_left: int) -> str:
  if not num_done:
    return '?'
  return format_duration((time.monotonic() - began) / num_done * num_left)


def _try_point(
  store: TrialStore, number: int, train_fn: Callable[[], BestEpoch]
):
  """Runs a trial to its end; whatever ends it early gives its point back.

  Raises:
    BaseException: whatever `train_fn` does, but FloatingPointError.
  """
  try:
    with store.alive(number), _quiet():
      found = train_fn()
    result = {'accuracy': found.mean, 'standard_error': found.standard_error}
    LOGGER.info('holdout accuracy %.4f', found.mean)
  except FloatingPointError as error:
    result = {'accuracy': None, 'divergence': ' '.join(str(error).split())}
    LOGGER.warning('diverged, counts as the worst: %s', error)
  except BaseException:
    # Whoever asks us to stop does not wait for a database.
    with contextlib.suppress(OSError):
      store.give_up(number, patient=False)
    raise
  if not store.finish(number, **result):
    # Its runs are there, and continued by whoever tries the point next.
    LOGGER.warning('Suspended for too long: the point was given to others.')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps the runs' own lines from the terminal."""
  level = LOGGER.level
  LOGGER.setLevel('WARNING')
  try:
    yield
  finally:
    LOGGER.setLevel(level)
