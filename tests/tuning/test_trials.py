"""Claims, signs of life and results of trials, with several stores at once."""

import math
import time

import optuna
import pytest

from lossbench.tuning.trials import Timing, Trial, TrialStore

TIMING = Timing(beat_secs=0.05, grace_secs=0.4, poll_secs=0.01)
VALUES = {'learning_rate': 0.1}


@pytest.fixture
def open_store(tmp_path):
  """Opens the store of one worker more."""

  def opened(*, storage=f'sqlite:///{tmp_path}/tuning.db', **protocol):
    return TrialStore(storage, name='t', protocol=protocol, timing=TIMING)

  return opened


@pytest.fixture
def on_another_host(tmp_path):
  """Starts a trial of a host whose processes nobody here can see."""

  def start(point):
    optuna.create_study(
      study_name='t',
      storage=f'sqlite:///{tmp_path}/tuning.db',
      direction='maximize',
      load_if_exists=True,
    ).add_trial(
      optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        user_attrs={
          'point': list(point),
          'worker': 'elsewhere:1:a',
          'beats': 0,
        },
      )
    )

  return start


def test_results_come_back_whole(open_store):
  store = open_store()
  first = store.claim((1, 2), VALUES)
  assert store.running() == {(1, 2)}
  assert store.finish(first, accuracy=0.9, standard_error=0.01)
  second = store.claim((1, 3), VALUES)
  assert store.finish(second, accuracy=None, divergence='nan at step 3')
  found = [
    Trial((1, 2), 0.9, 0.01, ''),
    Trial((1, 3), None, None, 'nan at step 3'),
  ]
  assert store.finished() == open_store().finished() == found
  assert found[1].score == -math.inf < found[0].score


def test_a_point_is_claimed_once(open_store):
  store, other = open_store(), open_store()
  number = store.claim((1,), VALUES)
  assert other.claim((1,), VALUES) is None
  assert other.claim((2,), VALUES) is not None
  store.finish(number, accuracy=0.9)
  assert other.claim((1,), VALUES) is None


def test_a_point_that_was_given_up_is_free(open_store):
  store = open_store()
  store.give_up(store.claim((1,), VALUES))
  assert store.running() == set()
  assert open_store().claim((1,), VALUES) is not None


def test_a_trial_without_signs_of_life_is_given_up(open_store, on_another_host):
  on_another_host((1,))
  store = open_store()
  store.give_up_dead_trials()
  assert store.running() == {(1,)}
  began = time.monotonic()
  while store.running():
    store.give_up_dead_trials()
    time.sleep(TIMING.poll_secs)
    assert time.monotonic() - began < 10
  assert time.monotonic() - began > 0.9 * TIMING.grace_secs


def test_who_did_not_watch_judges_nobody(open_store, on_another_host):
  """After an outage of the database all trials look dead at once."""
  on_another_host((1,))
  store = open_store()
  store.give_up_dead_trials()
  time.sleep(1.5 * TIMING.grace_secs)
  store.give_up_dead_trials()
  assert store.running() == {(1,)}


def test_signs_of_life_keep_a_trial(open_store):
  store, other = open_store(), open_store()
  number = store.claim((1,), VALUES)
  with store.alive(number):
    began = time.monotonic()
    while time.monotonic() - began < 3 * TIMING.grace_secs:
      other.give_up_dead_trials()
      assert other.running() == {(1,)}
      time.sleep(TIMING.poll_secs)


def test_a_claim_that_nobody_knows_of_is_given_up_by_its_worker(open_store):
  """The connection broke after the database had it, and it was made again."""
  store = open_store()
  store.claim((1,), VALUES)
  store.claim((2,), VALUES)
  store.give_up_dead_trials()
  assert store.running() == {(2,)}


def test_a_result_of_a_trial_that_was_given_up_is_not_counted(open_store):
  store, other = open_store(), open_store()
  number = store.claim((1,), VALUES)
  other.give_up(number)
  again = other.claim((1,), VALUES)
  assert not store.finish(number, accuracy=0.5)
  assert other.finish(again, accuracy=0.9)
  assert [trial.accuracy for trial in store.finished()] == [0.9]


def test_a_result_that_was_written_unheard_counts(
  open_store, postgres, monkeypatch
):
  """The connection broke after the database had it."""
  store = open_store(storage=postgres.new_database())
  number = store.claim((1,), VALUES)
  set_state = optuna.storages.RDBStorage.set_trial_state_values

  def set_and_break(*args, **kwargs):
    set_state(*args, **kwargs)
    monkeypatch.undo()
    raise optuna.exceptions.StorageInternalError('the answer was lost')

  monkeypatch.setattr(
    optuna.storages.RDBStorage, 'set_trial_state_values', set_and_break
  )
  assert store.finish(number, accuracy=0.9)
  assert [trial.accuracy for trial in store.finished()] == [0.9]


def test_another_protocol_is_refused(open_store):
  open_store(num_seeds=2, config='a')
  open_store(num_seeds=2, config='a')
  with pytest.raises(ValueError, match='begun with another num_seeds'):
    open_store(num_seeds=3, config='a')
  with pytest.raises(ValueError, match='begun with another config, num_seeds'):
    open_store(num_seeds=3, config='b')
