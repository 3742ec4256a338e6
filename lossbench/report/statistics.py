"""Means over seeds, Welch's test, effect sizes, multiplicity."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from lossbench.report.bootstrap import LEVEL, POWER, vary_by_rounding


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


@dataclasses.dataclass(frozen=True)
class Noise:
  """The spread that a quantity of objects has though all are alike.

  Attributes:
    variance: expected of it, over objects with ddof=1.
    dof: degrees of freedom of that estimate.
  """

  variance: float = 0.0
  dof: float = np.inf

  def p_value(self, values: Sequence[float]) -> float:
    """One-sided p-value for values spreading by more (F-test of variances)."""
    if not self.variance:
      return 0.0
    ratio = np.var(values, ddof=1) / self.variance
    return float(stats.f.sf(ratio, len(values) - 1, self.dof))

  def share_left(self, values: Sequence[float]) -> float:
    """Share of the values' variance that this does not explain; at least 0."""
    return max(0.0, 1 - self.variance / np.var(values, ddof=1))


@dataclasses.dataclass(frozen=True)
class SpreadRatio:
  """How much more a quantity spreads over objects than another of the same.

  Attributes:
    ratio: of standard deviations, with all noise.
    interval: of 95 %, without noise; its end is inf where noise may be all that
      the other spreads by.
    p_above: one-sided p-value for the ratio being above 1.
    p_below: for its being below.
    detectable: the smallest ratio above 1 that a test at 5 % finds with 80 % power,
      nearly.
  """

  ratio: float
  interval: tuple[float, float]
  p_above: float
  p_below: float
  detectable: float


def _variance_factor(unexplained: float, odds: float) -> float:
  """Ratio of variances at which one test of sum and difference comes out.

  Args:
    unexplained: 1 - r² of the two quantities.
    odds: R² / (1 - R²) of their sum and difference in that test.
  """
  middle = 1 + 2 * unexplained * odds
  return middle + np.sqrt(middle**2 - 1)


def spread_ratio(
  a: Sequence[float],
  b: Sequence[float],
  *,
  noise: tuple[Noise, Noise] = (Noise(), Noise()),
) -> SpreadRatio | None:
  """Compares spreads of two quantities of the same objects (Pitman, Morgan 1939).

  Both spread alike if and only if their sum and difference are uncorrelated;
  the interval inverts that test. Objects are a sample, normally distributed. What
  is to spread more is counted without its noise, the other with it, and must spread
  by more than noise in the first place: either p-value is the larger of both tests'.

  Args:
    a: of the objects.
    b: another, in the same order.
    noise: in each of them.

  Returns:
    None of fewer than 4 objects, or where either does not vary.
  """
  n = len(a)
  if n < 4 or vary_by_rounding(a) or vary_by_rounding(b):
    return None
  unexplained = max(1 - np.corrcoef(a, b)[0, 1] ** 2, 1e-12)
  p_above, least = _spreads_more(a, b, noise[0], unexplained=unexplained)
  p_below, least_of_b = _spreads_more(b, a, noise[1], unexplained=unexplained)
  most = 1 / least_of_b if least_of_b else np.inf
  width = _variance_factor(
    unexplained, stats.t.ppf(1 - LEVEL / 2, n - 2) ** 2 / (n - 2)
  )
  # Of a correlation by Fisher's transformation: tanh's square has sinh's as odds.
  normal = stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)
  detectable = _variance_factor(
    unexplained, np.sinh(normal / np.sqrt(n - 3)) ** 2
  )
  return SpreadRatio(
    ratio=float(np.std(a) / np.std(b)),
    interval=(float(np.sqrt(least / width)), float(np.sqrt(most * width))),
    p_above=p_above,
    p_below=p_below,
    detectable=float(np.sqrt(detectable)),
  )


def _spreads_more(
  x: Sequence[float], y: Sequence[float], noise: Noise, *, unexplained: float
) -> tuple[float, float]:
  """Whether x spreads more than y, and more than by noise.

  Returns:
    The one-sided p-value; and the ratio of variances without x's noise, 0 where
    that may be all there is.
  """
  ratio = noise.share_left(x) * np.var(x) / np.var(y)
  by_noise = noise.p_value(x)
  if not ratio:
    return 1.0, 0.0
  dof = len(x) - 2
  t = (ratio - 1) * np.sqrt(dof / (4 * ratio * unexplained))
  p_value = max(by_noise, float(stats.t.sf(t, dof)))
  return p_value, float(ratio) if by_noise <= LEVEL / 2 else 0.0
