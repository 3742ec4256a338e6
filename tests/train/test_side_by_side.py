"""Runs side by side are, to the last bit, what each is alone on a device."""

import collections
import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest

from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from lossbench.runtime import devices
from lossbench.runtime.stopping import Stopped
from lossbench.train import loop, memory, side_by_side
from lossbench.train.preemption import PreemptionNotice
from lossbench.train.side_by_side import num_runs_at_once, train_side_by_side
from lossbench.train.upkeep import Upkeep
from tests.train.test_loop import tiny_config

_DIVERGES = 2


def _train_all(configs, root, *, num_runs=4, on_train=lambda number: None):
  """Trains all; what each raised, and on which devices they were."""
  queue = collections.deque(enumerate(configs))
  errors, places = {}, {}

  def train(place, task, notice):
    number, config = task
    places[number] = (place, *devices.local())
    on_train(number)
    try:
      loop.train(config, workdir=str(root / str(number)), notice=notice)
    except (FloatingPointError, ValueError) as error:
      errors[number] = error

  train_side_by_side(
    lambda place: queue.popleft() if queue else None, train, num_runs=num_runs
  )
  return errors, places


def _found(path):
  checkpoint = load_checkpoint(RunDirectory(path), 'last')
  return checkpoint.step, checkpoint.arrays, checkpoint.history


def _assert_same(path, other):
  found, wanted = _found(path), _found(other)
  assert found[0] == wanted[0]
  jax.tree.map(np.testing.assert_array_equal, found[1], wanted[1])
  assert found[2] == wanted[2]


@pytest.fixture(scope='module')
def configs(digits_dir):
  """Five runs that differ in seed, rate, and one in its objective."""
  found = []
  for seed in range(5):
    config = tiny_config(digits_dir, 'softmax' if seed == 4 else 'sigmoid')
    config.seed, config.learning_rate = seed, 0.1 / (1 + seed)
    config.num_epochs = 1.0
    config.eval_every_epochs = 0.5
    found.append(config)
  found[_DIVERGES].learning_rate = 1e30
  return found


@pytest.fixture(scope='module')
def together(configs, tmp_path_factory):
  """All of them, on four devices: (root, errors, places)."""
  root = tmp_path_factory.mktemp('together')
  return root, *_train_all(configs, root)


@pytest.fixture(scope='module')
def alone(configs, tmp_path_factory):
  """Two of them, one after the other, with one device to be seen."""
  root = tmp_path_factory.mktemp('alone')
  with devices.only(jax.devices()[0]):
    for number in (3, 4):
      loop.train(configs[number], workdir=str(root / str(number)))
  return root


def test_each_is_what_it_is_alone(together, alone):
  root, _, places = together
  for number in (3, 4):
    _assert_same(root / str(number), alone / str(number))
  assert places[3][1:] != (jax.devices()[0],)
  start = json.loads((root / '3' / 'run.json').read_text())['starts'][-1]
  assert start['devices'] == 1


def test_every_device_has_runs_and_each_has_one(together):
  _, _, places = together
  used = {place: device for place, device in places.values()}
  assert used == dict(enumerate(jax.devices()))


def test_one_that_diverges_stops_no_other(together):
  root, errors, _ = together
  assert list(errors) == [_DIVERGES]
  assert 'is inf at step 1' in str(errors[_DIVERGES])
  steps = [RunDirectory(root / str(i)).last_step for i in range(5)]
  assert steps == [20, 20, 0, 20, 20]


def test_runs_that_were_asked_to_stop_have_saved_and_go_on(
  configs, alone, tmp_path, monkeypatch
):
  """By a real SIGTERM, while two runs are trained and one waits.

  It comes when half of a run's steps are taken and their checkpoint is begun.
  """
  asked = threading.Event()
  begin, ask = Upkeep.begin, PreemptionNotice.ask

  def begin_and_signal(self, *state, **options):
    begin(self, *state, **options)
    if not asked.is_set():
      os.kill(os.getpid(), signal.SIGTERM)
      assert asked.wait(60)  # for the main thread, which takes signals

  def ask_and_tell(self):
    ask(self)
    asked.set()

  runs = [configs[number].copy_and_resolve_references() for number in (3, 4, 0)]
  for config in runs:
    config.steps_per_dispatch = 2  # or one call might take the other half
  with monkeypatch.context() as patch:
    patch.setattr(Upkeep, 'begin', begin_and_signal)
    patch.setattr(PreemptionNotice, 'ask', ask_and_tell)
    with pytest.raises(Stopped):
      _train_all(runs, tmp_path, num_runs=2)
  steps = [RunDirectory(tmp_path / str(i)).last_step for i in range(2)]
  assert all(0 < step < 20 for step in steps)
  assert not (tmp_path / '2').exists()
  _train_all(runs[:2], tmp_path, num_runs=2)
  for number in range(2):
    _assert_same(tmp_path / str(number), alone / str(3 + number))


