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
import os
import pathlib
import shlex
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import rich.console
import rich.table
from absl import app, flags
from ml_collections import config_flags

from lossbench import console, search
from lossbench.console import LOGGER
from lossbench.early_stopping import best_epoch, read_history
from lossbench.run_directory import (
  RunDirectory,
  differing_fields,
  what_decides_numbers,
  write_json,
)
from lossbench.storage import is_remote
from lossbench.train.progress import format_duration

_BEAT_SECS = 10  # between the signs of life of a worker
_GRACE_SECS = 60  # without one its trial is another's
_POLL_SECS = 1
_NUM_ATTEMPTS = 4  # at opening the database
_WORST = 0.0  # accuracy of trials that failed or diverged
_NUM_RANKED = 10

_LEARNING_RATE = (-2.0, 0.5, 0.5)
_WEIGHT_DECAY = (-4.5, -3.0, 0.5)


@dataclasses.dataclass(frozen=True)
class _Range:
  low: float
  high: float
  step: float
  log: bool = True
  maximum: float = float('inf')


# Of an objective's own hyperparameters.
_HPARAMS = {
  'alpha': _Range(0.05, 0.2, 0.05, log=False, maximum=0.95),
  'keep_prob': _Range(0.5, 0.9, 0.1, log=False, maximum=1.0),
  'lambda_final': _Range(-4.0, -2.0, 0.5),
  'beta': _Range(-4.0, -2.0, 0.5),
  'temperature': _Range(-1.5, -0.5, 0.25),
  'kappa': _Range(0.0, 1.0, 0.5),
  'target_logit': _Range(0.0, 1.5, 0.5),
  'scale': None,  # a convention of the loss, held at the recipe's value
  'gamma': _Range(1.0, 3.0, 1.0, log=False),
  'epsilon': _Range(1.0, 3.0, 1.0, log=False),
  'margin': _Range(0.1, 0.5, 0.1, log=False, maximum=1.5),
}


def parse_range(text: str, *, log: bool) -> search.Dimension:
  """'FIELD=LOW:HIGH:STEP' -> a dimension.

  Raises:
    ValueError: if it is not, or the range is empty.
  """
  field, _, numbers = text.partition('=')
  try:
    low, high, step = (float(number) for number in numbers.split(':'))
  except ValueError as error:
    flag = '--search' if log else '--search_linear'
    raise ValueError(
      f'{flag}={text} is not FIELD=LOW:HIGH:STEP, e.g. learning_rate=-2:0.5:0.5'
      ' in powers of ten.'
    ) from error
  maximum = getattr(_HPARAMS.get(field.split('.')[-1]), 'maximum', float('inf'))
  return search.Dimension(field, low, high, step, log=log, maximum=maximum)


def build_dimensions(
  config, ranges: Sequence[search.Dimension] = ()
) -> tuple[search.Dimension, ...]:
  """What is searched: the protocol's fields, changed by `ranges`.

  Args:
    config: of the recipe and objective.
    ranges: replace the default of their fields, or come on top.

  Raises:
    ValueError: if a field is not a number of the configuration.
  """
  found = {
    'learning_rate': search.Dimension('learning_rate', *_LEARNING_RATE),
    'weight_decay': search.Dimension('weight_decay', *_WEIGHT_DECAY),
  }
  for part, hparams in config.objective.items():
    if part == 'name':
      continue
    for name in hparams:
      field, default = f'objective.{part}.{name}', _HPARAMS[name]
      if default is None:
        default = _Range(hparams[name], hparams[name], 1.0, log=False)
      found[field] = search.Dimension(field, **dataclasses.asdict(default))
  for dimension in ranges:
    _check_number(config, dimension.field)
    found[dimension.field] = dimension
  return tuple(found.values())


def _check_number(config, field: str):
  node: Any = config
  for name in field.split('.'):
    node = node.get(name) if hasattr(node, 'get') else None
  if not isinstance(node, float):
    raise ValueError(
      f'--search: {field!r} is not a field of this configuration that holds a '
      'fraction. Hyperparameters are called objective.<part>.<name>.'
    )


