"""The protocols of neighbours and few examples, step by step."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from lossbench.evaluation.collected import Collected
from lossbench.probe import knn, nearest, protocol


def _collected(num, seed, num_classes=3, spread=1.0):
  rng = np.random.default_rng(seed)
  labels = (np.arange(num) % num_classes).astype(np.int32)
  features = spread * rng.normal(size=(num, 6)) + np.eye(3, 6)[labels]
  return Collected(
    ids=np.arange(num),
    labels=labels,
    arrays={'features': features.astype(np.float32)},
  )


def _by_name(scores):
  return {record.name: record for record in scores.records}


def test_k_is_chosen_on_the_holdout_and_tested_once(monkeypatch):
  """Against scikit-learn at odd k of two classes, where no vote is a tie."""
  monkeypatch.setattr(knn, 'NUM_NEIGHBOURS', (1, 3, 5, 9, 501))
  train, test = _collected(150, 0, 2), _collected(60, 1, 2)
  x, y = train.arrays['features'], train.labels
  held = protocol.holdout_mask(y)

  def accuracy(k, x, y, queries, labels):
    theirs = KNeighborsClassifier(k, metric='cosine').fit(x, y)
    return theirs.score(queries, labels)

  scores = [
    accuracy(k, x[~held], y[~held], x[held], y[held]) for k in (1, 3, 5, 9)
  ]
  best = (1, 3, 5, 9)[int(np.argmax(scores))]  # of equals the first
  found = _by_name(knn.score_neighbours(train, test, num_classes=2))
  assert found['num_neighbours'].value == best
  assert found['num_neighbours'].n == held.sum() == 30
  assert found['knn_holdout_accuracy'].value == pytest.approx(max(scores))
  expected = accuracy(best, x, y, test.arrays['features'], test.labels)
  assert found['knn_top1_accuracy'].value == pytest.approx(expected)


def test_few_shots_are_means_over_fixed_draws():
  train, test = _collected(24, 0, spread=0.7), _collected(90, 1)
  scores = knn.score_few_shots(train, test)
  found = _by_name(scores)
  accuracies = []
  for draw in range(knn.NUM_DRAWS):
    rows = knn.draw_few(train.labels, shots=5, draw=draw)
    assert np.bincount(train.labels[rows]).tolist() == [5, 5, 5]
    assert len(set(rows)) == 15
    predicted = nearest.nearest_class_means(
      train.arrays['features'][rows],
      train.labels[rows],
      test.arrays['features'],
    )
    accuracies.append(np.mean(predicted == test.labels))
  assert len(set(accuracies)) > 1
  assert found['few_shot_5_top1_accuracy'].value == pytest.approx(
    np.mean(accuracies)
  )
  assert found['few_shot_5_standard_error'].value == pytest.approx(
    np.std(accuracies, ddof=1) / np.sqrt(len(accuracies))
  )
  assert scores.correct['few_shot_5_'].mean() == pytest.approx(
    np.mean(accuracies)
  )
  again = _by_name(knn.score_few_shots(train, test))
  assert again == found
  # Eight of a class are no ten.
  lacking = found['few_shot_10_top1_accuracy']
  assert lacking.value is None
  assert lacking.note == 'not available: a class has 8 training examples'
  assert set(scores.correct) == {'few_shot_1_', 'few_shot_5_'}
