"""Preemption: save, and end with a status that says 'run me again'.

Maintenance of TPUs, spot reclaims and Kubernetes evictions announce themselves
by SIGTERM. All processes agree on a step, save there and exit with status 75
(EX_TEMPFAIL); the same command then resumes, bit for bit.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75


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
  a single process, and in its main thread only, a handler of ours does.
  """

  def __init__(self):
    self._received = threading.Event()
    self._old_handler = None
    self._several = jax.process_count() > 1

  def __enter__(self):
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not self._several and in_main_thread:
      self._old_handler = signal.signal(
        signal.SIGTERM, lambda *_: self._received.set()
      )
    return self

  def __exit__(self, *exc_info):
    if self._old_handler is not None:
      signal.signal(signal.SIGTERM, self._old_handler)

  def reached(self, step: int) -> bool:
    """Whether to save and stop after this step; the same on all processes."""
    if self._several:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._received.is_set()
