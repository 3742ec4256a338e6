"""Influence values against the metrics and their numerical derivatives."""

import numpy as np
import pytest

from lossbench.metrics import influence
from lossbench.metrics.calibration import expected_calibration_error
from lossbench.metrics.separation import class_separation

N, K = 90, 4


def _derivatives(metric_fn, rows=7, copies=2000):
  """N dT/dw_n by counting one example once more among many copies of all.

  Weights n -> (copies + [n = i]) / (copies N + 1), so w_i moves by about
  (1 - 1/N) / (copies N), and the others by their share.
  """
  base = metric_fn(np.ones(N))
  found = []
  for i in range(rows):
    weights = np.full(N, float(copies))
    weights[i] += 1
    found.append((metric_fn(weights) - base) * (copies * N + 1))
  return base, np.array(found)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_values_of_the_calibration_error(rng):
  probs = rng.dirichlet(np.full(K, 0.5), N)
  labels = rng.integers(0, K, N)
  log_probs = np.log(probs).astype(np.float32)
  correct = probs.argmax(1) == labels
  values = influence.calibration_error_values(log_probs.max(1), correct)
  assert values.mean() == pytest.approx(
    float(expected_calibration_error(log_probs, labels)), rel=1e-5
  )
  bins = np.ceil(probs.max(1) * 15).astype(int) - 1

  def metric(weights):
    gaps = np.bincount(bins, weights * (correct - probs.max(1)), 15)
    return np.abs(gaps).sum() / weights.sum()

  base, expected = _derivatives(metric)
  np.testing.assert_allclose(values[:7] - base, expected, atol=1e-4)


def test_values_of_the_mean_class_accuracy(rng):
  labels = rng.integers(0, K, N)
  correct = rng.random(N) < 0.3 + 0.1 * labels

  def metric(weights):
    return np.mean(
      [
        np.average(correct[labels == k], weights=weights[labels == k])
        for k in range(K)
      ]
    )

  values = influence.mean_class_accuracy_values(correct, labels)
  base, expected = _derivatives(metric)
  assert values.mean() == pytest.approx(base)
  np.testing.assert_allclose(values[:7] - base, expected, atol=2e-3)


def test_values_of_the_class_separation(rng):
  labels = rng.integers(0, K, N)
  features = rng.normal(size=(N, 5)) + np.eye(5)[labels]
  values = influence.class_separation_values(features, labels)
  assert values.mean() == pytest.approx(class_separation(features, labels))
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)

  def metric(weights):
    means = np.array(
      [
        np.average(unit[labels == k], axis=0, weights=weights[labels == k])
        for k in range(K)
      ]
    )
    within = 1 - np.mean(np.sum(means**2, 1))
    return 1 - within / (1 - np.sum(means.mean(0) ** 2))

  base, expected = _derivatives(metric)
  np.testing.assert_allclose(values[:7] - base, expected, atol=2e-3)
  # Of embeddings of one direction it is 0/0.
  same = influence.class_separation_values(np.ones((N, 5)), labels)
  assert np.isnan(same).all()


def test_refusals():
  with pytest.raises(ValueError, match=r'both \[num_examples\]'):
    influence.calibration_error_values(np.zeros(3), np.zeros(2, bool))
  with pytest.raises(ValueError, match=r'both \[num_examples\]'):
    influence.mean_class_accuracy_values(np.zeros(3), np.zeros(2, int))
  with pytest.raises(ValueError, match='labels must be'):
    influence.class_separation_values(np.ones((3, 2)), np.zeros(2, int))
