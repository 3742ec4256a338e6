"""Means over seeds, tests between objectives, intervals over examples."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_and_standard_error(
  values: Sequence[float],
) -> tuple[float, float | None]:
  """Mean, and standard error of the mean (ddof=1); None of a single value.

  Raises:
    ValueError: if there are no values.
  """
  if not len(values):
    raise ValueError('There are no values to average.')
  if len(values) == 1:
    return float(values[0]), None
  return float(np.mean(values)), float(stats.sem(values))


@dataclasses.dataclass(frozen=True)
class Test:
  """The outcome of a test of two samples.

  Attributes:
    p_value: two-sided; None if the test says nothing.
    reason: why it does not, or ''.
  """

  p_value: float | None = None
  reason: str = ''


def welch_test(a: Sequence[float], b: Sequence[float]) -> Test:
  """Welch's t-test of two samples; none of single values or without spread.

  Where neither sample varies, t is infinite or 0/0: three seeds that happen to
  be right on the same number of examples are no proof of a difference.
  """
  if min(len(a), len(b)) < 2:
    return Test(reason='one seed has no spread')
  if _vary_by_rounding(a) and _vary_by_rounding(b):
    return Test(reason='neither varies over seeds')
  with warnings.catch_warnings():
    # Seeds that all got the same accuracy: rounding is far below the spread of
    # the other group, which alone decides.
    warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
    return Test(float(stats.ttest_ind(a, b, equal_var=False).pvalue))


def _vary_by_rounding(values: Sequence[float]) -> bool:
  return np.ptp(values) <= 1e-12 * np.max(np.abs(values))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """Holm's (1979) step-down correction; None stays None.

  The i-th smallest of m p-values is multiplied by m - i + 1; the results never
  decrease with rank and are at most 1.
  """
  known = [(p, i) for i, p in enumerate(p_values) if p is not None]
  corrected: list[float | None] = [None] * len(p_values)
  largest = 0.0
  for rank, (p, index) in enumerate(sorted(known)):
    largest = max(largest, min(1.0, (len(known) - rank) * p))
    corrected[index] = largest
  return corrected


def paired_bootstrap(
  a: np.ndarray,
  b: np.ndarray,
  *,
  num_resamples: int = 2000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile interval of mean(a) - mean(b) over resampled examples.

  Args:
    a: [N] score of every example, e.g. the share of seeds that are right.
    b: [N] of the same examples.
    num_resamples: of the N examples with replacement.
    level: of confidence.
    seed: of the resamples.

  Returns:
    Lower and upper end.

  Raises:
    ValueError: if the lengths differ or there is no example.
  """
  if np.shape(a) != np.shape(b) or np.ndim(a) != 1 or not len(a):
    raise ValueError(
      f'a and b must be [N] of the same examples; got {np.shape(a)} and '
      f'{np.shape(b)}.'
    )
  difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
  # Few distinct differences occur (shares of seeds), so a resample is a draw of
  # how often each does: the same distribution, without [resamples, N].
  values, counts = np.unique(difference, return_counts=True)
  draws = np.random.default_rng(seed).multinomial(
    len(difference), counts / len(difference), size=num_resamples
  )
  means = draws @ values / len(difference)
  tail = (1 - level) / 2
  low, high = np.quantile(means, [tail, 1 - tail])
  return float(low), float(high)
