"""Means over seeds, tests between objectives, intervals over examples."""

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
  return float(np.mean(values)), float(
    np.std(values, ddof=1) / np.sqrt(len(values))
  )


def welch_p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
  """Two-sided p-value of Welch's t-test; None unless both have two values.

  Values that do not vary at all: 1 if both are the same, else 0.
  """
  if min(len(a), len(b)) < 2:
    return None
  if _vary_by_rounding(a) and _vary_by_rounding(b):
    return 1.0 if np.isclose(a[0], b[0], rtol=1e-12) else 0.0
  with warnings.catch_warnings():
    # Seeds that all got the same accuracy: rounding is far below the spread of
    # the other group, which alone decides.
    warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


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
