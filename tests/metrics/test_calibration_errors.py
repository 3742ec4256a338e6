"""Class-wise and adaptive calibration errors against loops."""

import jax
import numpy as np
import pytest
from scipy import special

from lossbench.metrics import calibration_errors
from lossbench.metrics.calibration_errors import (
  ClasswiseCalibrationError,
  adaptive_calibration_error,
  adaptive_classwise_error,
)

classwise_calibration_error = jax.jit(
  calibration_errors.classwise_calibration_error, static_argnames='num_bins'
)


def _predictions(*, sharpness=1.0, num_examples=300, num_classes=6):
  rng = np.random.default_rng(0)
  logits = 2.0 * rng.normal(size=(num_examples, num_classes))
  cumulative = np.cumsum(special.softmax(logits, axis=1), axis=1)
  labels = (rng.random((num_examples, 1)) > cumulative).sum(axis=1)
  log_probs = special.log_softmax(sharpness * logits, axis=1)
  return log_probs.astype(np.float32), labels


@jax.jit
def _update(accumulator, log_probs, labels, mask):
  return accumulator.update(log_probs, labels, mask)


def _classwise(log_probs, labels, *, num_bins=15, mask=None):
  num_classes = log_probs.shape[1]
  empty = ClasswiseCalibrationError.empty(num_classes, num_bins=num_bins)
  return _update(empty, log_probs, labels, mask)


def _naive_classwise(log_probs, labels, num_bins):
  probs = np.exp(log_probs.astype(np.float64))
  num_examples, num_classes = probs.shape
  error = 0.0
  for k in range(num_classes):
    for b in range(num_bins):
      inside = (probs[:, k] > b / num_bins) & (
        probs[:, k] <= (b + 1) / num_bins
      )
      if inside.any():
        gap = np.mean(labels[inside] == k) - np.mean(probs[inside, k])
        error += inside.sum() / num_examples * abs(gap)
  return error / num_classes


def _naive_adaptive(confidence, correct, num_bins):
  order = np.argsort(confidence, kind='stable')
  error = 0.0
  for part in range(num_bins):
    # As Python's slices of N * part // num_bins.
    start = part * len(order) // num_bins
    stop = (part + 1) * len(order) // num_bins
    inside = order[start:stop]
    gap = np.mean(correct[inside]) - np.mean(confidence[inside])
    error += len(inside) / len(order) * abs(gap)
  return error


@pytest.mark.parametrize('sharpness', [0.3, 1.0, 4.0])
@pytest.mark.parametrize('num_bins', [1, 4, 15])
def test_classwise_loops(sharpness, num_bins):
  log_probs, labels = _predictions(sharpness=sharpness)
  expected = _naive_classwise(log_probs, labels, num_bins)
  got = classwise_calibration_error(log_probs, labels, num_bins=num_bins)
  assert got == pytest.approx(expected, rel=1e-5, abs=1e-7)
  streamed = _classwise(log_probs, labels, num_bins=num_bins)
  assert streamed.compute() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_classwise_reliability():
  log_probs, labels = _predictions()
  accumulator = _classwise(log_probs, labels, num_bins=4)
  diagram = accumulator.reliability()
  assert diagram.num_examples.shape == (6, 4)
  np.testing.assert_array_equal(diagram.num_examples.sum(axis=1), 300)
  np.testing.assert_array_equal(diagram.upper, [0.25, 0.5, 0.75, 1])
  inside = (log_probs[:, 2] > np.log(0.25)) & (log_probs[:, 2] <= np.log(0.5))
  assert diagram.accuracy[2, 1] == pytest.approx(np.mean(labels[inside] == 2))
  expected = np.mean(np.exp(log_probs[inside, 2]))
  assert diagram.confidence[2, 1] == pytest.approx(expected, rel=1e-6)


