"""Neighbours, votes and class means, against scikit-learn and naive loops."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from lossbench.probe import nearest
from lossbench.runtime import devices


def _examples(num, seed, num_classes=5, size=7):
  rng = np.random.default_rng(seed)
  labels = rng.integers(num_classes, size=num)
  features = rng.normal(size=(num, size)) + np.eye(num_classes, size)[labels]
  return features.astype(np.float32), labels


@pytest.mark.parametrize('num_train', [203, 9])  # of 4 devices, not a multiple
def test_neighbours_are_scikit_learns(num_train):
  x, y = _examples(num_train, 0)
  queries, _ = _examples(50, 1)
  theirs = KNeighborsClassifier(9, metric='cosine', algorithm='brute').fit(x, y)
  found = nearest.nearest_neighbours(x, queries, num_neighbours=9)
  np.testing.assert_array_equal(
    found, theirs.kneighbors(queries, return_distance=False)
  )


def test_chunks_and_devices_change_nothing(monkeypatch):
  x, _ = _examples(57, 0)
  queries, _ = _examples(31, 1)
  found = nearest.nearest_neighbours(x, queries, num_neighbours=20)
  with devices.only(jax.local_devices()[0]):
    monkeypatch.setattr(nearest, '_MAX_SIMILARITIES', 57 * 10)
    again = nearest.nearest_neighbours(x, queries, num_neighbours=20)
  np.testing.assert_array_equal(found, again)


def test_norms_do_not_count_and_zeros_are_allowed():
  x, _ = _examples(40, 0)
  queries, _ = _examples(10, 1)
  scales = np.random.default_rng(2).uniform(0.01, 100, (40, 1))
  expected = nearest.nearest_neighbours(x, queries, num_neighbours=3)
  found = nearest.nearest_neighbours(x * scales, queries, num_neighbours=3)
  np.testing.assert_array_equal(found, expected)
  x[5] = 0
  found = nearest.nearest_neighbours(x, x, num_neighbours=2)
  assert (found[np.arange(40) != 5, 0] == np.delete(np.arange(40), 5)).all()
  with pytest.raises(ValueError, match='41 neighbours are not among 40'):
    nearest.nearest_neighbours(x, queries, num_neighbours=41)


def test_votes_against_a_naive_loop_and_scikit_learn(monkeypatch):
  monkeypatch.setattr(nearest, '_MAX_QUERIES', 16)  # several chunks
  x, y = _examples(120, 0)
  queries, _ = _examples(60, 1)
  neighbours = nearest.nearest_neighbours(x, queries, num_neighbours=7)
  found = nearest.vote(y[neighbours], num_classes=5)
  is_tie = np.zeros(60, bool)
  for row, labels in enumerate(y[neighbours]):
    counts = np.bincount(labels, minlength=5)
    tied = np.flatnonzero(counts == counts.max())
    assert found[row] == next(label for label in labels if label in tied)
    is_tie[row] = len(tied) > 1
  assert is_tie.any()
  theirs = KNeighborsClassifier(7, metric='cosine').fit(x, y)
  agree = theirs.predict(queries) == found
  assert agree[~is_tie].all()


def test_class_means_are_scikit_learns_centroids():
  x, y = _examples(80, 0)
  queries, _ = _examples(40, 1)
  unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, queries)]
  theirs = NearestCentroid().fit(unit[0], y).predict(unit[1])
  found = nearest.nearest_class_means(x, y, queries)
  np.testing.assert_array_equal(found, theirs)
