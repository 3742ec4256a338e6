"""Means over seeds, Welch's test, effect sizes, multiplicity."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from lossbench.report.bootstrap import vary_by_rounding


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
class Welch:
  """The outcome of a test of two samples.

  Attributes:
    p_value: two-sided; None if the test says nothing.
    effect_size: Hedges' g of the first against the second; None without spread.
    reason: why there is no test, or ''.
  """

  p_value: float | None = None
  effect_size: float | None = None
  reason: str = ''


def welch_test(a: Sequence[float], b: Sequence[float]) -> Welch:
  """Welch's t-test of two samples; none of single values or without spread.

  Where neither sample varies, t is infinite or 0/0: three seeds that happen to
  be right on the same number of examples are no proof of a difference.
  """
  if min(len(a), len(b)) < 2:
    return Welch(reason='one seed has no spread')
  if vary_by_rounding(a) and vary_by_rounding(b):
    return Welch(reason='neither varies over seeds')
  with warnings.catch_warnings():
    # Seeds that all got the same accuracy: rounding is far below the spread of
    # the other group, which alone decides.
    warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
    p_value = float(stats.ttest_ind(a, b, equal_var=False).pvalue)
  return Welch(p_value, hedges_g(a, b))


def hedges_g(a: Sequence[float], b: Sequence[float]) -> float | None:
  """Difference of means in pooled standard deviations, unbiased (Hedges 1981).

  Returns:
    None of single values or without spread.
  """
  dof = len(a) + len(b) - 2
  if min(len(a), len(b)) < 2 or (vary_by_rounding(a) and vary_by_rounding(b)):
    return None
  squares = sum((len(x) - 1) * np.var(x, ddof=1) for x in (a, b))
  correction = np.exp(special.gammaln(dof / 2) - special.gammaln((dof - 1) / 2))
  correction /= np.sqrt(dof / 2)
  scale = np.sqrt(squares / dof)
  return float(correction * (np.mean(a) - np.mean(b)) / scale)


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
