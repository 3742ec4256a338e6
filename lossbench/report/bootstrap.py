"""The bootstrap over seeds and examples: one uncertainty for every quantity.

An objective was trained with S seeds, all measured on the same N examples: seeds
and examples are crossed. A resample draws seeds of every objective, and draws
examples once for all objectives, so that what makes an example hard for all of
them cancels in a difference.

Three variances are bootstrapped: V_s over seeds, V_e over examples, V_b over
both. V_b counts what a seed does to an example three times, V_s + V_e twice
(Owen 2007, arXiv:0712.1111), so with E = V_b - V_s - V_e the variance is
V_s + V_e - E (Beiden, Wagner & Campbell 2000, of readers and cases), and no less
than either. The spread of few seeds is known badly, so intervals are Student's
with the degrees of freedom of Welch (1947) and Satterthwaite (1946): of seeds
alone they are Welch's.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

NUM_RESAMPLES = 1000
POWER = 0.8
SMALLEST_P = 1e-6  # of tails that no thousand resamples know anything of
LEVEL = 0.05  # of tests; intervals are of 1 - LEVEL
_ROWS = 64  # resamples that are multiplied at once
_MAX_SEEDS = 10_000  # that are ever recommended
# nct loses its digits beyond; its power is 1 long before.
_MAX_NONCENTRALITY = 35.0


def _generator(*key: str | int) -> np.random.Generator:
  return np.random.default_rng(zlib.crc32(repr(key).encode()))


@functools.lru_cache(maxsize=4)
def _example_counts(num_examples: int, key: str, num_resamples: int):
  """[R, N] how often a resample has each example; uint8, for there are many."""
  rng = _generator('examples', key)
  counts = np.empty((num_resamples, num_examples), np.uint8)
  for row in counts:
    drawn = rng.integers(0, num_examples, num_examples, dtype=np.uint32)
    row[:] = np.bincount(drawn, minlength=num_examples)
  return counts


def resampled_means(
  values: np.ndarray, *, key: str = '', num_resamples: int = NUM_RESAMPLES
) -> np.ndarray:
  """Means over resampled examples.

  The same places are drawn of everything that has as many examples, so that the
  same images are, wherever they occur: under other labels, or before the network's
  own head and a relearned one. Data sets that have only their number in common do
  not become alike by it.

  Args:
    values: [C, N], C quantities of the same N examples.
    key: another one draws others.
    num_resamples: R.

  Returns:
    [R, C] float64.
  """
  values = np.asarray(values)
  means = values.mean(axis=1, dtype=np.float64)
  # Of deviations float32 is enough, also where the mean is large.
  deviations = (values - means[:, None]).astype(np.float32).T
  counts = _example_counts(values.shape[1], key, num_resamples)
  found = [
    counts[first : first + _ROWS].astype(np.float32) @ deviations
    for first in range(0, num_resamples, _ROWS)
  ]
  return means + np.concatenate(found, dtype=np.float64) / values.shape[1]


@functools.lru_cache(maxsize=256)
def _seed_weights(num_seeds: int, key: str, num_resamples: int):
  """[R, S] weights of seeds in the mean of S - 1 drawn ones.

  One draw fewer makes the variance unbiased (Rao & Wu 1988, section 2.2).
  """
  draws = max(1, num_seeds - 1)
  return (
    _generator('seeds', key).multinomial(
      draws, np.full(num_seeds, 1 / num_seeds), size=num_resamples
    )
    / draws
  )


@dataclasses.dataclass(frozen=True)
class Sample:
  """A quantity of one objective.

  Attributes:
    key: of the objective, whose seeds are drawn independently of others'.
    values: [S] of its seeds.
    resampled: [R, S] of the same, on resampled examples; None where values of
      examples are not known.
    num_examples: N; 0 if unknown.
    seeds: [S] which they are, for quantities of the same runs; () if unknown.
  """

  key: str
  values: np.ndarray
  resampled: np.ndarray | None = None
  num_examples: int = 0
  seeds: tuple[int, ...] = ()

  @property
  def mean(self) -> float:
    """Over seeds."""
    return float(np.mean(self.values))

  @property
  def seeds_variance(self) -> float:
    """Variance of the mean over seeds; 0 of one seed, and of rounding errors."""
    if len(self.values) < 2 or vary_by_rounding(self.values):
      return 0.0
    return float(np.var(self.values, ddof=1) / len(self.values))

  def draws(self, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """[3, R] means over resampled seeds, resampled examples, and both."""
    weights = _seed_weights(len(self.values), self.key, num_resamples)
    over_seeds = weights @ self.values
    if self.resampled is None:
      constant = np.full(num_resamples, self.mean)
      return np.stack([over_seeds, constant, over_seeds])
    return np.stack(
      [
        over_seeds,
        self.resampled.mean(axis=1),
        np.einsum('rs,rs->r', weights, self.resampled),
      ]
    )


def vary_by_rounding(values: Sequence[float]) -> bool:
  """Whether values are equal but for rounding."""
  return np.ptp(values) <= 1e-12 * np.max(np.abs(values))


@dataclasses.dataclass(frozen=True)
class Effect:
  """A difference, or another sum of means, with its uncertainty.

  Attributes:
    estimate: of the effect.
    variance: of the estimate; None where nothing tells it.
    fixed_variance: the part that more seeds do not lower.
    dof: degrees of freedom of `variance`.
    over: 'seeds and examples', 'seeds', 'examples', or ''.
    num_seeds: the fewest of any objective.
    reason: why there is no variance, or ''.
  """

  estimate: float
  variance: float | None = None
  fixed_variance: float = 0.0
  dof: float = math.inf
  over: str = ''
  num_seeds: int = 1
  reason: str = ''

  @property
  def standard_error(self) -> float | None:
    """Standard error of the estimate; None without a variance."""
    return None if self.variance is None else math.sqrt(self.variance)

  @property
  def interval(self) -> tuple[float, float] | None:
    """Interval of 95 %; None without a variance."""
    if self.variance is None:
      return None
    half = stats.t.ppf(1 - LEVEL / 2, self.dof) * self.standard_error
    return float(self.estimate - half), float(self.estimate + half)

  @property
  def excludes_zero(self) -> bool | None:
    """Whether 0 lies outside of the interval; None without one."""
    if self.interval is None:
      return None
    low, high = self.interval
    return low > 0 or high < 0

  def p_above(self, threshold: float = 0.0) -> float:
    """One-sided p-value for the effect being above; 1 without a variance."""
    return self._p(self.estimate - threshold)

  def p_below(self, threshold: float = 0.0) -> float:
    """One-sided p-value for the effect being below; 1 without a variance."""
    return self._p(threshold - self.estimate)

  def _p(self, distance):
    if self.variance is None:
      return 1.0
    p_value = float(stats.t.sf(distance / self.standard_error, self.dof))
    return max(p_value, SMALLEST_P)

  @property
  def detectable(self) -> float | None:
    """The smallest effect that a test at 5 % finds with 80 % power."""
    if self.variance is None:
      return None
    if _power(_MAX_NONCENTRALITY, self.dof) < POWER:
      return math.inf
    found = optimize.brentq(
      lambda x: _power(x, self.dof) - POWER, 0.0, _MAX_NONCENTRALITY
    )
    return float(found * self.standard_error)

  def seeds_needed(
    self, effect: float | None = None, *, level: float = LEVEL
  ) -> int | None:
    """Seeds of each objective that find an effect with 80 % power.

    Args:
      effect: that is to be found; None for the estimate.
      level: of the two-sided test.

    Returns:
      None if no number does on these examples, or spread over seeds is unknown.
    """
    size = abs(self.estimate if effect is None else effect)
    if self.variance is None or 'seeds' not in self.over or not size:
      return None

    def enough(seeds):
      variance = self.fixed_variance + (self.variance - self.fixed_variance) * (
        self.num_seeds / seeds
      )
      dof = self.dof * (seeds - 1) / (self.num_seeds - 1)
      return _power(size / math.sqrt(variance), dof, level=level) >= POWER

    # Normal quantiles need fewer than Student's: where the search begins.
    normal = size / (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER))
    reducible = normal**2 - self.fixed_variance
    if reducible <= 0:
      return None
    first = (self.variance - self.fixed_variance) * self.num_seeds / reducible
    if first > _MAX_SEEDS:
      return None
    seeds = max(2, math.ceil(first))  # one is never enough
    while not enough(seeds):
      seeds += 1
    return seeds


def _power(noncentrality: float, dof: float, *, level: float = LEVEL) -> float:
  """Power of a two-sided t-test; the wrong side's share is left out."""
  if noncentrality > _MAX_NONCENTRALITY:
    return 1.0
  critical = stats.t.ppf(1 - level / 2, dof)
  if dof > 1e6:  # nct wants them finite
    return float(stats.norm.sf(critical - noncentrality))
  return float(stats.nct.sf(critical, dof, noncentrality))