def with_values(config, values: dict[str, float], *, seed: int):
  """The configuration of one run of a trial."""
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(values)
  changed.seed = seed
  return changed


def override_line(values: dict[str, float]) -> str:
  """What to add to main.py's command line to get these values."""
  return ' '.join(f'--config.{k}={v:.9g}' for k, v in values.items())


@dataclasses.dataclass(frozen=True)
class Trial:
  """A finished trial.

  Attributes:
    point: its coordinates.
    accuracy: mean over seeds on the holdout; 0 if it failed.
    standard_error: of the mean; None of one seed or a failure.
    error: why it failed, or ''.
  """

  point: search.Point
  accuracy: float
  standard_error: float | None
  error: str


class TrialStore:
  """The trials of one tuning, shared by all of its workers.

  A point is claimed by starting a trial for it; of several trials of one point
  the first keeps it. A worker gives signs of life; trials of the dead are given
  up, and their points tried again, which continues their runs.

  Args:
    url: of a database, as Optuna takes it.
    name: of the study in it.
    protocol: what must be the same for all workers, as JSON.

  Raises:
    ValueError: if the database cannot be opened, or the study in it has another
      protocol.
  """

  def __init__(self, url: str, *, name: str, protocol: dict[str, Any]):
    import optuna
    import sqlalchemy.exc

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # What it calls experimental is pinned and tested here.
    warnings.filterwarnings('ignore', module='optuna')
    warnings.filterwarnings(
      'ignore', category=optuna.exceptions.ExperimentalWarning
    )
    self._optuna = optuna
    self._worker = f'{socket.gethostname()}:{os.getpid()}'
    for attempts_left in reversed(range(_NUM_ATTEMPTS)):
      try:
        self._storage, self._study = self._open(url, name)
        break
      except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        # Workers that start at once get in one another's way at the first.
        if not attempts_left:
          reason = str(error).splitlines()[0]
          raise ValueError(
            f'--storage={url} cannot be opened: {reason}'
          ) from error
        time.sleep(_POLL_SECS)
    self._nameless: dict[int, float] = {}
    self._check_protocol(protocol)

  def _open(self, url: str, name: str):
    optuna = self._optuna
    storage = optuna.storages.RDBStorage(
      url,
      heartbeat_interval=_BEAT_SECS,
      grace_period=_GRACE_SECS,
      # Several workers may write at once; SQLite makes the others wait.
      engine_kwargs=(
        {'connect_args': {'timeout': 60}} if url.startswith('sqlite') else {}
      ),
    )
    return storage, optuna.create_study(
      storage=storage,
      study_name=name,
      direction='maximize',
      load_if_exists=True,
    )

  def _check_protocol(self, protocol):
    found = self._study.user_attrs.get('protocol')
    if found is None:
      self._study.set_user_attr('protocol', protocol)
    elif found != protocol:
      differing = sorted(
        name
        for name in found.keys() | protocol.keys()
        if found.get(name) != protocol.get(name)
      )
      raise ValueError(
        f'This tuning was begun with another {", ".join(differing)}. Choose '
        'another --workdir (and --storage), or the same command to continue.'
      )

  def _trials(self):
    return self._study.get_trials(deepcopy=False)

  @staticmethod
  def _point(trial) -> search.Point | None:
    found = trial.user_attrs.get('point')
    return None if found is None else tuple(found)

  def finished(self) -> list[Trial]:
    """All trials with a result, in order."""
    states = self._optuna.trial.TrialState
    trials = [t for t in self._trials() if t.state == states.COMPLETE]
    return [
      Trial(
        self._point(trial),
        trial.value,
        trial.user_attrs.get('standard_error'),
        trial.user_attrs.get('error', ''),
      )
      for trial in trials
    ]

  def running(self) -> set[search.Point]:
    """Points that are being tried by living workers."""
    states = self._optuna.trial.TrialState
    return {
      self._point(trial)
      for trial in self._trials()
      if trial.state == states.RUNNING and self._point(trial) is not None
    }

  def give_up_dead_trials(self):
    """Frees the points of workers that have died."""
    self._optuna.storages.fail_stale_trials(self._study)
    host = socket.gethostname()
    states = self._optuna.trial.TrialState
    for trial in self._trials():
      if trial.state == states.RUNNING and self._is_abandoned(trial):
        self._fail(trial)
      name, _, pid = trial.user_attrs.get('worker', '').partition(':')
      if trial.state != states.RUNNING or name != host or not pid:
        continue
      if not _is_alive(int(pid)):
        self._fail(trial)

  def _fail(self, trial):
    with contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
      self._storage.set_trial_state_values(
        trial._trial_id, state=self._optuna.trial.TrialState.FAIL
      )

  def _is_abandoned(self, trial) -> bool:
    """Whether its worker died before it could say which point it took."""
    if self._point(trial) is not None:
      return False
    # By our own clock, for hosts may disagree on the time.
    seen = self._nameless.setdefault(trial.number, time.monotonic())
    return time.monotonic() - seen > _GRACE_SECS

  def claim(self, point: search.Point, values: dict[str, float]):
    """Starts a trial of a point; None if another worker has it."""
    optuna = self._optuna
    self._study.sampler = optuna.samplers.PartialFixedSampler(
      values, optuna.samplers.RandomSampler()
    )
    trial = self._study.ask(
      {
        name: optuna.distributions.FloatDistribution(
          min(0.0, value), max(1.0, 2 * value)
        )
        for name, value in values.items()
      }
    )
    trial.set_user_attr('worker', self._worker)
    trial.set_user_attr('point', list(point))
    states = optuna.trial.TrialState
    while True:
      earlier = [
        t
        for t in self._trials()
        if t.number < trial.number
        and t.state in (states.RUNNING, states.COMPLETE)
      ]
      if any(self._point(t) == point for t in earlier):
        self._study.tell(trial, state=states.FAIL)
        return None
      if all(self._point(t) is not None for t in earlier):
        return trial
      # Another is about to say which point it has taken, or is dead.
      time.sleep(0.05)
      self.give_up_dead_trials()

  @contextlib.contextmanager
  def alive(self, trial) -> Iterator[None]:
    """Gives signs of life of a trial."""
    stop = threading.Event()

    def beat():
      while not stop.is_set():
        self._storage.record_heartbeat(trial._trial_id)
        stop.wait(_BEAT_SECS)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
      yield
    finally:
      stop.set()
      thread.join()

  def finish(self, trial, accuracy: float, **attributes):
    """Records a trial's result."""
    for name, value in attributes.items():
      trial.set_user_attr(name, value)
    self._study.tell(trial, accuracy)

  def give_up(self, trial):
    """Frees the point of a trial of ours."""
    self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


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
  from lossbench.train.plan import check_config

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
      time.sleep(_POLL_SECS)
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
    time.sleep(_POLL_SECS)
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

  from lossbench.run_directory import read_json

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


