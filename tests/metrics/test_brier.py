"""Brier score against scikit-learn and hand values."""

import jax
import numpy as np
import pytest
from scipy import special
from sklearn.metrics import brier_score_loss

from lossbench.metrics import brier
from lossbench.metrics.brier import BrierScore

brier_score = jax.jit(brier.brier_score)


def _predictions(num_classes=6, num_examples=300):
  rng = np.random.default_rng(0)
  logits = 2 * rng.normal(size=(num_examples, num_classes))
  labels = rng.integers(num_classes, size=num_examples)
  return special.log_softmax(logits, axis=1).astype(np.float32), labels


@jax.jit
def _update(accumulator, log_probs, labels, mask):
  return accumulator.update(log_probs, labels, mask)


def _streamed(log_probs, labels, mask=None):
  return _update(BrierScore.empty(), log_probs, labels, mask).compute()


@pytest.mark.parametrize('num_classes', [2, 6])
def test_scikit_learn(num_classes):
  log_probs, labels = _predictions(num_classes)
  expected = brier_score_loss(
    labels,
    special.softmax(log_probs.astype(np.float64), axis=1),
    labels=np.arange(num_classes),
    scale_by_half=False,
  )
  assert brier_score(log_probs, labels) == pytest.approx(expected, rel=1e-6)
  assert _streamed(log_probs, labels) == pytest.approx(expected, rel=1e-6)


def test_twice_the_binary_score():
  log_probs, labels = _predictions(2)
  expected = 2 * np.mean((np.exp(log_probs[:, 1]) - labels) ** 2)
  assert brier_score(log_probs, labels) == pytest.approx(expected, rel=1e-6)


def test_hand_values():
  log_probs = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
  labels = np.array([1, 2])
  first, second = 0.25 + 0.5625 + 0.0625, 0.01 + 0.01 + 0.04
  got = _streamed(log_probs, labels)
  assert got == pytest.approx((first + second) / 2)
  mask = np.array([0, 1])
  assert _streamed(log_probs, labels, mask) == pytest.approx(second)
  uniform = np.full((4, 1000), -np.log(1000))
  assert brier_score(uniform, np.arange(4)) == pytest.approx(0.999)
  certain = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
  assert _streamed(certain, np.array([0, 1])) == 0
  assert _streamed(certain, np.array([1, 0])) == 2
  nearly = np.array([[-1e-9, -20.7232658]])
  assert _streamed(nearly, np.array([0])) == pytest.approx(2e-18, rel=1e-5)


def test_nan_is_reported():
  log_probs, labels = _predictions()
  log_probs[3, 2] = np.nan
  assert np.isnan(brier_score(log_probs, labels))
  assert np.isnan(_streamed(log_probs, labels))
  mask = np.arange(300) != 3
  expected = _streamed(log_probs[mask], labels[mask])
  assert _streamed(log_probs, labels, mask) == pytest.approx(expected)
  assert np.isnan(BrierScore.empty().compute())
  assert np.isnan(brier_score(log_probs, labels, mask=np.zeros(300)))


def test_refusals():
  log_probs, labels = _predictions()
  with pytest.raises(ValueError, match='BrierScore: 300 examples have'):
    _streamed(np.exp(log_probs), labels)
  assert np.isnan(brier_score(np.exp(log_probs), labels))
  with pytest.raises(ValueError, match='BrierScore: 1 examples have'):
    _streamed(log_probs, np.where(np.arange(300) == 7, -1, labels))
  with pytest.raises(ValueError, match=r'\(300, 6\) and \(299,\)'):
    brier_score(log_probs, labels[1:])
