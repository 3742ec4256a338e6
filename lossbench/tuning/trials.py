"""Trials of a tuning, kept by Optuna and shared by workers."""

import contextlib
import dataclasses
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

from lossbench.tuning import search

_BEAT_SECS = 10  # between the signs of life of a worker
_GRACE_SECS = 60  # without one its trial is another's
_NUM_ATTEMPTS = 4  # at opening the database
POLL_SECS = 1


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
        time.sleep(POLL_SECS)
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
