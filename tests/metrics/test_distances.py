"""Histograms and densities of cosine distance against SciPy."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from lossbench.metrics import distances as module
from lossbench.metrics.distances import choose_examples, cosine_distances


def _data(num_examples=150, num_features=6, num_classes=4):
  rng = np.random.default_rng(0)
  labels = rng.integers(num_classes, size=num_examples)
  centers = rng.normal(size=(num_classes, num_features))
  noise = rng.normal(size=(num_examples, num_features))
  return (centers[labels] + 0.7 * noise).astype(np.float32), labels


def _pairs(features, labels):
  i, j = np.triu_indices(len(labels), k=1)
  distances = pdist(features.astype(np.float64), 'cosine')
  same = labels[i] == labels[j]
  return distances[same], distances[~same]


@pytest.mark.parametrize('num_bins', [1, 7, 1000])
def test_scipy(num_bins, monkeypatch):
  monkeypatch.setattr(module, '_CHUNK_SIZE', 64)
  features, labels = _data()
  got = cosine_distances(features, labels, num_bins=num_bins)
  edges = np.linspace(0, 2, num_bins + 1)
  for counts, distances in zip(
    (got.within, got.between), _pairs(features, labels), strict=True
  ):
    expected, _ = np.histogram(distances, bins=edges)
    np.testing.assert_array_equal(counts, expected)
  assert got.within.sum() + got.between.sum() == 150 * 149 / 2
  np.testing.assert_array_equal(got.edges, edges)
  assert got.num_examples == 150


def test_hand_values():
  features = np.array([[1, 0], [0, 2], [-3, 0], [4, 0]])
  got = cosine_distances(features, np.array([0, 0, 1, 1]), num_bins=4)
  # Within: 90 degrees, 180; between: 180, 0, 90, 90.
  np.testing.assert_array_equal(got.within, [0, 0, 1, 1])
  np.testing.assert_array_equal(got.between, [1, 0, 2, 1])


def test_zero_rows_and_scales():
  features, labels = _data()
  got = cosine_distances(features * np.float32(1e-30), labels)
  expected = cosine_distances(features, labels)
  assert np.abs(got.within - expected.within).sum() <= 4
  zeros = cosine_distances(np.zeros((4, 2)), np.arange(4) % 2, num_bins=4)
  np.testing.assert_array_equal(zeros.within + zeros.between, [0, 0, 6, 0])


def test_the_choice_is_a_function_of_the_number_and_the_seed():
  np.testing.assert_array_equal(choose_examples(5), np.arange(5))
  chosen = choose_examples(1000, max_examples=100)
  assert len(set(chosen)) == 100
  assert (np.diff(chosen) > 0).all()
  np.testing.assert_array_equal(chosen, choose_examples(1000, max_examples=100))
  other = choose_examples(1000, max_examples=100, seed=1)
  assert not np.array_equal(chosen, other)
  # From all over, not the first classes of a sorted data set.
  assert stats.kstest(chosen / 1000, 'uniform').pvalue > 0.01
  features, labels = _data()
  got = cosine_distances(features, labels, max_examples=40)
  rows = choose_examples(150, max_examples=40)
  expected = cosine_distances(features[rows], labels[rows])
  np.testing.assert_array_equal(got.within, expected.within)
  np.testing.assert_array_equal(got.between, expected.between)
  assert got.num_examples == 40


def test_no_pairs_of_one_kind():
  features, _ = _data()
  got = cosine_distances(features, np.zeros(150, int))
  assert got.between.sum() == 0


def test_refusals():
  features, labels = _data()
  with pytest.raises(ValueError, match=r'labels must be \[150\]'):
    cosine_distances(features, labels[1:])
  with pytest.raises(ValueError, match='integer class ids'):
    cosine_distances(features, labels * 1.0)
  with pytest.raises(ValueError, match='at least 2 examples'):
    cosine_distances(features[:1], labels[:1])
  with pytest.raises(ValueError, match='num_bins >= 1 and max_examples >= 2'):
    cosine_distances(features, labels, num_bins=0)
  with pytest.raises(ValueError, match='Pool'):
    cosine_distances(features[:, :, None], labels)
  features[3, 3] = np.nan
  with pytest.raises(ValueError, match='1 of 150 rows of features hold NaN'):
    cosine_distances(features, labels)
