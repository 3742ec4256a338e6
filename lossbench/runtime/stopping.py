"""Being asked to stop, by SIGTERM or Ctrl-C, where nothing need be saved.

What the training loop does while it takes steps is `train/preemption.py`.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

from lossbench.runtime.console import LOGGER

EXIT_STATUS = 75  # EX_TEMPFAIL: run the same command again
STOPPED = 'Asked to stop. Run the same command again to continue.'


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
  line that the same command continues.

  Args:
    *signals: in place of these two.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def stop(*_):
    for number in signals:
      signal.signal(number, signal.SIG_IGN)
    raise Stopped

  signals = signals or (signal.SIGTERM, signal.SIGINT)
  old = {number: signal.signal(number, stop) for number in signals}
  try:
    yield
  except Stopped:
    LOGGER.warning(STOPPED)
    raise
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
