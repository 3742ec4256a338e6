"""Trials of a tuning, kept by Optuna and shared by workers."""

import contextlib
import dataclasses
import math
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Collection, Iterator
from typing import Any

from lossbench.runtime.console import LOGGER
from lossbench.tuning import search
from lossbench.tuning.database import Database


@dataclasses.dataclass(frozen=True)
class Timing:
  """How workers that share a tuning wait for one another.

  Attributes:
    beat_secs: between the signs of life of a worker.
    grace_secs: without one its trial is another's.
    patience_secs: how long the server of the database may be away.
    poll_secs: between looks at what others do.
  """

  beat_secs: float = 10
  grace_secs: float = 60
  patience_secs: float = 300
  poll_secs: float = 1


@dataclasses.dataclass(frozen=True)
class Trial:
  """A finished trial.

  Attributes:
    point: its coordinates.
    accuracy: mean over seeds on the holdout; None if a seed diverged.
    standard_error: of the mean; None of one seed or if one diverged.
    divergence: how it diverged, or ''.
  """

  point: search.Point
  accuracy: float | None
  standard_error: float | None
  divergence: str

  @property
  def score(self) -> float:
    """What is maximised; to diverge is worse than any accuracy."""
    return -math.inf if self.accuracy is None else self.accuracy


