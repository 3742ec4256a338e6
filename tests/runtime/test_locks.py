"""Who holds a directory, and for how long; see tests/runs/ for a killed holder."""

import os
import signal
import subprocess
import sys

import pytest

from lossbench.runtime import locks


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path):
  message = (
    rf'--workdir={tmp_path} is in use by process {os.getpid()} on '
    rf'{os.uname().nodename}\. Wait for it'
  )
  with locks.locked(tmp_path):
    for _ in range(2):  # what is refused takes nothing from the holder's file
      with (
        pytest.raises(BlockingIOError, match=message),
        locks.locked(tmp_path),
      ):
        pass
  with locks.locked(tmp_path):
    pass


def test_an_error_gives_the_directory_back(tmp_path):
  with pytest.raises(KeyError), locks.locked(tmp_path):
    raise KeyError
  with locks.locked(tmp_path):
    pass


def test_a_child_does_not_hold_it_for_a_dead_parent(tmp_path):
  """The parent forks, the child sleeps, the parent is killed."""
  program = (
    'import os, sys, time, pathlib\n'
    'from lossbench.runtime import locks\n'
    'with locks.locked(pathlib.Path(sys.argv[1])):\n'
    '  child = os.fork()\n'
    '  if not child: print(os.getpid(), flush=True)\n'
    '  time.sleep(60)\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', program, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  ) as parent:
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
      with locks.locked(tmp_path):
        pass
    finally:
      os.kill(child, signal.SIGKILL)
