"""How numbers look in tables and figures: percent and digits.

The one place where fractions become percent.
"""

import math
from collections.abc import Sequence

from lossbench.report.bootstrap import Effect

NOT_RUN = 'not run'
NONE = '–'
_SIGNIFICANT = 3  # digits of a number without a standard error
_MAX_SIGNIFICANT = 6  # of one whose standard error is next to nothing


def is_percent(metric: str) -> bool:
  """Whether a fraction is shown in percent: accuracies, AUROC and FPR are."""
  return 'accuracy' in metric or 'auroc' in metric or 'fpr' in metric


def percent(fraction: float) -> float:
  """A fraction in percent."""
  return 100 * fraction


def reason(note: str) -> str:
  """A record's note as what follows 'n/a: '."""
  return note.removeprefix('not available: ') or 'undefined'


def _magnitude(value: float) -> int:
  """The power of ten of a positive number's first digit."""
  return int(f'{value:e}'.partition('e')[2])


def _decimals_of_error(error: float) -> int:
  """The decimals that show one or two significant digits of an error.

  The rule of the Particle Data Group (Review of Particle Physics, introduction,
  section 5.3): of the error's three highest digits 100 to 354 keep two, 355 to
  949 one, and 950 to 999 become 1000 and keep two.
  """
  magnitude = _magnitude(error)
  leading = round(100 * error / 10.0**magnitude)
  if leading >= 950:
    magnitude, leading = magnitude + 1, 100
  return (1 if leading < 355 else 0) - magnitude


def number(
  mean: float, standard_error: float | None, *, is_percent: bool
) -> str:
  """'77.01 ± 0.06' in percent, '0.00081 ± 0.00003': the error sets the digits.

  Of a single value there is no standard error, and none is shown. Without one, or
  where it is zero, a percentage has two decimals, any other number three
  significant digits.
  """
  scale = 100 if is_percent else 1
  mean, error = scale * mean, scale * (standard_error or 0.0)
  magnitude = _magnitude(abs(mean)) if mean else 0
  decimals = 2 if is_percent else max(0, _SIGNIFICANT - 1 - magnitude)
  # Values that are equal but for rounding have no spread.
  if error > 1e-12 * abs(mean) and math.isfinite(error):
    decimals = _decimals_of_error(error)
    if mean:
      decimals = min(decimals, _MAX_SIGNIFICANT - 1 - magnitude)
  # A mean below its error is rounded to the error's digits all the same.
  decimals = max(0, decimals)
  text = f'{mean:.{decimals}f}'
  if standard_error is None:
    return text
  return f'{text} ± {error:.{decimals}f}'


def difference(
  estimate: float,
  interval: tuple[float, float] | None,
  *,
  is_percent: bool,
  reason: str = '',
) -> str:
  """'+0.90 [+0.71, +1.09]'; half the interval's width sets the digits.

  Args:
    estimate: of a difference.
    interval: of it; None if there is none.
    is_percent: of fractions; percentage points are shown.
    reason: why there is no interval.
  """
  scale = 100 if is_percent else 1
  estimate *= scale
  if interval is None:
    text = f'{estimate:+.2f}' if is_percent else f'{estimate:+.3g}'
    return f'{text} [{reason}]' if reason else text
  low, high = (scale * end for end in interval)
  decimals = max(0, _decimals_of_error((high - low) / 2))
  return f'{estimate:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]'


def seeds(effect: Effect) -> str:
  """'12', or why no number of seeds can be named."""
  if effect.variance is None or 'seeds' not in effect.over:
    return NONE
  needed = effect.seeds_needed()
  return 'more examples' if needed is None else f'{needed:,}'


def span(numbers: Sequence[int]) -> str:
  """'3' or '1 to 8'."""
  low, high = min(numbers), max(numbers)
  return f'{low:,}' if low == high else f'{low:,} to {high:,}'
