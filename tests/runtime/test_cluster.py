"""How processes are told of one another, and how one of them ends."""

import os

import pytest
from absl import flags
from absl.testing import flagsaver
from jax.errors import JaxRuntimeError

from lossbench.runtime import cluster


@pytest.fixture(autouse=True)
def _flags():
  if 'coordinator' not in flags.FLAGS:
    cluster.define_flags()
  flags.FLAGS.mark_as_parsed()


@pytest.mark.parametrize(
  ('values', 'words'),
  [
    ({'num_processes': 2}, 'need --coordinator=HOST:PORT'),
    ({'coordinator': 'auto', 'process_id': 0}, 'need --coordinator=HOST:PORT'),
    ({'coordinator': 'host:1', 'num_processes': 2}, 'got 2 and None'),
    (
      {'coordinator': 'host:1', 'num_processes': 2, 'process_id': 2},
      'got 2 and 2',
    ),
    (
      {'coordinator': 'host', 'num_processes': 2, 'process_id': 0},
      'has no port',
    ),
    (
      {'coordinator': 'host:abc', 'num_processes': 2, 'process_id': 0},
      'has no port',
    ),
  ],
)
def test_incomplete_flags_are_refused(values, words):
  with flagsaver.flagsaver(**values), pytest.raises(ValueError, match=words):
    cluster.initialize()


def test_the_environment_may_name_the_coordinator(monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'host:1')
  with (
    flagsaver.flagsaver(num_processes=2, process_id=2),
    pytest.raises(ValueError, match='host:1 needs --num_processes'),
  ):
    cluster.initialize()


def test_without_flags_there_is_one_process(monkeypatch):
  monkeypatch.delenv('JAX_COORDINATOR_ADDRESS', raising=False)
  cluster.initialize()
  assert not cluster._several


def test_pauses_of_thirty_seconds_are_survived_by_default():
  """tests/faults/test_stopping.py pauses processes for almost half of it."""
  assert flags.FLAGS['heartbeat_secs'].default / 2 > 30


@pytest.mark.parametrize(
  ('platforms', 'expected'),
  [(None, True), ('', True), ('tpu', True), ('tpu,cpu', True), ('cpu', False)],
)
def test_libtpu_is_used_unless_another_platform_is_named(
  platforms, expected, monkeypatch
):
  monkeypatch.delenv('JAX_COORDINATOR_ADDRESS', raising=False)
  monkeypatch.setattr(cluster.importlib.util, 'find_spec', lambda name: name)
  if platforms is None:
    monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  else:
    monkeypatch.setenv('JAX_PLATFORMS', platforms)
  assert cluster._found_by_jax() == expected


@pytest.mark.parametrize(
  ('error', 'hint'), [(JaxRuntimeError('gone'), True), (KeyError('x'), False)]
)
def test_one_of_several_ends_at_once(error, hint, monkeypatch, capfd):
  statuses = []
  monkeypatch.setattr(os, '_exit', statuses.append)
  cluster._die_loudly(type(error), error, None)
  assert statuses == [1]
  printed = capfd.readouterr().err
  assert type(error).__name__ in printed
  assert ('has probably died' in printed) == hint


@pytest.mark.parametrize('several', [False, True])
def test_a_message_ends_the_program_with_status_1(several, monkeypatch, capfd):
  statuses = []
  monkeypatch.setattr(cluster, '_several', several)
  monkeypatch.setattr(os, '_exit', statuses.append)
  if several:
    cluster.exit_with('Error: no data.')
    assert capfd.readouterr().err == 'Error: no data.\n'
    assert statuses == [1]
  else:
    with pytest.raises(SystemExit, match='Error: no data'):
      cluster.exit_with('Error: no data.')
    assert not statuses
