"""One of the workers of a tuning: tries points until the search is done."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import math
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


# Of a point: a loss that is not finite, or another process that trains it.
Outcome = BestEpoch | FloatingPointError | BlockingIOError


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

  for seed in range(num_seeds):
    workdir = _seed_directory(directory, seed)
    loop.train(
      with_values(config, values, seed=seed), workdir=workdir, allow=allow
    )
  return _read_result(directory, num_seeds)


def train_points(
  config,
  points: Sequence[dict[str, float]],
  *,
  num_seeds: int,
  directories: Sequence[pathlib.Path],
  num_runs: int,
  allow: Sequence[str] = (),
) -> list[Outcome]:
  """Trains all seeds of several points, `num_runs` at once on a device each.

  Of a point that diverges no further seed is begun.

  Raises:
    ValueError, OSError, Stopped: see `train.loop.train` and
      `train.side_by_side.train_side_by_side`.
  """
  from lossbench.train import loop
  from lossbench.train.side_by_side import train_side_by_side

  tasks = collections.deque(
    itertools.product(range(len(points)), range(num_seeds))
  )
  errors: dict[int, dict[int, Exception]] = collections.defaultdict(dict)

  def take(device):
    del device
    while tasks:
      point, seed = tasks.popleft()
      if point not in errors:
        return point, seed
    return None

  def train(device, task, notice):
    del device
    point, seed = task
    try:
      loop.train(
        with_values(config, points[point], seed=seed),
        workdir=_seed_directory(directories[point], seed),
        allow=allow,
        notice=notice,
      )
    except (FloatingPointError, BlockingIOError) as error:
      errors[point][seed] = error

  train_side_by_side(take, train, num_runs=num_runs)
  return [
    errors[point][min(errors[point])]
    if point in errors
    else _read_result(directory, num_seeds)
    for point, directory in enumerate(directories)
  ]


def _seed_directory(directory: pathlib.Path, seed: int) -> str:
  return str(directory / f'seed{seed}')


def _read_result(directory: pathlib.Path, num_seeds: int) -> BestEpoch:
  histories = [
    read_history(RunDirectory(_seed_directory(directory, seed)))
    for seed in range(num_seeds)
  ]
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
  runs_per_program: str = '1',
  train_point_fn: Callable[..., BestEpoch] = train_point,
  train_points_fn: Callable[..., list[Outcome]] = train_points,
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
    runs_per_program: how many runs this worker trains at once, each on one
      device: 'auto' or a number; 1 for one on all of its devices.
    train_point_fn: called like `train_point` where that is 1,
    train_points_fn: and like `train_points` where it is not.

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
  num_runs = _num_runs_at_once(config, runs_per_program)
  root = _claim_directory(config, workdir, alone=num_runs > 1)
  train_fn = _create_train_fn(
    config,
    root=root / 'runs',
    num_seeds=num_seeds,
    num_runs=num_runs,
    train_point_fn=train_point_fn,
    train_points_fn=train_points_fn,
  )
  # As many points as keep all devices busy to their end.
  num_points = num_runs // math.gcd(num_runs, num_seeds)
  store = TrialStore(
    storage or f'sqlite:///{root.absolute()}/tuning.db',
    name=root.name,
    protocol=_protocol(config, dimensions, num_seeds),
    timing=timing,
  )
  return _work_off(
    store, dimensions, train_fn, num_points=num_points, timing=timing
  )


def _work_off(
  store: TrialStore,
  dimensions: Sequence[search.Dimension],
  train_fn: Callable[[Sequence[dict[str, float]]], list[Outcome]],
  *,
  num_points: int,
  timing: Timing,
) -> Tuning:
  """Tries points, a few at a time, until the protocol wants no more."""
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
    claims = _claim(store, dimensions, free[:num_points])
    values = [search.values(dimensions, point) for point in claims]
    eta = _remaining(began, num_done, len(left))
    _announce(values, f'{len(left)} points left in it, ETA {eta}', progress)
    outcomes = _try_points(
      store, list(claims.values()), functools.partial(train_fn, values)
    )
    for point, outcome in zip(claims, outcomes, strict=True):
      if isinstance(outcome, BlockingIOError):
        # Its worker was given up, but is only suspended.
        in_use[point] = time.monotonic() + timing.grace_secs
      else:
        num_done += 1
  trials.sort(key=lambda t: (t.point != progress.best, -t.score, t.point))
  return Tuning(tuple(trials), progress.edges, progress.num_ties)


def _num_runs_at_once(config, runs_per_program: str) -> int:
  if runs_per_program == '1':
    return 1
  # Not above: it imports TensorFlow.
  from lossbench.train.side_by_side import num_runs_at_once

  return num_runs_at_once(runs_per_program, [config])


def _claim(
  store: TrialStore, dimensions, points: Sequence[search.Point]
) -> dict[search.Point, int]:
  """Point -> number of our trial, of those that no other worker has."""
  claims = {}
  for point in points:
    number = store.claim(
      point, search.values(dimensions, point), beside=claims.values()
    )
    if number is not None:
      claims[point] = number
  return claims


def _announce(all_values, left: str, progress: search.Progress):
  for values in all_values:
    LOGGER.info('%s grid: %s (%s)', progress.stage, override_line(values), left)


def _create_train_fn(
  config,
  *,
  root: Path,
  num_seeds: int,
  num_runs: int,
  train_point_fn,
  train_points_fn,
) -> Callable[[Sequence[dict[str, float]]], list[Outcome]]:
  """Values of points -> what came of them."""

  def train_all(points):
    return train_points_fn(
      config,
      points,
      num_seeds=num_seeds,
      directories=[root / point_name(values) for values in points],
      num_runs=num_runs,
    )

  def train_each(points):
    return [train_one(values) for values in points]

  def train_one(values):
    directory = root / point_name(values)
    try:
      return train_point_fn(
        config, values, num_seeds=num_seeds, directory=directory
      )
    except (FloatingPointError, BlockingIOError) as error:
      return error

  return train_all if num_runs > 1 else train_each


def _claim_directory(
  config, workdir: str | pathlib.Path, *, alone: bool
) -> Path:
  """Makes the directory of the tuning of a configuration, for all workers."""
  from lossbench.train.checks import check_config

  if not alone:  # else it was checked for one device
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


def _try_points(
  store: TrialStore,
  numbers: Sequence[int],
  train_fn: Callable[[], list[Outcome]],
) -> list[Outcome]:
  """Runs trials to their end; whatever ends them early gives them back.

  Raises:
    BaseException: whatever `train_fn` does.
  """
  try:
    with contextlib.ExitStack() as stack:
      for number in numbers:
        stack.enter_context(store.alive(number))
      stack.enter_context(_quiet())
      outcomes = train_fn()
  except BaseException:
    for number in numbers:
      # Whoever asks us to stop does not wait for a database.
      with contextlib.suppress(OSError):
        store.give_up(number, patient=False)
    raise
  for number, outcome in zip(numbers, outcomes, strict=True):
    _record(store, number, outcome)
  return outcomes


def _record(store: TrialStore, number: int, outcome: Outcome):
  """Writes what came of a trial."""
  if isinstance(outcome, BlockingIOError):
    LOGGER.info('%s', outcome)
    with contextlib.suppress(OSError):
      store.give_up(number, patient=False)
    return
  if isinstance(outcome, FloatingPointError):
    LOGGER.warning('diverged, counts as the worst: %s', outcome)
    divergence = ' '.join(str(outcome).split())
    result = {'accuracy': None, 'divergence': divergence}
  else:
    LOGGER.info('holdout accuracy %.4f', outcome.mean)
    result = {
      'accuracy': outcome.mean,
      'standard_error': outcome.standard_error,
    }
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
