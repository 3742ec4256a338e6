"""Angular visual hardness against a loop and hand values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.metrics import hardness
from lossbench.metrics.hardness import (
  AngularVisualHardness,
  angular_visual_hardness,
)

cosine_similarities = jax.jit(hardness.cosine_similarities)


def _data(num_examples=60, num_features=5, num_classes=7):
  rng = np.random.default_rng(0)
  features = rng.normal(size=(num_examples, num_features)).astype(np.float32)
  kernel = rng.normal(size=(num_features, num_classes)).astype(np.float32)
  return features, rng.integers(num_classes, size=num_examples), kernel


def _naive(features, labels, kernel):
  values = []
  for x, label in zip(features.astype(np.float64), labels, strict=True):
    angles = []
    for w in kernel.T.astype(np.float64):
      cosine = sum(a * b for a, b in zip(x, w, strict=True))
      cosine /= math.sqrt(sum(x**2)) * math.sqrt(sum(w**2))
      angles.append(math.acos(max(-1.0, min(1.0, cosine))))
    values.append(angles[label] / sum(angles))
  return np.array(values)


@jax.jit
def _update(accumulator, features, labels, kernel, mask):
  cosines = hardness.cosine_similarities(features, kernel)
  return accumulator.update(cosines, labels, mask)


def _streamed(features, labels, kernel, mask=None):
  empty = AngularVisualHardness.empty()
  return _update(empty, features, labels, kernel, mask).compute()


def test_naive_loop():
  features, labels, kernel = _data()
  expected = _naive(features, labels, kernel)
  got = angular_visual_hardness(features, labels, kernel=kernel)
  np.testing.assert_allclose(got, expected, rtol=1e-10)
  streamed = _streamed(features, labels, kernel)
  assert streamed == pytest.approx(expected.mean(), rel=1e-6)


def test_hand_values():
  # Weights at 0, 90 and 180 degrees, an example at 45: angles 45, 45, 135.
  kernel = np.array([[1.0, 0.0, -3.0], [0.0, 2.0, 0.0]])
  features = np.array([[5.0, 5.0], [5.0, 5.0], [1.0, 0.0], [-1.0, 0.0]])
  labels = np.array([0, 2, 0, 0])
  got = angular_visual_hardness(features, labels, kernel=kernel)
  np.testing.assert_allclose(got, [0.2, 0.6, 0.0, 2 / 3], atol=1e-12)
  expected = np.mean([0.2, 0.6, 0.0, 2 / 3])
  assert _streamed(features, labels, kernel) == pytest.approx(expected)


@pytest.mark.parametrize('scale', [1e-30, 1e-3, 1e30])
def test_lengths_do_not_matter(scale):
  features, labels, kernel = _data()
  expected = angular_visual_hardness(features, labels, kernel=kernel)
  scaled = np.float32(scale) * features, labels
  lengths = np.random.default_rng(1).uniform(0.1, 10, 7).astype(np.float32)
  got = angular_visual_hardness(*scaled, kernel=kernel * lengths)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  streamed = _streamed(*scaled, kernel * lengths)
  assert streamed == pytest.approx(expected.mean(), rel=1e-6)


def test_zero_features_are_as_far_from_every_class():
  _, labels, kernel = _data()
  zeros = np.zeros((60, 5))
  got = angular_visual_hardness(zeros, labels, kernel=kernel)
  np.testing.assert_allclose(got, 1 / 7)
  assert _streamed(zeros, labels, kernel) == pytest.approx(1 / 7)


def test_cosines_stay_in_range():
  features, _, _ = _data()
  cosines = cosine_similarities(features, features.T)
  assert np.max(cosines) <= 1
  np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)


def test_bfloat16_is_rounded_in_the_features_only():
  features, _, kernel = _data()
  rounded = features.astype(jnp.bfloat16)
  cosines = cosine_similarities(rounded, kernel)
  assert cosines.dtype == jnp.float32
  expected = cosine_similarities(rounded.astype(np.float32), kernel)
  np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_one_feature_has_two_directions():
  kernel = np.array([[2.0, -0.5]])
  got = angular_visual_hardness(
    np.array([[3.0], [3.0], [-1.0]]), np.array([0, 1, 1]), kernel=kernel
  )
  np.testing.assert_allclose(got, [0.0, 1.0, 0.0], atol=1e-12)


def test_parallel_vectors_whose_cosine_rounds_above_one():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(5, 400))
  got = angular_visual_hardness(3 * kernel.T, np.arange(400), kernel=kernel)
  np.testing.assert_allclose(got, 0, atol=1e-9)


def test_mask_and_broken_rows():
  features, labels, kernel = _data()
  expected = angular_visual_hardness(features, labels, kernel=kernel)
  features[[3, 5], 2] = np.nan
  labels[4] = 7
  keep = ~np.isin(np.arange(60), [3, 4, 5])
  got = _streamed(features, labels, kernel, keep)
  assert got == pytest.approx(expected[keep].mean(), rel=1e-6)
  with pytest.raises(ValueError, match='2 of 60 rows of features hold NaN'):
    angular_visual_hardness(features, labels, kernel=kernel)
  with pytest.raises(ValueError, match='2 of 60 rows of features hold NaN'):
    _streamed(features, labels, kernel)
  good = np.nan_to_num(features)
  with pytest.raises(ValueError, match='1 of 60 labels are not class ids'):
    angular_visual_hardness(good, labels, kernel=kernel)
  with pytest.raises(ValueError, match='1 of 60 labels are not class ids'):
    _streamed(good, labels, kernel)


def test_refusals():
  features, labels, kernel = _data()
  with pytest.raises(ValueError, match=r'num_features = 5.*got \(7, 5\)'):
    angular_visual_hardness(features, labels, kernel=kernel.T)
  with pytest.raises(ValueError, match=r'labels must be \[60\]'):
    angular_visual_hardness(features, labels[1:], kernel=kernel)
  with pytest.raises(ValueError, match='integer class ids'):
    angular_visual_hardness(features, labels * 1.0, kernel=kernel)
  with pytest.raises(ValueError, match='rows of kernel hold NaN'):
    angular_visual_hardness(features, labels, kernel=kernel * np.nan)
  with pytest.raises(ValueError, match=r'\(60, 5\) and \(7, 5\)'):
    cosine_similarities(features, kernel.T)
  assert np.isnan(AngularVisualHardness.empty().compute())
