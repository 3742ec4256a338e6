"""Singular value spectra against SciPy."""

import jax
import numpy as np
import pytest
from scipy import linalg

from lossbench.metrics.spectra import (
  ActivationSpectrum,
  class_centroids,
  participation_ratio,
  singular_values,
)


def _features(num_examples=90, num_features=8, mean=3.0):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num_examples, num_features)) * np.logspace(
    0, -1.5, num_features
  )
  rotation, _ = np.linalg.qr(rng.normal(size=(num_features, num_features)))
  return (x @ rotation + mean).astype(np.float32)


@jax.jit
def _update(accumulator, features, mask):
  return accumulator.update(features, mask)


def _streamed(features, batch_size=32):
  accumulator = ActivationSpectrum.empty(features.shape[1])
  for start in range(0, len(features), batch_size):
    batch = features[start : start + batch_size]
    mask = np.arange(batch_size) < len(batch)
    fill = ((0, batch_size - len(batch)), (0, 0))
    batch = np.pad(batch, fill, constant_values=np.nan)
    accumulator = _update(accumulator, batch, mask)
  return accumulator


@pytest.mark.parametrize('centered', [False, True])
@pytest.mark.parametrize('mean', [0.0, 3.0, 100.0])
def test_scipy(centered, mean):
  x = _features(mean=mean)
  wide = x.astype(np.float64)
  expected = linalg.svdvals(wide - wide.mean(0) if centered else wide)
  got = singular_values(x, centered=centered)
  np.testing.assert_allclose(got, expected, rtol=1e-9)
  streamed = _streamed(x).singular_values(centered=centered)
  atol = 0 if centered else 3e-4 * expected[0]
  np.testing.assert_allclose(streamed, expected, rtol=1e-4, atol=atol)


def test_fewer_examples_than_features():
  x = _features(5, 8)
  for centered in (False, True):
    expected = singular_values(x, centered=centered)
    got = _streamed(x).singular_values(centered=centered)
    assert len(expected) == len(got) == 5
    np.testing.assert_allclose(got, expected, atol=1e-3 * expected[0])


def test_identities():
  x = _features()
  values = singular_values(x, centered=True)
  variance = x.astype(np.float64).var(axis=0).sum()
  assert np.sum(values**2) / 90 == pytest.approx(variance)
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
  np.testing.assert_allclose(
    singular_values(x @ rotation, centered=True), values
  )
  np.testing.assert_allclose(
    singular_values(x - 7.0, centered=True), values, rtol=1e-5
  )


def test_participation_ratio():
  assert participation_ratio([2.0, 2.0, 2.0, 0.0]) == pytest.approx(3)
  assert participation_ratio([1e-200, 0.0]) == 1
  assert participation_ratio([2.0, 1.0]) == pytest.approx(25 / 17)
  assert np.isnan(participation_ratio([0.0, 0.0]))
  x = _features()
  expected = participation_ratio(singular_values(x, centered=True))
  assert _streamed(x).compute() == pytest.approx(expected, rel=1e-6)


def test_class_centroids():
  x = _features()
  labels = np.arange(90) % 4
  got = class_centroids(x, labels)
  expected = [x[labels == k].mean(0, dtype=np.float64) for k in range(4)]
  np.testing.assert_allclose(got, expected)
  np.testing.assert_array_equal(class_centroids(x, labels * 10), got)
  with pytest.raises(ValueError, match='1 of 5 classes have no examples: 4'):
    class_centroids(x, labels, num_classes=5)
  with pytest.raises(ValueError, match='22 of 90 labels are not class ids'):
    class_centroids(x, labels, num_classes=3)
  with pytest.raises(ValueError, match='at least two classes; got 1'):
    class_centroids(x, labels * 0)


def test_refusals():
  x = _features()
  with pytest.raises(ValueError, match='at least 2 examples'):
    singular_values(x[:1], centered=True)
  with pytest.raises(ValueError, match=r'matrix must be .* got \(8,\)'):
    singular_values(x[0], centered=True)
  with pytest.raises(ValueError, match='got 0'):
    ActivationSpectrum.empty(8).compute()
  with pytest.raises(ValueError, match=r'\[batch, 7\]; got \(90, 8\)'):
    ActivationSpectrum.empty(7).update(x, None)
  with pytest.raises(ValueError, match='num_features must be at least 1'):
    ActivationSpectrum.empty(0)
  x[3, 3] = np.inf
  with pytest.raises(ValueError, match='1 of 90 rows of matrix hold NaN'):
    singular_values(x, centered=False)
  with pytest.raises(ValueError, match='1 of 90 rows of features hold NaN'):
    _streamed(x).singular_values(centered=False)


def test_dead_units_are_0_on_every_example():
  features = np.maximum(np.random.default_rng(0).normal(size=(40, 5)), 0)
  features[:, 1] = 0
  features[:, 3] = 7  # constant, but not dead
  features[:39, 4] = 0  # alive once
  spectrum = ActivationSpectrum.empty(5)
  for rows in (features[:20], features[20:]):
    spectrum = spectrum.update(rows.astype(np.float32), None)
  assert spectrum.dead_unit_fraction() == 0.2