def contrast(
  terms: Sequence[tuple[float, Sample]], *, constant: float = 0.0
) -> Effect:
  """A weighted sum of the means of different objectives, plus a constant.

  Args:
    terms: weights and samples; resampled examples are shared.
    constant: without uncertainty.
  """
  estimate = constant + sum(weight * sample.mean for weight, sample in terms)
  num_seeds = min(len(sample.values) for _, sample in terms)
  on_examples = all(sample.resampled is not None for _, sample in terms)
  if num_seeds < 2 and not on_examples:
    return Effect(estimate, reason='one seed, and no values of examples')
  parts = [weight**2 * sample.seeds_variance for weight, sample in terms]
  over_seeds = sum(parts) if num_seeds > 1 else 0.0
  if not on_examples:
    if not over_seeds:
      return Effect(
        estimate, num_seeds=num_seeds, reason='nothing varies over seeds'
      )
    variance, fixed = over_seeds, 0.0
  else:
    draws = sum(weight * sample.draws() for weight, sample in terms)
    seeds, examples, both = np.var(draws, axis=1, ddof=1)
    interaction = max(0.0, both - seeds - examples) if num_seeds > 1 else 0.0
    fixed = max(0.0, examples - interaction)
    variance = max(over_seeds, examples, over_seeds + examples - interaction)
    # Two objectives that are right on the very same examples.
    if variance <= (1e-12 * max(abs(s.mean) for _, s in terms)) ** 2:
      return Effect(
        estimate,
        num_seeds=num_seeds,
        reason='nothing varies over seeds or examples',
      )
  rest = max(0.0, variance - over_seeds)
  squares = rest**2 / max(1, max(s.num_examples for _, s in terms) - 1)
  if num_seeds > 1:
    squares += sum(
      part**2 / (len(sample.values) - 1)
      for part, (_, sample) in zip(parts, terms, strict=True)
    )
  names = ['seeds'] * (num_seeds > 1) + ['examples'] * on_examples
  return Effect(
    estimate=estimate,
    variance=float(variance),
    fixed_variance=min(fixed, float(variance)),
    dof=float(variance**2 / squares) if squares else math.inf,
    over=' and '.join(names),
    num_seeds=num_seeds,
  )


def difference(a: Sample, b: Sample) -> Effect:
  """The mean of `a` minus that of `b`."""
  return contrast([(1.0, a), (-1.0, b)])