def test_a_signal_that_another_thread_receives_is_heard(monkeypatch):
  heard = threading.Event()
  ask = PreemptionNotice.ask

  def ask_and_tell(self):
    ask(self)
    heard.set()

  def train(place, task, notice):
    time.sleep(0.5)  # until the main thread waits
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    assert heard.wait(60)
    assert notice.received

  monkeypatch.setattr(PreemptionNotice, 'ask', ask_and_tell)
  with pytest.raises(Stopped):
    train_side_by_side(lambda place: 'a run', train, num_runs=1)


def test_a_fault_ends_all_and_the_others_save(configs, tmp_path):
  def broken(number):
    if number == 1:
      raise TypeError('a bug')

  with pytest.raises(TypeError, match='a bug'):
    _train_all(configs[:3], tmp_path, num_runs=2, on_train=broken)
  assert not (tmp_path / '2').exists()


def test_a_run_of_one_device_goes_on_with_one_only(configs, alone, tmp_path):
  shutil.copytree(alone / '3', tmp_path / 'run')
  config = configs[3].copy_and_resolve_references()
  with pytest.raises(ValueError, match='with devices = 1, but now it is 4'):
    loop.train(config, workdir=str(tmp_path / 'run'))


@pytest.mark.parametrize('num_devices', [1, 4])
def test_nothing_is_reduced_on_a_device_alone(configs, tmp_path, num_devices):
  def text():
    run = loop.build_run(configs[0], RunDirectory(tmp_path))
    # Sent once, not with every step.
    for number in jax.tree.leaves(run.hparams):
      assert len(number.devices()) == num_devices
    lowered = run.train_step.lower(*loop.step_arguments(run))
    return lowered.as_text() + lowered.compile().as_text()

  if num_devices == 1:
    with devices.only(jax.devices()[1]):
      program = text()
  else:  # what would be found
    program = text()
  for name in ('all-reduce', 'all_reduce', 'all-gather', 'collective'):
    found = name in program
    assert not found or num_devices > 1, name
  assert ('all_reduce' in program) == (num_devices > 1)


def test_how_many_runs_at_once(configs, monkeypatch):
  assert num_runs_at_once('1', configs) == 1
  assert num_runs_at_once('3', configs) == 3
  assert num_runs_at_once('auto', configs) == 4
  with pytest.raises(ValueError, match=r'=5 is more than the 4 device'):
    num_runs_at_once('5', configs)
  grouped = configs[0].copy_and_resolve_references()
  grouped.batch_norm_group = 2
  assert num_runs_at_once('auto', [grouped]) == 1
  with pytest.raises(ValueError, match='group=2 asks for as many devices'):
    num_runs_at_once('2', [grouped])
  profiled = configs[0].copy_and_resolve_references()
  profiled.profile_steps = 3
  assert num_runs_at_once('auto', [profiled]) == 1
  with pytest.raises(ValueError, match='=3: a process has one profile at a'):
    num_runs_at_once('2', [profiled])
  monkeypatch.setattr(side_by_side.jax, 'process_count', lambda: 2)
  assert num_runs_at_once('auto', configs) == 1
  with pytest.raises(ValueError, match='a single process, but this is one of'):
    num_runs_at_once('2', configs)


def test_auto_asks_the_compiler_whether_a_run_fits(configs, monkeypatch):
  """Where devices tell their memory, as this one is made to."""
  with devices.only(jax.devices()[0]):
    needed = memory.memory_needed(configs[0])
  images = 1300 * 8 * 8
  assert images < needed < 2**24
  for num_bytes, num_runs in ((2 * needed, 4), (needed, 1), (images, 1)):
    monkeypatch.setattr(memory, 'device_memory', lambda n=num_bytes: n)
    assert num_runs_at_once('auto', configs) == num_runs
