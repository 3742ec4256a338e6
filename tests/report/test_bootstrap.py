"""The bootstrap against SciPy, naive loops, exact variances and known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from lossbench.report import bootstrap
from lossbench.report.bootstrap import Effect, Sample


def _sample(values, key, examples='', num_resamples=bootstrap.NUM_RESAMPLES):
  """Of values [S, N] of examples."""
  return Sample(
    key,
    values.mean(axis=1),
    bootstrap.resampled_means(
      values, key=examples, num_resamples=num_resamples
    ),
    values.shape[1],
  )


def test_resampled_means_against_a_naive_loop():
  values = np.random.default_rng(0).normal(1000, 1, (3, 40))
  found = bootstrap.resampled_means(values, num_resamples=70)
  counts = bootstrap._example_counts(40, '', 70)
  assert (counts.sum(axis=1) == 40).all()
  expected = [
    [sum(c * v for c, v in zip(row, of, strict=True)) / 40 for of in values]
    for row in counts.astype(int)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-9)
  # The same examples are drawn for everything that is measured on them.
  again = bootstrap.resampled_means(values[1:2], num_resamples=70)
  np.testing.assert_allclose(again[:, 0], found[:, 1], rtol=1e-9)
  other = bootstrap.resampled_means(values, key='y', num_resamples=70)
  assert not np.allclose(other, found, atol=1e-3)


def test_examples_alone_against_scipy():
  """One seed each: the paired bootstrap of a difference."""
  rng = np.random.default_rng(0)
  a = rng.random(400) < 0.8
  b = a ^ (rng.random(400) < 0.1)
  found = bootstrap.difference(_sample(a[None], 'a'), _sample(b[None], 'b'))
  expected = stats.bootstrap(
    (a.astype(float) - b,),
    np.mean,
    n_resamples=4000,
    method='percentile',
    rng=np.random.default_rng(1),
  )
  assert found.over == 'examples'
  assert found.estimate == a.mean() - b.mean()
  assert found.standard_error == pytest.approx(expected.standard_error, rel=0.1)
  low, high = expected.confidence_interval
  np.testing.assert_allclose(found.interval, (low, high), atol=0.004)
  assert found.seeds_needed() is None


def test_seeds_alone_are_welchs():
  rng = np.random.default_rng(0)
  a, b = rng.normal(0.5, 1, 3), rng.normal(0, 3, 5)
  found = bootstrap.difference(Sample('a', a), Sample('b', b))
  expected = stats.ttest_ind(a, b, equal_var=False)
  np.testing.assert_allclose(found.interval, expected.confidence_interval(0.95))
  assert 2 * min(found.p_above(), found.p_below()) == pytest.approx(
    expected.pvalue
  )
  assert found.p_above() + found.p_below() == pytest.approx(1)
  assert found.over == 'seeds'
  # Resampled seeds have that variance too.
  draws = Sample('b', b).draws(20_000)
  assert draws[0].var() == pytest.approx(b.var(ddof=1) / 5, rel=0.05)
  np.testing.assert_array_equal(draws[0], draws[2])


def _crossed(rng, *, seeds, examples, both, shape=(4, 200)):
  """Values [S, N] with known standard deviations of their parts."""
  num_seeds, num_examples = shape
  return (
    rng.normal(0, seeds, (num_seeds, 1))
    + rng.normal(0, examples, (1, num_examples))
    + rng.normal(0, both, shape)
  )


def test_both_against_a_naive_loop():
  """Draw seeds and examples by hand, and mean over what was drawn."""
  rng = np.random.default_rng(0)
  values = _crossed(rng, seeds=0.1, examples=1, both=1, shape=(4, 30))
  naive = []
  for _ in range(20_000):
    rows = rng.integers(0, 4, 3)  # one fewer
    columns = rng.integers(0, 30, 30)
    naive.append(values[rows][:, columns].mean())
  [_, _, both] = _sample(values, 'a', num_resamples=20_000).draws(20_000)
  assert both.mean() == pytest.approx(np.mean(naive), abs=0.01)
  assert both.var() == pytest.approx(np.var(naive), rel=0.05)


@pytest.mark.parametrize(
  'parts',
  [
    dict(seeds=0.2, examples=1, both=1),
    dict(seeds=0, examples=0, both=1),
    dict(seeds=0.3, examples=0, both=0.5),
    dict(seeds=0, examples=1, both=0.1),
  ],
  ids=str,
)
def test_intervals_cover(parts, monkeypatch):
  """95 % of the time, of a difference of 0 with three seeds; no less."""
  monkeypatch.setattr(Sample.draws, '__defaults__', (200,))
  rng = np.random.default_rng(0)
  shape = (3, 60)
  covered, widths, estimates = [], [], []
  for trial in range(400):
    samples = [
      _sample(_crossed(rng, **parts, shape=shape), name, f'{trial}', 200)
      for name in 'ab'
    ]
    found = bootstrap.difference(*samples)
    covered.append(not found.excludes_zero)
    widths.append(found.variance)
    estimates.append(found.estimate)
  assert np.mean(covered) >= 0.93
  # Nor are they much wider than they must be.
  assert np.mean(widths) < 1.6 * np.var(estimates)


def test_accuracies_of_resampled_runs_cover(monkeypatch):
  """Right or wrong, with examples that are hard for all."""
  monkeypatch.setattr(Sample.draws, '__defaults__', (200,))
  rng = np.random.default_rng(0)
  covered = []
  for trial in range(200):
    hardness = rng.beta(2, 0.5, 150)
    samples = []
    for name in 'ab':
      right = rng.random((3, 150)) < hardness
      samples.append(_sample(right, name, f'{trial}', 200))
    covered.append(not bootstrap.difference(*samples).excludes_zero)
  assert np.mean(covered) >= 0.93


def test_nothing_varies():
  equal = Sample('a', np.array([0.5, 0.5])), Sample('b', np.array([0.6, 0.6]))
  found = bootstrap.difference(*equal)
  assert found.interval is None
  assert found.reason == 'nothing varies over seeds'
  assert found.p_above() == found.p_below() == 1
  right = np.tile(np.arange(50) < 40, (2, 1))
  found = bootstrap.difference(_sample(right, 'a'), _sample(right, 'b'))
  assert found.reason == 'nothing varies over seeds or examples'
  single = bootstrap.difference(Sample('a', np.ones(1)), equal[0])
  assert single.reason == 'one seed, and no values of examples'
  assert single.excludes_zero is None


def test_the_same_records_give_the_same_interval():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(2, 3, 50))
  found = [
    bootstrap.difference(_sample(values[0], 'a'), _sample(values[1], 'b'))
    for _ in range(2)
  ]
  assert found[0] == found[1]


def _welch_power(num_seeds, size, rng, num_trials=4000):
  a, b = rng.normal(size=(2, num_trials, num_seeds))
  p = stats.ttest_ind(a + size, b, axis=1, equal_var=False).pvalue
  return np.mean(p < 0.05)


def test_seeds_needed_against_published_sizes_and_simulation():
  """Cohen 1992, table 2: 26 and 64 a group find d = 0.8 and 0.5 (80 %, 5 %)."""
  ten = np.repeat([-1.0, 1.0], 5) * math.sqrt(0.9)
  assert np.var(ten, ddof=1) == pytest.approx(1)
  found = bootstrap.difference(Sample('a', ten), Sample('b', ten))
  assert [found.seeds_needed(size) for size in (0.8, 0.5)] == [26, 64]
  assert _welch_power(26, 0.8, np.random.default_rng(0)) == pytest.approx(
    0.8, abs=0.03
  )
  # And the detectable effect is the one for which the present seeds are enough.
  assert found.seeds_needed(found.detectable * 1.001) == 10
  assert found.seeds_needed(found.detectable * 0.98) > 10


def test_more_seeds_do_not_help_where_examples_decide():
  effect = Effect(
    0.1,
    variance=0.01,
    fixed_variance=0.005,
    dof=10,
    over='seeds and examples',
    num_seeds=3,
  )
  assert effect.seeds_needed() is None
  assert effect.seeds_needed(0.5) <= 4
