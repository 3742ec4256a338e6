"""Preemption: save, and end with a status that says 'run me again'.

Maintenance of TPUs, spot reclaims and Kubernetes evictions announce themselves
by SIGTERM, a person by Ctrl-C. All processes agree on a step, save there and exit
with status 75 (EX_TEMPFAIL); the same command then resumes, bit for bit. A second
Ctrl-C ends the program at once.
"""

import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from lossbench.runtime.interrupts import EXIT_STATUS


class Preempted(SystemExit):
  """The run was asked to stop and has saved; a SystemExit with status 75.

  No Exception, so that nobody takes it for an error of the run.
  """

  def __init__(self, step: int):
    super().__init__(EXIT_STATUS)
    self.step = step


class PreemptionNotice:
  """Whether the run was asked to stop; use it as a context manager.

  JAX's own notice serves runs of several processes, whose SIGTERM it takes. In
  a single process, and in its main thread only, a handler of ours does. SIGINT
  becomes a SIGTERM to this process, so that one Ctrl-C stops them all.
  """

  def __init__(self):
    self._received = threading.Event()
    self._calls = 0
    self._old_handlers = {}
    self._several = jax.process_count() > 1

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      if not self._several:
        self._handle(signal.SIGTERM, lambda *_: self.ask())
      self._handle(signal.SIGINT, self._interrupt)
    return self

  def __exit__(self, *exc_info):
    for number, handler in self._old_handlers.items():
      signal.signal(number, handler)

  def _handle(self, number: signal.Signals, handler):
    old = signal.signal(number, handler)
    # None: not installed from Python, and so not to be put back from there.
    self._old_handlers[number] = signal.SIG_DFL if old is None else old

  def _interrupt(self, *_):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Not the log: the signal may have come while a line was written.
    os.write(
      sys.__stderr__.fileno(),
      b'Ctrl-C: saving after this step. Once more ends at once.\n',
    )
    signal.raise_signal(signal.SIGTERM)

  def ask(self):
    """Asks, as the signal does, the runs of a single process to end."""
    self._received.set()

  @property
  def received(self) -> bool:
    """Whether this process was asked, which others may not know of yet."""
    return self._received.is_set()

  def reached(self, step: int) -> bool:
    """Whether to save and stop after this step; the same on all processes."""
    # JAX agrees on a number to come, and steps may be taken several at once.
    self._calls += 1
    if self._several:
      return multihost_utils.reached_preemption_sync_point(self._calls)
    return self._received.is_set()