def write_results(
  root: pathlib.Path,
  dimensions: Sequence[search.Dimension],
  trials: Sequence[Trial],
  *,
  command: str,
):
  """Writes tuning.json and tuning.png."""
  write_json(
    root / 'tuning.json',
    {
      'command': command,
      'overrides': override_line(search.values(dimensions, trials[0].point)),
      'trials': [
        {
          'values': search.values(dimensions, trial.point),
          'holdout_accuracy': trial.accuracy,
          'standard_error': trial.standard_error,
          'error': trial.error,
        }
        for trial in trials
      ],
    },
  )
  draw_grid(root / 'tuning.png', dimensions, trials)


def draw_grid(path: pathlib.Path, dimensions, trials: Sequence[Trial]):
  """Accuracy over every pair of searched dimensions, the best over the others."""
  import itertools

  import numpy as np
  from matplotlib.figure import Figure

  searched = [
    i
    for i in range(len(dimensions))
    if len({trial.point[i] for trial in trials}) > 1
  ]
  pairs = list(itertools.combinations(searched, 2))
  pairs = pairs or [(i, i) for i in searched] or [(0, 0)]
  figure = Figure(figsize=(5.6 * len(pairs), 4.6), layout='constrained')
  panels = figure.subplots(1, len(pairs), squeeze=False)[0]
  shown = [100 * t.accuracy for t in trials if not t.error]
  low, high = (min(shown), max(shown)) if shown else (0, 100)
  for axes, (i, j) in zip(panels, pairs, strict=True):
    x, y = (
      np.array([d.value(t.point[k]) for t in trials])
      for k, d in ((i, dimensions[i]), (j, dimensions[j]))
    )
    order = np.argsort([t.accuracy for t in trials])  # the best on top
    failed = np.array([bool(t.error) for t in trials])[order]
    values = np.array([100 * t.accuracy for t in trials])[order]
    x, y = x[order], y[order]
    image = axes.scatter(
      x[~failed],
      y[~failed],
      c=values[~failed],
      s=220,
      marker='s',
      cmap='viridis',
      vmin=low,
      vmax=high,
    )
    axes.scatter(x[failed], y[failed], marker='x', color='#a40000', zorder=0)
    best = trials[0].point
    axes.scatter(
      dimensions[i].value(best[i]),
      dimensions[j].value(best[j]),
      marker='o',
      s=420,
      facecolor='none',
      edgecolor='#d62728',
      linewidth=2,
    )
    for axis, k in (('x', i), ('y', j)):
      if dimensions[k].log:
        getattr(axes, f'set_{axis}scale')('log')
      getattr(axes, f'set_{axis}label')(dimensions[k].field)
    axes.margins(0.12)
    figure.colorbar(image, ax=axes, label='holdout accuracy (%)')
  figure.suptitle('circle: chosen; ×: failed', fontsize='medium')
  figure.savefig(path, dpi=110)


