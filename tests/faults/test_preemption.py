"""SIGTERM, dead peers and stalls, by doing it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from lossbench.runtime.stopping import STOPPED
from lossbench.train import loop
from lossbench.train.preemption import EXIT_STATUS, PreemptionNotice
from lossbench.train.watchdog import Watchdog
from tests.faults.processes import (
  RECIPE,
  recipe_config,
  run,
  start,
  start_two,
  wait_for_text,
)

# Long enough to be caught in the middle.
LONG = (*RECIPE, '--config.num_epochs=60', '--config.eval_every_epochs=10')


def test_signals_save_and_the_same_command_resumes(digits_dir, tmp_path):
  """The final parameters are those of a run that nobody disturbed."""
  overrides = ('num_epochs=20', 'eval_every_epochs=10')
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  log = tmp_path / 'log'
  loop.train(recipe_config(digits_dir, *overrides), workdir=str(whole))
  command = (
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    *(f'--config.{override}' for override in overrides),
    f'--workdir={broken}',
  )
  stopped = 0
  for number in (signal.SIGTERM, signal.SIGINT):
    process = start(*command, num_devices=4, log=log)
    wait_for_text(log, 'images/s', [process])
    asked = time.monotonic()
    process.send_signal(number)
    assert process.wait(60) == EXIT_STATUS == 75
    assert time.monotonic() - asked < 15
    text = log.read_text()
    assert 'Asked to stop: saved step' in text
    assert 'Traceback' not in text
    assert ('Resuming at step' in text) == bool(stopped)
    assert stopped < RunDirectory(broken).last_step < 400
    stopped = RunDirectory(broken).last_step
  assert run(*command, log=log) == 0
  assert f'Resuming at step {stopped}' in log.read_text()
  states = [
    load_checkpoint(RunDirectory(path), 'last').arrays['params']
    for path in (whole, broken)
  ]
  _assert_equal(*states)


def test_the_second_ctrl_c_ends_at_once():
  """By a program that never looks at the notice."""
  program = (
    'import signal, time; from lossbench.train import preemption\n'
    'with preemption.PreemptionNotice() as notice:\n'
    '  notice.reached(1)\n'
    "  print('ready', flush=True)\n"
    '  while not notice.reached(1): time.sleep(0.01)\n'
    "  print('asked', flush=True)\n"
    '  time.sleep(60)'
  )
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == 'asked\n'
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


def test_before_the_first_step_signals_are_not_ours():
  before = signal.getsignal(signal.SIGTERM)
  with PreemptionNotice() as notice:
    assert signal.getsignal(signal.SIGTERM) is before
    assert not notice.reached(1)
    signal.raise_signal(signal.SIGTERM)
    assert notice.reached(2)
  assert signal.getsignal(signal.SIGTERM) is before


def _assert_equal(a, b):
  if isinstance(a, dict):
    assert a.keys() == b.keys()
    for name in a:
      _assert_equal(a[name], b[name])
  else:
    np.testing.assert_array_equal(a, b)


def _start_long_pair(digits_dir, tmp_path, *options):
  """Directory, folder of logs and processes of a run that two share."""
  workdir, logs = tmp_path / 'run', tmp_path / 'logs'
  return (
    workdir,
    logs,
    start_two(
      'main.py',
      *LONG,
      *options,
      f'--config.data_dir={digits_dir}',
      f'--workdir={workdir}',
      logs=logs,
    ),
  )


@pytest.mark.slow
def test_two_processes_agree_where_to_stop(digits_dir, tmp_path):
  """SIGTERM to one of them; both save the same step, soon, and end with 75.

  Calls, of several steps each, are far fewer than steps, by which Orbax counts.
  """
  workdir, logs, processes = _start_long_pair(
    digits_dir,
    tmp_path,
    '--config.steps_per_dispatch=5',
    '--config.checkpoint_every_steps=5',
  )
  wait_for_text(logs / '0.log', 'step 100/', processes)
  began = time.monotonic()
  processes[1].terminate()
  assert [p.wait(60) for p in processes] == [EXIT_STATUS, EXIT_STATUS]
  assert time.monotonic() - began < 15
  saved = [
    line.split('Asked to stop: saved ')[1]
    for path in sorted(logs.iterdir())
    for line in path.read_text().splitlines()
    if 'Asked to stop' in line
  ]
  assert len(saved) == 2
  assert saved[0] == saved[1]
  assert saved[0].startswith(f'step {RunDirectory(workdir).last_step} of')


@pytest.mark.slow
def test_two_processes_that_compile_have_nothing_to_save(digits_dir, tmp_path):
  """SIGTERM to one of them ends both without a first step."""
  workdir, logs, processes = _start_long_pair(digits_dir, tmp_path)
  wait_for_text(logs / '0.log', 'Compiling', processes)
  began = time.monotonic()
  processes[1].terminate()
  statuses = [p.wait(60) for p in processes]
  texts = [(logs / f'{index}.log').read_text() for index in range(2)]
  assert statuses == [EXIT_STATUS, EXIT_STATUS], texts
  assert time.monotonic() - began < 15
  for text in texts:
    assert text.count(STOPPED) == 1, text
    assert 'Traceback' not in text
  assert RunDirectory(workdir).last_step == 0


@pytest.mark.slow
def test_a_dead_peer_ends_the_others(digits_dir, tmp_path):
  _, logs, processes = _start_long_pair(
    digits_dir, tmp_path, '--config.num_epochs=2000', '--heartbeat_secs=10'
  )
  wait_for_text(logs / '0.log', 'step 15/', processes)
  os.kill(processes[1].pid, signal.SIGKILL)
  began = time.monotonic()
  assert processes[0].wait(60) not in (0, EXIT_STATUS)
  assert time.monotonic() - began < 30
  text = (logs / '0.log').read_text()
  # JAX's words, with the process's number; where gloo, which carries
  # collectives between CPUs, notices first: its exception, or ours on it.
  said = ('another task died', "instance of 'gloo::", 'has probably died')
  assert any(words in text for words in said)


def test_watchdog_says_where_and_on_what_a_run_waits():
  now, said, stacks = [0.0], [], []
  watchdog = Watchdog(
    60,
    warn=said.append,
    print_stacks=lambda: stacks.append(len(said)),
    clock=lambda: now[0],
  )
  watchdog.beat(7)
  now[0] = 59
  watchdog.check()
  assert said == []
  with watchdog.waiting_for('the input pipeline'):
    now[0] = 61
    watchdog.check()
    now[0] = 100
    watchdog.check()  # not again until twice as long
    now[0] = 130
    watchdog.check()
  assert len(said) == 2
  assert 'No step for 1m01s since step 7 on ' in said[0]
  assert '(process 0 of 1): waiting for the input pipeline.' in said[0]
  watchdog.beat(8)
  watchdog.check()
  assert len(said) == 2
  now[0] = 1000
  watchdog.check()
  assert len(said) == 3
  assert stacks == [1, 3]  # once a stall, beside its first line


def test_a_stalled_pipeline_is_reported(
  digits_dir, tmp_path, monkeypatch, caplog, capfd
):
  """By a pipeline that stalls for two seconds."""
  config = recipe_config(
    digits_dir, 'num_epochs=0.5', 'stall_secs=0.5', 'steps_per_dispatch=1'
  )
  original = loop.Batches.take
  taken = []

  def stalling(batches, count):
    taken.append(count)
    if len(taken) == 6:
      time.sleep(2)
    return original(batches, count)

  monkeypatch.setattr(loop.Batches, 'take', stalling)
  monkeypatch.setattr(loop.LOGGER, 'propagate', True)
  with caplog.at_level('WARNING', logger='lossbench'):
    loop.train(config, workdir=str(tmp_path / 'run'))
  texts = [
    r.getMessage() for r in caplog.records if 'No step' in r.getMessage()
  ]
  assert any('since step 5' in t and 'the input pipeline' in t for t in texts)
  printed = capfd.readouterr().err
  assert 'in stalling' in printed
