"""SIGTERM and Ctrl-C as an exception."""

import signal
import subprocess
import sys

import pytest

from lossbench.runtime.stopping import (
  EXIT_STATUS,
  STOPPED,
  Stopped,
  stop_on_signals,
)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_one_line_and_the_status(number, caplog):
  old = signal.getsignal(number)
  with pytest.raises(Stopped) as stopped, stop_on_signals():
    signal.raise_signal(number)
  assert stopped.value.code == EXIT_STATUS == 75
  assert [record.getMessage() for record in caplog.records] == [STOPPED]
  assert signal.getsignal(number) == old


def _clean_up(cleaned):
  try:
    signal.raise_signal(signal.SIGTERM)
  except Exception:
    pytest.fail('it is no Exception')
  finally:
    signal.raise_signal(signal.SIGINT)
    cleaned.append(True)


def test_cleaning_up_is_not_interrupted():
  cleaned = []
  with pytest.raises(Stopped), stop_on_signals():
    _clean_up(cleaned)
  assert cleaned


def _call_from_c():
  try:
    signal.raise_signal(signal.SIGTERM)
  except Stopped as stopped:
    raise SystemError('returned a result with an exception set') from stopped


def test_an_error_that_c_code_makes_of_it_is_no_error():
  with pytest.raises(Stopped), stop_on_signals():
    _call_from_c()
  with pytest.raises(SystemError, match='another'), stop_on_signals():
    raise SystemError('another')


def test_a_main_thread_that_sees_no_signal_is_ended(root):
  """It waits in C for ever; a thread ends the program all the same."""
  program = """
import ctypes
from lossbench.runtime import stopping
stopping.GRACE_SECS = 0.5
with stopping.stop_on_signals():
  mutex = ctypes.create_string_buffer(64)
  lock = ctypes.CDLL(None).pthread_mutex_lock
  lock(mutex)
  print('ready', flush=True)
  lock(mutex)
"""
  process = subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=root,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  process.terminate()
  _, printed = process.communicate(timeout=20)
  assert process.returncode == EXIT_STATUS
  assert printed.splitlines()[-1] == STOPPED


def test_an_import_is_not_left_by_an_exception(root, tmp_path):
  """nanobind's modules crash then (as jaxlib's), so the program ends at once."""
  (tmp_path / 'extension.py').write_text(
    'import os, signal\n'
    'try:\n'
    '  signal.raise_signal(signal.SIGINT)\n'
    'except BaseException:\n'
    '  os.abort()\n'
  )
  program = f"""
import sys
from lossbench.runtime import stopping
sys.path.insert(0, {str(tmp_path)!r})
with stopping.stop_on_signals():
  import extension
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.stderr.splitlines() == [STOPPED]
  assert result.returncode == EXIT_STATUS