def print_ranking(
  dimensions: Sequence[search.Dimension],
  trials: Sequence[Trial],
  output: rich.console.Console,
):
  """Prints the best trials and the overrides of the winner."""
  table = rich.table.Table(
    title=f'{len(trials)} trials, the best by holdout accuracy',
    title_justify='left',
  )
  for dimension in dimensions:
    table.add_column(
      dimension.field.removeprefix('objective.'), justify='right'
    )
  table.add_column('holdout accuracy', justify='right')
  for trial in trials[:_NUM_RANKED]:
    error = trial.standard_error
    accuracy = f'{trial.accuracy:.4f}'
    if error is not None:
      accuracy += f' ± {error:.4f}'
    values = search.values(dimensions, trial.point)
    table.add_row(
      *[f'{value:.4g}' for value in values.values()],
      trial.error[:60] if trial.error else accuracy,
    )
  output.print(table)
  num_failed = sum(bool(trial.error) for trial in trials)
  if num_failed:
    output.print(f'{num_failed} trials failed or diverged.')
  output.print('Reproduce the best with:', highlight=False)
  winner = search.values(dimensions, trials[0].point)
  output.print(override_line(winner), highlight=False, soft_wrap=True)


def _check_any_success(trials: Sequence[Trial]):
  if all(trial.error for trial in trials):
    raise ValueError(
      f'All of the {len(trials)} trials failed, so there is no best one. The '
      f'first: {trials[0].error} Correct it, and tune in another --workdir.'
    )


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
  console.configure()
  root = pathlib.Path(args.workdir).expanduser()
  try:
    ranges = [parse_range(text, log=True) for text in args.search]
    ranges += [parse_range(text, log=False) for text in args.search_linear]
    dimensions = build_dimensions(args.config, ranges)
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
