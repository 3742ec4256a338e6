"""Accuracy class by class, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from lossbench.metrics.by_class import class_accuracies


def _drawn(num_classes=7):
  rng = np.random.default_rng(0)
  labels = rng.choice(num_classes, 400, p=np.arange(1, 8) / 28)
  predicted = np.where(rng.random(400) < 0.6, labels, rng.integers(7, size=400))
  return predicted, labels


def test_recalls_and_their_mean_are_those_of_scikit_learn():
  predicted, labels = _drawn()
  found = class_accuracies(predicted, labels, num_classes=7)
  recalls = sklearn_metrics.recall_score(labels, predicted, average=None)
  np.testing.assert_allclose(found.accuracy, recalls, rtol=1e-12)
  assert found.mean == pytest.approx(
    sklearn_metrics.balanced_accuracy_score(labels, predicted), rel=1e-12
  )
  assert found.worst == recalls.argmin()
  confusion = sklearn_metrics.confusion_matrix(labels, predicted)
  np.testing.assert_array_equal(found.count, confusion.sum(1))
  np.testing.assert_array_equal(found.num_predicted, confusion.sum(0))


def test_classes_without_examples_are_in_no_mean_and_never_the_worst():
  found = class_accuracies([0, 3, 1], [0, 0, 1], num_classes=4)
  np.testing.assert_array_equal(found.accuracy, [0.5, 1.0, np.nan, np.nan])
  assert found.mean == 0.75
  assert found.worst == 0
  nothing = class_accuracies(np.zeros(0, int), np.zeros(0, int), num_classes=2)
  assert nothing.worst is None
  assert np.isnan(nothing.mean)


def test_ids_and_lengths_are_checked():
  with pytest.raises(ValueError, match=r'labels holds 4, outside \[0, 4\)'):
    class_accuracies([0], [4], num_classes=4)
  with pytest.raises(ValueError, match=r'predicted holds -1'):
    class_accuracies([-1], [0], num_classes=4)
  with pytest.raises(ValueError, match=r'\(2,\) and \(1,\)'):
    class_accuracies([0, 1], [0], num_classes=4)
