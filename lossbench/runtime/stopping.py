"""Being asked to stop, by SIGTERM or Ctrl-C, where nothing need be saved.

What the training loop does while it takes steps is `train/preemption.py`.

A signal becomes an exception in the main thread. One that waits for a compiler,
a disk or another process does not see it, and so a thread ends the program
after `GRACE_SECS`. Of several processes of a run each tells the others.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator

from lossbench.runtime.console import LOGGER
from lossbench.runtime.interrupts import EXIT_STATUS

STOPPED = 'Asked to stop. Run the same command again to continue.'
# For the main thread to answer. With the next it makes less than 15 seconds,
# which is all that GKE gives to pods on preemptible nodes.
GRACE_SECS = 8
# For all processes to have answered.
_LEAVE_SECS = 12
_POLL_SECS = 0.5
_KEY = 'lossbench/stopped/'

_client = None  # of JAX's coordination service, since `stop_together`
_asked = False  # by a signal
_leaving = False


class Stopped(SystemExit):
  """The program was asked to stop; a SystemExit with status 75.

  No Exception, so that nobody takes it for an error of what was being done.
  """

  def __init__(self):
    super().__init__(EXIT_STATUS)


@contextlib.contextmanager
def stop_on_signals(
  *signals: signal.Signals,
) -> Iterator[None]:
  """Raises `Stopped` in the main thread at the first SIGTERM or Ctrl-C.

  Further ones are ignored, so that cleaning up is not interrupted. Says in one
  line that the same command continues. If the main thread has not left after
  `GRACE_SECS`, the program ends all the same, and at once if a module is being
  imported: extension modules crash where an exception comes out of them.

  Args:
    *signals: in place of these two, in a worker, whose end is told by its parent
      and comes with an exception always.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  is_program = not signals
  over = threading.Event()  # the main thread ends, or has ended, by itself

  def stop(_, frame):
    global _asked
    _asked = True
    for number in signals:
      signal.signal(number, signal.SIG_IGN)
    if is_program and _is_importing(frame):
      over.set()
      LOGGER.warning(STOPPED)
      leave()
    raise Stopped

  signals = signals or (signal.SIGTERM, signal.SIGINT)
  with _last_resort(stop, over):
    old = {number: signal.signal(number, stop) for number in signals}
    try:
      yield
    except Stopped:
      LOGGER.warning(STOPPED)
      raise
    except SystemError as error:
      # What C code makes of an exception that came while it called Python.
      if not _follows_stop(error):
        raise
      LOGGER.warning(STOPPED)
      raise Stopped from error
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)


def _follows_stop(error: BaseException | None) -> bool:
  """Whether `Stopped` is what led to an error."""
  while error is not None:
    if isinstance(error, Stopped):
      return True
    error = error.__cause__ or error.__context__
  return False


def _is_importing(frame) -> bool:
  """Whether the code of a frame was called, however indirectly, by an import."""
  while frame is not None:
    if frame.f_globals.get('__name__') == 'importlib._bootstrap':
      return True
    frame = frame.f_back
  return False


@contextlib.contextmanager
def _last_resort(stop, over: threading.Event) -> Iterator[None]:
  """Ends the program if `stop`, a handler, is not called or not obeyed."""
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  # Written to when a signal arrives, whatever the main thread is doing.
  old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

  def watch():
    while received := os.read(reading, 1):
      # Of other handlers, who save, that is no matter. Ignored: it was called.
      if signal.getsignal(received[0]) in (stop, signal.SIG_IGN):
        break
    else:
      return
    _tell_others()
    if not over.wait(GRACE_SECS):
      LOGGER.warning(STOPPED)
      leave()

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    signal.set_wakeup_fd(old)
    os.close(writing)
    thread.join(GRACE_SECS)
    os.close(reading)


def stop_together():
  """Lets a signal to one process of the run stop them all from now on.

  Inside `stop_on_signals`, after the processes have found one another.
  """
  from orbax.checkpoint import multihost

  global _client
  _client = multihost.get_jax_distributed_client()
  threading.Thread(target=_listen, args=(_client,), daemon=True).start()


def _listen(client):
  """Passes on to this process that another one was asked to stop."""
  pause = threading.Event()
  with contextlib.suppress(Exception):  # the run is over, or its coordinator
    while not client.key_value_dir_get(_KEY):
      pause.wait(_POLL_SECS)
    if not _asked:
      os.kill(os.getpid(), signal.SIGTERM)


def _tell_others():
  if _client is not None:
    with contextlib.suppress(Exception):  # they are gone
      _client.key_value_set(f'{_KEY}now', 'yes', allow_overwrite=True)


def leave(*, tell: bool = True):
  """Ends this process with status 75, once all others of the run do so too.

  At once, for what JAX does at the end of a process waits for the others, and
  what libraries do there takes seconds.

  Args:
    tell: the others that they are asked to stop; not where they know, and save.
  """
  global _leaving
  _leaving = True
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, signal.SIG_IGN)
  if _client is not None:
    if tell:
      _tell_others()
    # Who is left behind in a collective, or without the coordinator, is
    # aborted from C++; it was asked to stop as well.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    with contextlib.suppress(Exception):
      _client.wait_at_barrier(f'{_KEY}left', 1000 * _LEAVE_SECS)
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  os._exit(EXIT_STATUS)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number):
  del number
  os._exit(EXIT_STATUS)


def die(status: int):
  """Ends this process at once; with 75 if it was asked to stop."""
  os._exit(EXIT_STATUS if _leaving else status)
