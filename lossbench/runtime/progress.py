"""Progress lines with an estimate of the time that is left."""

import time
from collections.abc import Callable

from lossbench.runtime.console import LOGGER


def format_duration(seconds: float) -> str:
  """'42s', '3m10s', '5h07m' or '2d03h'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds}s'
  minutes, seconds = divmod(seconds, 60)
  if minutes < 60:
    return f'{minutes}m{seconds:02d}s'
  hours, minutes = divmod(minutes, 60)
  if hours < 24:
    return f'{hours}h{minutes:02d}m'
  days, hours = divmod(hours, 24)
  return f'{days}d{hours:02d}h'


class Progress:
  """Rates and the time left of a count that runs from `start` to `total`.

  The first `tick` is left out of the rate, because its steps waited for the
  compiler.

  Args:
    start: the count at the beginning.
    total: the count at the end.
    clock: seconds, monotonic.
  """

  def __init__(self, start: int, total: int, *, clock=time.monotonic):
    self._total = total
    self._clock = clock
    self._began = (clock(), start)
    self._last = self._began
    self._compiled = False

  def tick(
    self, count: int, *, excluded_secs: float = 0.0
  ) -> tuple[float, str]:
    """Reports that `count` is done.

    Args:
      count: done so far, beyond the last tick.
      excluded_secs: since the last tick spent on something else.

    Returns:
      Counts per second since the last tick, and 'count/total, %, ETA'.
    """
    now = self._clock()
    last_time, last_count = self._last
    elapsed = max(now - last_time - excluded_secs, 1e-9)
    rate = (count - last_count) / elapsed
    if self._compiled:
      began_time, began_count = self._began
      overall = (count - began_count) / max(now - began_time, 1e-9)
    else:
      self._compiled = True
      self._began = (now, count)
      overall = rate
    self._last = (now, count)
    left = format_duration((self._total - count) / max(overall, 1e-9))
    share = 100 * count / self._total
    return rate, f'{count}/{self._total} ({share:.0f}%), ETA {left}'


def create_printer(
  noun: str, total: int, *, every_secs: float = 10.0
) -> Callable[[int], None]:
  """A callback that prints 'noun count/total' now and then, and at the end."""
  progress = Progress(0, total)
  last_line = time.monotonic()

  def on_progress(done: int):
    nonlocal last_line
    _, position = progress.tick(done)
    if time.monotonic() - last_line > every_secs or done == total:
      last_line = time.monotonic()
      LOGGER.info('%s %s', noun, position)

  return on_progress