def test_classwise_edges_and_masks():
  log_probs = np.log(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32))
  labels = np.array([0, 1])
  diagram = _classwise(log_probs, labels, num_bins=4).reliability()
  np.testing.assert_array_equal(diagram.num_examples[0], [1, 1, 0, 0])
  np.testing.assert_array_equal(diagram.num_examples[1], [0, 1, 1, 0])
  certain = np.array([[0.0, -np.inf]])
  assert _classwise(certain, np.array([0])).compute() == 0
  assert _classwise(certain, np.array([1])).compute() == 1
  log_probs, labels = _predictions()
  mask = np.arange(300) % 3 == 0
  expected = _naive_classwise(log_probs[mask], labels[mask], 15)
  broken = np.where(mask[:, None], log_probs, np.nan)
  got = _classwise(broken, labels, mask=mask).compute()
  assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('sharpness', [0.3, 1.0, 4.0])
@pytest.mark.parametrize('num_bins', [1, 7, 15, 300])
def test_adaptive_loops(sharpness, num_bins):
  log_probs, labels = _predictions(sharpness=sharpness)
  probs = np.exp(log_probs.astype(np.float64))
  expected = _naive_adaptive(probs.max(1), probs.argmax(1) == labels, num_bins)
  got = adaptive_calibration_error(log_probs, labels, num_bins=num_bins)
  assert got == pytest.approx(expected, rel=1e-9)
  expected = np.mean(
    [_naive_adaptive(probs[:, k], labels == k, num_bins) for k in range(6)]
  )
  got = adaptive_classwise_error(log_probs, labels, num_bins=num_bins)
  assert got == pytest.approx(expected, rel=1e-9)


def test_calibrated_models_have_the_lower_errors():
  for function in (
    adaptive_calibration_error,
    adaptive_classwise_error,
    classwise_calibration_error,
  ):
    calibrated = function(*_predictions(num_examples=3000))
    for sharpness in (0.3, 4.0):
      off = function(*_predictions(sharpness=sharpness, num_examples=3000))
      assert off > 3 * calibrated


def test_one_bin_is_the_mean_gap():
  log_probs, labels = _predictions(sharpness=3.0)
  probs = np.exp(log_probs.astype(np.float64))
  gap = abs(probs.max(1).mean() - np.mean(probs.argmax(1) == labels))
  got = adaptive_calibration_error(log_probs, labels, num_bins=1)
  assert got == pytest.approx(gap, rel=1e-9)


def test_nan_is_reported():
  log_probs, labels = _predictions()
  log_probs[3, 2] = np.nan
  assert np.isnan(adaptive_calibration_error(log_probs, labels))
  assert np.isnan(adaptive_classwise_error(log_probs, labels))
  assert np.isnan(classwise_calibration_error(log_probs, labels))
  assert np.isnan(_classwise(log_probs, labels).compute())
  assert np.isnan(ClasswiseCalibrationError.empty(3).compute())


def test_refusals():
  log_probs, labels = _predictions()
  for function in (adaptive_calibration_error, adaptive_classwise_error):
    with pytest.raises(ValueError, match='300 of 300 examples have prob'):
      function(np.exp(log_probs), labels)
    with pytest.raises(ValueError, match='1 of 300 examples have prob'):
      function(log_probs, np.where(np.arange(300) == 7, 6, labels))
    with pytest.raises(ValueError, match=r'\[1, num_examples = 300\]; got 301'):
      function(log_probs, labels, num_bins=301)
    with pytest.raises(ValueError, match=r'\(300, 6\) and \(299,\)'):
      function(log_probs, labels[1:])
  with pytest.raises(ValueError, match='Error: 300 examples have prob'):
    _classwise(np.exp(log_probs), labels).compute()
  assert np.isnan(classwise_calibration_error(np.exp(log_probs), labels))
  with pytest.raises(ValueError, match='num_bins >= 1 and num_classes >= 2'):
    ClasswiseCalibrationError.empty(6, num_bins=0)
  with pytest.raises(ValueError, match=r'\[batch, 5\]; got \(300, 6\)'):
    ClasswiseCalibrationError.empty(5).update(log_probs, labels, None)
