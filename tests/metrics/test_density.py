"""Smooth densities against SciPy's, with the mirrored values beside it."""

import numpy as np
import pytest
from scipy import stats

from lossbench.metrics.density import smooth_density

EDGES = np.linspace(0, 2, 4001)


def _values():
  """Many near 0, where features of one class lie."""
  return np.abs(np.random.default_rng(0).normal(0, 0.2, size=500))


def test_scipy_with_mirrors():
  values = _values()
  mirrored = np.concatenate([values, -values, 4 - values])
  kde = stats.gaussian_kde(mirrored, 0.05 / mirrored.std(ddof=1))
  points = np.linspace(0, 2, 201)
  density = smooth_density(
    np.histogram(values, EDGES)[0],
    EDGES,
    points,
    num_examples=9,
    bandwidth=0.05,
  )
  np.testing.assert_allclose(density, 3 * kde(points), rtol=2e-3, atol=1e-4)
  assert np.trapezoid(density, points) == pytest.approx(1, abs=1e-3)


def test_the_rule_for_the_bandwidth():
  values, points = _values(), np.linspace(0, 2, 21)
  counts = np.histogram(values, EDGES)[0]
  rule = smooth_density(counts, EDGES, points, num_examples=32)
  explicit = smooth_density(
    counts,
    EDGES,
    points,
    num_examples=1,
    bandwidth=1.06 * values.std() / 2,  # 32^(-1/5) = 1/2
  )
  np.testing.assert_allclose(rule, explicit, rtol=1e-2, atol=1e-4)
  # Of equal values a bin's width is the least.
  alone = smooth_density([0, 7, 0], [0, 1, 2, 3], [1.5], num_examples=32)
  mirrors = 2 * np.exp(-(3**2) / 2)
  expected = (1 + mirrors) / np.sqrt(2 * np.pi)
  np.testing.assert_allclose(alone, expected)


def test_nothing_counted_and_refusals():
  assert np.isnan(
    smooth_density([0, 0], [0, 1, 2], [0.5, 1], num_examples=3)
  ).all()
  with pytest.raises(ValueError, match='points must be'):
    smooth_density([1, 1], [0, 1, 2], 0.5, num_examples=3)
  with pytest.raises(ValueError, match=r'at least a bin, 1; got 0\.5'):
    smooth_density([1, 1], [0, 1, 2], [0.5], num_examples=3, bandwidth=0.5)
