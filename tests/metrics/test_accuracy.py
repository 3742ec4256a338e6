"""Top-k accuracy against scikit-learn, sorting and hand values."""

import jax
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from lossbench.metrics import accuracy
from lossbench.metrics.accuracy import Accuracy, score_of_label

# Jitted here: op by op they are as right, and slower to test.
top_k_correct = jax.jit(accuracy.top_k_correct, static_argnames='k')
top1_accuracy = jax.jit(accuracy.top1_accuracy)
top5_accuracy = jax.jit(accuracy.top5_accuracy)


def _random(num_examples=400, num_classes=12, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(num_examples, num_classes)).astype(np.float32)
  return logits, rng.integers(num_classes, size=num_examples)


@jax.jit
def _update(accumulator, logits, labels, mask):
  return accumulator.update(logits, labels, mask)


def _accuracy(logits, labels, *, k, mask=None):
  return _update(Accuracy.empty(k=k), logits, labels, mask).compute()


@pytest.mark.parametrize('k', [1, 2, 5, 11])
def test_scikit_learn(k):
  logits, labels = _random()
  expected = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(12))
  assert np.mean(top_k_correct(logits, labels, k=k)) == pytest.approx(expected)
  assert _accuracy(logits, labels, k=k) == expected


def test_plain_functions():
  logits, labels = _random()
  for function, k in ((top1_accuracy, 1), (top5_accuracy, 5)):
    expected = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(12))
    assert function(logits, labels) == pytest.approx(expected)
    mask = np.arange(400) % 3 == 0
    expected = top_k_accuracy_score(
      labels[mask], logits[mask], k=k, labels=np.arange(12)
    )
    logits_with_nan = np.where(mask[:, None], logits, np.nan)
    got = function(logits_with_nan, labels, mask=mask)
    assert got == pytest.approx(expected)


@pytest.mark.parametrize('k', [1, 2, 3])
def test_ties_go_to_the_lower_class_as_in_a_stable_sort(k):
  rng = np.random.default_rng(1)
  # Two values among six classes: ties everywhere.
  logits = rng.integers(2, size=(300, 6)).astype(np.float32)
  labels = rng.integers(6, size=300)
  top = np.argsort(-logits, axis=1, kind='stable')[:, :k]
  expected = (top == labels[:, None]).any(axis=1)
  np.testing.assert_array_equal(top_k_correct(logits, labels, k=k), expected)
  _, jax_top = jax.lax.top_k(logits, k)
  np.testing.assert_array_equal(top, jax_top)


def test_top1_is_argmax():
  logits = np.round(_random()[0])
  labels = np.argmax(logits, axis=1)
  assert top1_accuracy(logits, labels) == 1.0


def test_constant_logits_are_chance_not_perfect():
  logits, labels = np.zeros((20, 10)), np.arange(20) % 10
  assert _accuracy(logits, labels, k=1) == 0.1
  assert _accuracy(logits, labels, k=5) == 0.5


def test_without_jit():
  logits, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 1])
  assert accuracy.top1_accuracy(logits, labels) == pytest.approx(2 / 3)


def test_hand_values():
  logits = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [1, 3, 0, 2]], np.float32)
  labels = np.array([0, 0, 3])
  np.testing.assert_array_equal(top_k_correct(logits, labels, k=1), [1, 0, 0])
  np.testing.assert_array_equal(top_k_correct(logits, labels, k=2), [1, 0, 1])
  assert top_k_correct(logits, labels, k=1).dtype == np.float32


@pytest.mark.parametrize('position', [0, 1, 2])
def test_nan_is_wrong(position):
  logits = np.array([[9.0, 1.0, 0.0]], np.float32)
  logits[0, position] = np.nan
  for k in (1, 2):
    assert top_k_correct(logits, np.array([0]), k=k) == 0
  assert _accuracy(logits, np.array([0]), k=1) == 0


def test_infinities():
  inf = np.inf
  logits = np.array(
    [[inf, 0, 1], [-inf, 5, -inf], [-inf, 5, -inf], [-inf] * 3], np.float32
  )
  labels = np.array([0, 1, 0, 0])
  # Ruled out (-inf) is wrong, even where no other class is left.
  np.testing.assert_array_equal(
    top_k_correct(logits, labels, k=2), [1, 1, 0, 0]
  )


@pytest.mark.parametrize('scale', [1e-30, 1e4, 1e30])
def test_extreme_logits(scale):
  logits, labels = _random()
  expected = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(12))
  assert _accuracy(logits * np.float32(scale), labels, k=5) == expected


@pytest.mark.parametrize('label', [-1, 12])
def test_labels_that_are_no_class_are_loud(label):
  logits, labels = _random()
  labels[7] = label
  correct = np.asarray(top_k_correct(logits, labels, k=1))
  np.testing.assert_array_equal(np.flatnonzero(np.isnan(correct)), [7])
  assert np.isnan(top1_accuracy(logits, labels))
  with pytest.raises(ValueError, match=r'1 of 400 labels are not class ids'):
    _accuracy(logits, labels, k=1)
  mask = np.arange(400) != 7
  assert 0 < _accuracy(logits, labels, k=1, mask=mask) < 1


@pytest.mark.parametrize('dtype', [np.uint8, np.int8, np.int64])
def test_label_dtypes(dtype):
  logits, labels = _random(num_examples=50, num_classes=300)
  labels = labels % 100
  got = top_k_correct(logits, labels.astype(dtype), k=5)
  np.testing.assert_array_equal(got, top_k_correct(logits, labels, k=5))


def test_nothing_counted_is_nan():
  logits, labels = _random()
  assert np.isnan(Accuracy.empty().compute())
  assert np.isnan(_accuracy(logits, labels, k=1, mask=np.zeros(400)))
  assert np.isnan(top1_accuracy(logits, labels, mask=np.zeros(400)))


def test_refusals():
  logits, labels = _random(num_classes=5)
  with pytest.raises(ValueError, match=r'Top-5 accuracy needs .* classes = 5'):
    top5_accuracy(logits, labels)
  with pytest.raises(ValueError, match='Top-0'):
    top_k_correct(logits, labels, k=0)
  with pytest.raises(ValueError, match='k must be at least 1; got 0'):
    Accuracy.empty(k=0)
  with pytest.raises(ValueError, match='Top-5'):
    Accuracy.empty(k=5).update(logits, labels, None)
  with pytest.raises(ValueError, match=r'\(400, 5\) and \(399,\)'):
    top1_accuracy(logits, labels[1:])
  with pytest.raises(ValueError, match=r'\(400, 5\) and \(400, 5\)'):
    top1_accuracy(logits, logits)
  with pytest.raises(ValueError, match='integer class ids; got dtype float32'):
    top1_accuracy(logits, labels.astype(np.float32))
  with pytest.raises(ValueError, match='mask must be'):
    top1_accuracy(logits, labels, mask=np.ones(3))


def test_score_of_label():
  scores = np.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(
    score_of_label(scores, np.array([2, 0])), [2, 3]
  )
  assert np.isnan(score_of_label(scores, np.array([-1, 3]))).all()
