"""Says when a run stands still, and what it waits for."""

import contextlib
import contextvars
import faulthandler
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import format_duration


def _print_stacks():
  # The descriptor, not sys.stderr, which may have been replaced by a buffer.
  faulthandler.dump_traceback(sys.__stderr__, all_threads=True)


class Watchdog:
  """Warns on every process whenever a step takes too long.

  With the first warning of a stall it prints where all threads are. Use it as a
  context manager. It only reports: a slow file system is no reason to lose a
  run, and a dead process ends the others by itself.

  Args:
    patience_secs: without a step before the first warning; 0 never warns.
    warn: called with the text.
    print_stacks: called after the first warning of every stall.
    clock: seconds, monotonic.
  """

  def __init__(
    self,
    patience_secs: float,
    *,
    warn: Callable[[str], None] = LOGGER.warning,
    print_stacks: Callable[[], None] = _print_stacks,
    clock=time.monotonic,
  ):
    self._patience = patience_secs
    self._warn = warn
    self._print_stacks = print_stacks
    self._printed = False
    self._clock = clock
    self._lock = threading.Lock()
    self._step, self._waits_for = 0, 'the first step (compiling)'
    self._last = clock()
    self._due = patience_secs
    self._stop = threading.Event()
    # In its context the log tells runs apart.
    context = contextvars.copy_context()
    self._thread = threading.Thread(
      target=context.run, args=(self._watch,), daemon=True
    )

  def __enter__(self):
    if self._patience:
      self._thread.start()
    return self

  def __exit__(self, *exc_info):
    self._stop.set()

  def beat(self, step: int):
    """A step was taken."""
    with self._lock:
      self._step, self._last = step, self._clock()
      self._waits_for, self._due = 'the next step', self._patience
      self._printed = False

  @contextlib.contextmanager
  def waiting_for(self, what: str) -> Iterator[None]:
    """Names what is waited for inside."""
    with self._lock:
      before, self._waits_for = self._waits_for, what
    yield
    with self._lock:
      self._waits_for = before

  def check(self):
    """Warns if the time has come; the next warning takes twice as long."""
    with self._lock:
      silent = self._clock() - self._last
      if silent < self._due:
        return
      self._due = 2 * silent
      print_stacks, self._printed = not self._printed, True
      text = (
        f'No step for {format_duration(silent)} since step {self._step} on '
        f'{socket.gethostname()} (process {jax.process_index()} of '
        f'{jax.process_count()}): waiting for {self._waits_for}.'
      )
    self._warn(text)
    if print_stacks:
      self._print_stacks()

  def _watch(self):
    while not self._stop.wait(min(1.0, self._patience / 4)):
      self.check()