class TrialStore:
  """The trials of one tuning, shared by all of its workers.

  A point is claimed by starting a trial for it; of several trials of one point
  the first keeps it. A worker gives signs of life; trials of those that give
  none are given up, and their points tried again, which continues their runs. A
  worker that was only suspended learns from `finish` that its trial is gone.

  Args:
    url: of a database, as SQLAlchemy takes it.
    name: of the study in it.
    protocol: what must be the same for all workers, as JSON.
    timing: of signs of life.

  Raises:
    ValueError: if the database cannot be opened, or the study in it has another
      protocol.
  """

  # All methods raise OSError if the database does not answer.

  def __init__(
    self,
    url: str,
    *,
    name: str,
    protocol: dict[str, Any],
    timing: Timing = Timing(),
  ):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # What it calls experimental is pinned and tested here.
    warnings.filterwarnings('ignore', module='optuna')
    self._optuna = optuna
    self._states = optuna.trial.TrialState
    self._timing = timing
    self._worker = f'{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}'
    self._database = Database(
      url, patience_secs=timing.patience_secs, poll_secs=timing.poll_secs
    )
    self._storage, self._study, self._study_id = self._database.open(
      lambda: self._open(name)
    )
    self._claimed: set[int] = set()  # numbers of our trials
    self._looked = -math.inf
    # (number, beats) of a running trial -> since when we have seen just that.
    self._unchanged: dict[tuple[int, int], float] = {}
    self._check_protocol(protocol)

  def _open(self, name: str):
    storage = self._optuna.storages.RDBStorage(
      self._database.url, engine_kwargs=self._database.engine_options()
    )
    study = self._optuna.create_study(
      storage=storage,
      study_name=name,
      direction='maximize',
      load_if_exists=True,
    )
    return storage, study, storage.get_study_id_from_name(name)

  def _check_protocol(self, protocol):
    found = self._database.call(lambda: self._study.user_attrs).get('protocol')
    if found is None:
      self._database.call(self._study.set_user_attr, 'protocol', protocol)
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

  def _trials(self, *states):
    trials = self._database.call(self._study.get_trials, deepcopy=False)
    return [trial for trial in trials if trial.state in states]

  def finished(self) -> list[Trial]:
    """All trials with a result, in order."""
    return [
      Trial(
        _point(trial),
        # Optuna's value is a number in any case.
        None if trial.user_attrs['divergence'] else trial.value,
        trial.user_attrs['standard_error'],
        trial.user_attrs['divergence'],
      )
      for trial in self._trials(self._states.COMPLETE)
    ]

  def running(self) -> set[search.Point]:
    """Points that are being tried by living workers."""
    return {_point(trial) for trial in self._trials(self._states.RUNNING)}

  def give_up_dead_trials(self):
    """Frees the points of workers that have died."""
    running = self._trials(self._states.RUNNING)
    now = time.monotonic()
    if now - self._looked > self._timing.grace_secs / 2:
      # We were busy, suspended, or without the database, and so perhaps were
      # they: nobody is judged by what we have not watched.
      self._unchanged = {}
    self._looked = now
    unchanged = {}
    for trial in running:
      key = trial.number, trial.user_attrs['beats']
      unchanged[key] = self._unchanged.get(key, now)
      silent_secs = now - unchanged[key]
      if silent_secs > self._timing.grace_secs or self._is_gone(trial):
        self._end(trial.number, self._states.FAIL)
    self._unchanged = unchanged

  def _is_gone(self, trial) -> bool:
    """Whether we know, without waiting, that nobody works on it."""
    worker = trial.user_attrs['worker']
    if worker == self._worker:
      # Else a claim that was written although the database said nothing.
      return trial.number not in self._claimed
    host, pid, _ = worker.rsplit(':', maxsplit=2)
    return host == socket.gethostname() and not _is_alive(int(pid))

  def claim(
    self,
    point: search.Point,
    values: dict[str, float],
    *,
    beside: Collection[int] = (),
  ) -> int | None:
    """The number of a trial of a point; None if another worker has it.

    Args:
      point: to be tried.
      values: of its hyperparameters.
      beside: numbers of our other trials; those that are not among them nobody
        works on.
    """
    distribution = self._optuna.distributions.FloatDistribution
    # Whole at once, so that no worker can die between its parts.
    template = self._optuna.trial.create_trial(
      state=self._states.RUNNING,
      params=values,
      distributions={
        name: distribution(min(0.0, value), max(1.0, 2 * value))
        for name, value in values.items()
      },
      user_attrs={'point': list(point), 'worker': self._worker, 'beats': 0},
    )
    trial_id = self._database.call(
      self._storage.create_new_trial, self._study_id, template
    )
    number = self._database.call(
      self._storage.get_trial_number_from_id, trial_id
    )
    self._claimed = {*beside, number}
    if any(
      trial.number < number and _point(trial) == point
      for trial in self._trials(self._states.RUNNING, self._states.COMPLETE)
    ):
      self.give_up(number)
      return None
    return number

  @contextlib.contextmanager
  def alive(self, number: int) -> Iterator[None]:
    """Gives signs of life of a trial."""
    stop = threading.Event()
    trial_id = self._id(number)

    def beat():
      beats = 0
      while not stop.wait(self._timing.beat_secs):
        beats += 1
        try:
          self._storage.set_trial_user_attr(trial_id, 'beats', beats)
        except self._optuna.exceptions.UpdateFinishedTrialError:
          return  # given up by others; `finish` says so
        except Exception as error:
          # The next may come through; the main thread decides when to end.
          LOGGER.debug('No sign of life: %s', error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
      yield
    finally:
      stop.set()
      thread.join()

  def finish(
    self,
    number: int,
    *,
    accuracy: float | None,
    standard_error: float | None = None,
    divergence: str = '',
  ) -> bool:
    """Records a trial's result; see `Trial`.

    Returns:
      False if the trial had been given up meanwhile: its point is another's.
    """
    trial_id = self._id(number)
    attributes = {'standard_error': standard_error, 'divergence': divergence}
    try:
      for name, value in attributes.items():
        self._database.call(
          self._storage.set_trial_user_attr, trial_id, name, value
        )
    except self._optuna.exceptions.UpdateFinishedTrialError:
      return False
    return self._end(
      number, self._states.COMPLETE, 0.0 if accuracy is None else accuracy
    )

  def give_up(self, number: int, *, patient: bool = True):
    """Frees the point of a trial of ours; see `Database.call` of `patient`."""
    self._end(number, self._states.FAIL, patient=patient)

  def _id(self, number: int) -> int:
    return self._database.call(
      self._storage.get_trial_id_from_study_id_trial_number,
      self._study_id,
      number,
    )

  def _end(self, number: int, state, *values: float, patient: bool = True):
    """Whether the trial has come to a state; it may have had another before."""
    trial_id = self._id(number)
    try:
      self._database.call(
        self._storage.set_trial_state_values,
        trial_id,
        state,
        values or None,
        patient=patient,
      )
    except self._optuna.exceptions.UpdateFinishedTrialError:
      # By ourselves, if the database went away with the answer.
      return self._database.call(self._storage.get_trial, trial_id).state == (
        state
      )
    return True


def _point(trial) -> search.Point:
  return tuple(trial.user_attrs['point'])


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True
