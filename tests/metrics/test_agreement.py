"""Agreement, clustering and ensembles against loops and SciPy."""

import itertools

import numpy as np
import pytest
from scipy import special
from scipy.cluster import hierarchy

from lossbench.metrics import agreement
from lossbench.metrics.agreement import (
  check_same_examples,
  cluster_models,
  ensemble_log_probs,
  pairwise_agreement,
)


def _predictions(num_examples=200, num_models=5, num_classes=6, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(num_classes, size=num_examples)
  shared = rng.integers(num_classes, size=num_examples)
  shape = (num_examples, num_models)
  predictions = np.where(
    rng.random(shape) < 0.3,
    rng.integers(num_classes, size=shape),
    np.where(rng.random(shape) < 0.4, shared[:, None], labels[:, None]),
  )
  return predictions, labels


def _log_probs(seed, shape=(50, 6)):
  logits = 3 * np.random.default_rng(seed).normal(size=shape)
  return special.log_softmax(logits, axis=1)


def _assert_same(got, expected):
  for name in (
    'same_top1',
    'both_right_or_wrong',
    'same_when_both_wrong',
    'num_both_wrong',
  ):
    np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
  assert got.num_examples == expected.num_examples


def test_naive_loops():
  predictions, labels = _predictions()
  got = pairwise_agreement(predictions, labels)
  for i, j in itertools.product(range(5), range(5)):
    same, alike, wrong = 0, 0, []
    for a, b, label in zip(
      predictions[:, i], predictions[:, j], labels, strict=True
    ):
      same += a == b
      alike += (a == label) == (b == label)
      if a != label and b != label:
        wrong.append(a == b)
    assert got.same_top1[i, j] == same / 200
    assert got.both_right_or_wrong[i, j] == alike / 200
    assert got.same_when_both_wrong[i, j] == np.mean(wrong)
    assert got.num_both_wrong[i, j] == len(wrong)


def test_chunks(monkeypatch):
  predictions, labels = _predictions()
  expected = pairwise_agreement(predictions, labels)
  monkeypatch.setattr(agreement, '_CHUNK_SIZE', 37)
  _assert_same(pairwise_agreement(predictions, labels), expected)


def test_hand_values():
  labels = np.zeros(5, int)
  predictions = np.array([[0, 0], [0, 1], [1, 1], [1, 2], [2, 2]])
  got = pairwise_agreement(predictions, labels)
  assert got.same_top1[0, 1] == 3 / 5
  assert got.both_right_or_wrong[0, 1] == 4 / 5
  assert got.same_when_both_wrong[0, 1] == 2 / 3
  assert got.num_both_wrong[0, 1] == 3
  np.testing.assert_array_equal(np.diag(got.same_top1), 1)
  np.testing.assert_array_equal(np.diag(got.num_both_wrong), [3, 4])


def test_nothing_that_both_get_wrong():
  labels = np.arange(4)
  predictions = np.stack([labels, (labels + 1) % 4], axis=1)
  got = pairwise_agreement(predictions, labels)
  assert np.isnan(got.same_when_both_wrong[0, 1])
  assert got.same_top1[0, 1] == 0


def test_clustering_is_average_linkage():
  """Two pairs: merged first, then at the mean of the four distances."""
  similar = np.array(
    [
      [1.0, 0.2, 0.9, 0.3],
      [0.2, 1.0, 0.1, 0.8],
      [0.9, 0.1, 1.0, 0.4],
      [0.3, 0.8, 0.4, 1.0],
    ]
  )
  got = cluster_models(similar)
  np.testing.assert_allclose(got.linkage[:, 2], [0.1, 0.2, 0.75])
  np.testing.assert_array_equal(got.linkage[:, 3], [2, 2, 4])
  position = np.argsort(got.order)
  assert abs(position[0] - position[2]) == 1
  assert abs(position[1] - position[3]) == 1
  # The two in the middle are the most alike of the two pairs: 2 and 3.
  assert set(got.order[1:3]) == {2, 3}
  drawn = hierarchy.dendrogram(got.linkage, no_plot=True)
  assert drawn['leaves'] == list(got.order)


def test_models_with_nothing_in_common_are_as_far_as_can_be():
  np.testing.assert_array_equal(
    cluster_models(np.eye(3)).linkage[:, 2], [1.0, 1.0]
  )


def test_clustering_finds_families():
  predictions, labels = _predictions(500, 3)
  rng = np.random.default_rng(0)
  family = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
  noise = rng.random((500, 9)) < 0.1
  members = np.where(noise, 0, predictions[:, family])
  matrix = pairwise_agreement(members, labels).same_top1
  order = family[cluster_models(matrix).order]
  assert np.count_nonzero(np.diff(order)) == 2


def test_ensemble_is_the_mean_probability():
  members = [_log_probs(seed) for seed in range(8)]
  expected = np.mean([np.exp(member) for member in members], axis=0)
  got = ensemble_log_probs(iter(members))
  np.testing.assert_allclose(np.exp(got), expected, rtol=1e-13)
  np.testing.assert_allclose(np.exp(got).sum(axis=1), 1, rtol=1e-13)
  alone = ensemble_log_probs(members[:1])
  np.testing.assert_array_equal(alone, members[0])
  assert alone is not members[0]
  first = members[0].copy()
  ensemble_log_probs(members)
  np.testing.assert_array_equal(members[0], first)


def test_ensemble_of_extreme_probabilities():
  a = np.array([[0.0, -2000.0, -np.inf], [0.0, -np.inf, -np.inf]])
  b = np.array([[0.0, -2001.0, -np.inf], [-np.inf, 0.0, -np.inf]])
  got = ensemble_log_probs([a, b])
  expected = -2000 + np.log((1 + np.exp(-1)) / 2)
  np.testing.assert_allclose(got[0], [0, expected, -np.inf], rtol=1e-14)
  np.testing.assert_allclose(got[1], [-np.log(2), -np.log(2), -np.inf])


def test_same_examples():
  ids = np.array([b'a', b'b', b'c'])
  check_same_examples({'one': ids, 'two': ids.copy(), 'three': list(ids)})
  with pytest.raises(ValueError, match='two has predictions of 2 examples'):
    check_same_examples({'one': ids, 'two': ids[:2]})
  text = "two and one have .* number 1 is .*b'c'.* the one and .*b'b'"
  with pytest.raises(ValueError, match=text):
    check_same_examples({'one': ids, 'two': ids[[0, 2, 1]]})


def test_refusals_of_predictions():
  predictions, labels = _predictions()
  with pytest.raises(ValueError, match=r'\(200, 5\) and \(199,\)'):
    pairwise_agreement(predictions, labels[1:])
  with pytest.raises(ValueError, match='predictions must be integer'):
    pairwise_agreement(predictions * 1.0, labels)
  with pytest.raises(ValueError, match='labels must be integer'):
    pairwise_agreement(predictions, labels * 1.0)
  with pytest.raises(ValueError, match='at least one example'):
    pairwise_agreement(predictions[:0], labels[:0])


@pytest.mark.parametrize(
  ('matrix', 'text'),
  [
    (np.ones((2, 3)), r'\[A, A\]; got \(2, 3\)'),
    (np.ones((1, 1)), 'two or more models'),
    (np.array([[1, np.nan], [np.nan, 1]]), '2 entries of agreement are NaN'),
    (np.array([[1, 0.5], [0.4, 1]]), 'symmetric'),
    (np.array([[0.9, 0.5], [0.5, 1]]), '1 on the diagonal'),
    (np.array([[1, 1.5], [1.5, 1]]), r'in \[0, 1\]'),
  ],
)
def test_refusals_of_clustering(matrix, text):
  with pytest.raises(ValueError, match=text):
    cluster_models(matrix)


def test_refusals_of_ensembles():
  a = _log_probs(0)
  with pytest.raises(ValueError, match='at least one member'):
    ensemble_log_probs([])
  with pytest.raises(ValueError, match=r'Member 1 has .*\(49, 6\).*\(50, 6\)'):
    ensemble_log_probs([a, a[1:]])
  with pytest.raises(ValueError, match='Member 1: the probabilities of 50 of'):
    ensemble_log_probs([a, np.exp(a)])
  broken = a.copy()
  broken[3, 0] = np.nan
  with pytest.raises(ValueError, match='Member 0: the probabilities of 1 of'):
    ensemble_log_probs([broken])
  with pytest.raises(ValueError, match=r'got \(6,\)'):
    ensemble_log_probs(a)
