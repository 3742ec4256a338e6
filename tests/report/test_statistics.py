"""Tests and intervals against SciPy, and by enumeration."""

import itertools

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
  assert statistics.welch_test(a, b) == statistics.Test(expected)


@pytest.mark.filterwarnings('error')
def test_welch_without_spread():
  """353 of 355 right three times, 352 three times: no p-value, and a reason."""
  single = statistics.welch_test([1.0], [2.0, 3.0])
  assert single == statistics.Test(reason='one seed has no spread')
  expected = statistics.Test(reason='neither varies over seeds')
  more, fewer = [353 / 355] * 3, [352 / 355] * 3
  assert statistics.welch_test(more, fewer) == expected
  assert statistics.welch_test(more, more) == expected
  third = [1 / 3, 1 - 2 / 3, 1 / 3]  # equal but for rounding
  assert statistics.welch_test(third, more) == expected
  # One group alone without spread: Student's t with one degree of freedom.
  p = statistics.welch_test([0.5, 0.5], [0.6, 0.8]).p_value
  assert p == pytest.approx(2 * stats.t.sf(2.0, df=1))


def test_holm_by_hand():
  # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never decreasing.
  p = [0.03, 0.01, None, 0.04, 0.02]
  expected = [0.06, 0.04, None, 0.06, 0.06]
  assert [
    q if q is None else round(q, 12) for q in statistics.holm(p)
  ] == expected
  assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]


def test_bootstrap_against_all_resamples():
  """Four examples have 4^4 resamples: the exact distribution of the mean."""
  a, b = np.array([1, 1, 0, 1.0]), np.array([0, 1, 0, 0.5])
  exact = [np.mean(d) for d in itertools.product(a - b, repeat=4)]
  low, high = statistics.paired_bootstrap(
    a, b, num_resamples=40_000, level=0.5, seed=1
  )
  assert (low, high) == tuple(np.quantile(exact, [0.25, 0.75]))


def test_bootstrap_covers_and_repeats():
  rng = np.random.default_rng(0)
  a, b = rng.random(5000) < 0.8, rng.random(5000) < 0.75
  low, high = statistics.paired_bootstrap(a, b)
  difference = a.mean() - b.mean()
  half = 1.96 * np.std(a.astype(float) - b) / np.sqrt(5000)
  assert low == pytest.approx(difference - half, abs=2e-3)
  assert high == pytest.approx(difference + half, abs=2e-3)
  assert statistics.paired_bootstrap(a, b) == (low, high)
  with pytest.raises(ValueError, match='same examples'):
    statistics.paired_bootstrap(a, b[:-1])
