"""Preemption: save, and end with a status that says 'run me again'.

Maintenance of TPUs, spot reclaims and Kubernetes evictions announce themselves
by SIGTERM, a person by Ctrl-C. All processes agree on a step, save there and exit
with status 75 (EX_TEMPFAIL); the same command then resumes, bit for bit. A second
Ctrl-C ends the program at once.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading

import jax

from lossbench.runtime.interrupts import EXIT_STATUS

_POLL_SECS = 0.5
# For the slowest process to begin, and for all to say how far they are.
_BEGIN_SECS = 3600
_AGREE_SECS = 300
_notices = itertools.count()  # the same on all processes


class Preempted(SystemExit):
  """The run was asked to stop and has saved; a SystemExit with status 75.

  No Exception, so that nobody takes it for an error of the run.
  """

  def __init__(self, step: int):
    super().__init__(EXIT_STATUS)
    self.step = step


class PreemptionNotice:
  """Whether the run was asked to stop; use it as a context manager.

  It answers SIGTERM, in the main thread only, from the first call of `reached`
  on. Before the first step there is nothing to save, and its compilation may take
  minutes: a signal then ends the program as any other, see `runtime.stopping`.
  SIGINT becomes a SIGTERM to this process, so that one Ctrl-C stops them all.

  Of several processes each tells the others, and they agree on the number of a
  call. JAX's own notice has them do so too, but Orbax asks it with numbers of
  steps, which are others, and then it may choose a call that never comes.
  """

  def __init__(self):
    self._received = threading.Event()
    self._over = threading.Event()
    self._counting = threading.Lock()
    self._calls = 0
    self._last_call: int | None = None
    self._answers = False
    self._old_handlers = {}
    self._client = None
    if jax.process_count() > 1:
      from orbax.checkpoint import multihost

      self._client = multihost.get_jax_distributed_client()
      self._key = f'lossbench/preemption/{next(_notices)}'

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    self._over.set()
    for number, handler in self._old_handlers.items():
      signal.signal(number, handler)

  def answer_signals(self):
    """Takes signals from now on; waits until all processes do."""
    self._answers = True
    if self._client is not None:
      # Or one might be ended by a signal that has others save.
      self._client.wait_at_barrier(f'{self._key}/begin', 1000 * _BEGIN_SECS)
      threading.Thread(target=self._agree, daemon=True).start()
    if threading.current_thread() is threading.main_thread():
      self._handle(signal.SIGTERM, lambda *_: self.ask())
      self._handle(signal.SIGINT, self._interrupt)

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
    """Whether to save and stop after this step; the same on all processes.

    They call it after the same steps.
    """
    del step  # several may be taken at once
    if not self._answers:
      self.answer_signals()
    if self._client is None:
      return self._received.is_set()
    with self._counting:
      self._calls += 1
      return self._calls == self._last_call

  def _agree(self):
    """Once a process was asked, agrees with the others on the last call.

    In a thread, for the main one may wait in a collective for another process
    that waits here. While they agree no call returns, so that the one after the
    latest of all is still to come on every process.
    """
    client, key = self._client, self._key
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # somebody is gone
      while not self._received.wait(_POLL_SECS):
        if self._over.is_set():
          return
        if client.key_value_dir_get(f'{key}/asked/'):
          break
      client.key_value_set(f'{key}/asked/now', 'yes', allow_overwrite=True)
      with self._counting:
        own = jax.process_index()
        client.key_value_set(f'{key}/calls/{own}', str(self._calls))
        calls = [
          client.blocking_key_value_get(
            f'{key}/calls/{index}', 1000 * _AGREE_SECS
          )
          for index in range(jax.process_count())
        ]
        self._last_call = max(map(int, calls)) + 1
