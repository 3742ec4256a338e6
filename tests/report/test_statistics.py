"""Tests and effect sizes against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from lossbench.report import statistics


def test_mean_and_standard_error():
  values = [0.1, 0.4, 0.7, 0.2]
  mean, error = statistics.mean_and_standard_error(values)
  assert mean == pytest.approx(0.35)
  assert error == pytest.approx(stats.sem(values))
  assert statistics.mean_and_standard_error([0.5]) == (0.5, None)
  with pytest.raises(ValueError, match='no values'):
    statistics.mean_and_standard_error([])


@pytest.mark.parametrize('seed', range(5))
def test_welch_equals_scipy(seed):
  rng = np.random.default_rng(seed)
  a, b = rng.normal(size=8), rng.normal(0.5, 3, size=5)
  expected = stats.ttest_ind(a, b, equal_var=False).pvalue
  found = statistics.welch_test(a, b)
  assert found.p_value == expected
  assert found.effect_size == statistics.hedges_g(a, b)


def test_hedges_g_is_unbiased_and_cohens_d_corrected():
  """Against d by hand, J = 1 - 3 / (4 dof - 1) nearly, and simulation."""
  a, b = np.array([3.0, 5.0, 7.0]), np.array([1.0, 2.0, 3.0, 2.0])
  pooled = np.sqrt((2 * 4.0 + 3 * 2 / 3) / 5)
  expected = 3.0 / pooled * (1 - 3 / (4 * 5 - 1))
  assert statistics.hedges_g(a, b) == pytest.approx(expected, rel=2e-3)
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=(4000, 2, 3)) + np.array([[1.0], [0.0]])
  found = [statistics.hedges_g(x, y) for x, y in drawn]
  assert np.mean(found) == pytest.approx(1, abs=0.05)
  assert statistics.hedges_g([1.0], b) is None
  assert statistics.hedges_g([1.0, 1.0], [2.0, 2.0]) is None


@pytest.mark.filterwarnings('error')
def test_welch_without_spread():
  """353 of 355 right three times, 352 three times: no p-value, and a reason."""
  single = statistics.welch_test([1.0], [2.0, 3.0])
  assert single == statistics.Welch(reason='one seed has no spread')
  expected = statistics.Welch(reason='neither varies over seeds')
  more, fewer = [353 / 355] * 3, [352 / 355] * 3
  assert statistics.welch_test(more, fewer) == expected
  assert statistics.welch_test(more, more) == expected
  third = [1 / 3, 1 - 2 / 3, 1 / 3]  # equal but for rounding
  assert statistics.welch_test(third, more) == expected
  # One group alone without spread: Student's t with one degree of freedom.
  p = statistics.welch_test([0.5, 0.5], [0.6, 0.8]).p_value
  assert p == pytest.approx(2 * stats.t.sf(2.0, df=1))


@pytest.mark.parametrize('scale', [0.3, 1.0, 4.0])
def test_spread_ratio_is_a_test_of_sum_and_difference(scale):
  """Against SciPy's correlation of both; the interval's ends are just refused."""
  rng = np.random.default_rng(7)
  common = rng.normal(size=9)
  a, b = scale * (common + rng.normal(size=9)), common + rng.normal(size=9)
  found = statistics.spread_ratio(a, b)
  assert found.ratio == pytest.approx(np.std(a) / np.std(b))
  for alternative, p in (('greater', found.p_above), ('less', found.p_below)):
    tested = stats.pearsonr(a + b, a - b, alternative=alternative)
    assert p == pytest.approx(tested.pvalue)
  for ratio in found.interval:
    moved = a / ratio
    assert stats.pearsonr(moved + b, moved - b).pvalue == pytest.approx(0.05)


def test_noise_is_taken_off_of_what_is_to_spread_more():
  rng = np.random.default_rng(1)
  a, b = 3 * rng.normal(size=9), rng.normal(size=9)
  noise = statistics.Noise(0.25 * np.var(a, ddof=1), dof=18)
  found = statistics.spread_ratio(a, b, noise=(noise, statistics.Noise()))
  smaller = statistics.spread_ratio(np.sqrt(0.75) * a, b)
  whole = statistics.spread_ratio(a, b)
  f_test = stats.f.sf(4, 8, 18)
  assert noise.p_value(a) == pytest.approx(f_test)
  assert found.p_above == pytest.approx(max(f_test, smaller.p_above))
  assert found.interval == pytest.approx(
    (smaller.interval[0], whole.interval[1])
  )
  assert found.p_below == whole.p_below
  # What may be noise alone is no spread.
  noise = statistics.Noise(2 * np.var(a, ddof=1), dof=18)
  found = statistics.spread_ratio(a, b, noise=(noise, statistics.Noise()))
  assert found.p_above == 1
  assert found.interval[0] == 0
  found = statistics.spread_ratio(b, a, noise=(statistics.Noise(), noise))
  assert found.p_below == 1
  assert found.interval[1] == np.inf


def test_spread_ratio_finds_what_it_says_it_can():
  """In 80 % of simulated studies of nine losses."""
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=(2000, 2, 9))
  detectable = np.median(
    [statistics.spread_ratio(*pair).detectable for pair in drawn[:200]]
  )
  found = [statistics.spread_ratio(detectable * a, b) for a, b in drawn]
  assert np.mean([2 * f.p_above <= 0.05 for f in found]) == pytest.approx(
    0.8, abs=0.03
  )


def test_spread_ratio_without_spread():
  values = [0.1, 0.2, 0.4, 0.3]
  assert statistics.spread_ratio([0.5] * 4, values) is None
  assert statistics.spread_ratio(values[:3], values[1:]) is None
  # Alike to the last digit: neither spreads more.
  same = statistics.spread_ratio(values, values)
  assert (same.ratio, same.p_above) == (1, 0.5)


def test_holm_by_hand():
  # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never decreasing.
  p = [0.03, 0.01, None, 0.04, 0.02]
  expected = [0.06, 0.04, None, 0.06, 0.06]
  assert [
    q if q is None else round(q, 12) for q in statistics.holm(p)
  ] == expected
  assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
