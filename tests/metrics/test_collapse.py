"""NC1-NC4 against their definitions, loops and a collapsed network."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from lossbench.metrics import collapse as module
from lossbench.metrics.collapse import (
  NearestMeanMismatch,
  NeuralCollapse,
  neural_collapse,
)

nearest_class_mean = jax.jit(module.nearest_class_mean)


def _data(counts=(20, 20, 20, 20), num_features=6, *, spread=0.5, mean=2.0):
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
  centers = rng.normal(size=(len(counts), num_features)) + mean
  noise = rng.normal(size=(len(labels), num_features))
  features = (centers[labels] + spread * noise).astype(np.float32)
  kernel = rng.normal(size=(num_features, len(counts)))
  return features, labels, kernel.astype(np.float32)


def _naive(features, labels, kernel):
  """By the formulas of Papyan et al., one class or pair at a time."""
  features, kernel = features.astype(np.float64), kernel.astype(np.float64)
  num_classes = kernel.shape[1]
  means = [features[labels == c].mean(0) for c in range(num_classes)]
  center = np.mean(means, axis=0)
  within = np.mean(
    [
      np.outer(x - means[c], x - means[c])
      for x, c in zip(features, labels, strict=True)
    ],
    axis=0,
  )
  between = np.mean([np.outer(m - center, m - center) for m in means], axis=0)
  values = {
    'nc1': np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / num_classes
  }
  sets = {'mean': [m - center for m in means], 'kernel': list(kernel.T)}
  for name, vectors in sets.items():
    norms = [np.linalg.norm(v) for v in vectors]
    cosines = [
      np.dot(vectors[i], vectors[j]) / (norms[i] * norms[j])
      for i, j in itertools.permutations(range(num_classes), 2)
    ]
    values[f'nc2_{name}_norms'] = np.std(norms) / np.mean(norms)
    values[f'nc2_{name}_angles'] = np.std(cosines)
    values[f'nc2_{name}_simplex'] = np.mean(
      [abs(c + 1 / (num_classes - 1)) for c in cosines]
    )
  columns = np.stack(sets['mean'], axis=1)
  difference = kernel / np.linalg.norm(kernel) - columns / np.linalg.norm(
    columns
  )
  values['nc3'] = np.linalg.norm(difference) ** 2
  return values


@jax.jit
def _update(accumulator, features, labels, mask):
  return accumulator.update(features, labels, mask)


def _streamed(features, labels, num_classes, batch_size=32):
  accumulator = NeuralCollapse.empty(num_classes, features.shape[1])
  for start in range(0, len(labels), batch_size):
    x, y = (z[start : start + batch_size] for z in (features, labels))
    fill = batch_size - len(y)
    mask = np.arange(batch_size) < len(y)
    x = np.pad(x, ((0, fill), (0, 0)), constant_values=np.nan)
    accumulator = _update(accumulator, x, np.pad(y, (0, fill)), mask)
  return accumulator


@pytest.mark.parametrize('counts', [(20, 20, 20, 20), (5, 30, 9, 12), (30, 30)])
@pytest.mark.parametrize('num_features', [2, 6, 40])
def test_definitions(counts, num_features):
  features, labels, kernel = _data(counts, num_features)
  expected = _naive(features, labels, kernel)
  got = dataclasses.asdict(neural_collapse(features, labels, kernel=kernel))
  assert got == pytest.approx(expected, rel=1e-8, abs=1e-12)
  streamed = _streamed(features, labels, len(counts))
  got = dataclasses.asdict(streamed.measures(kernel))
  assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)
  assert streamed.compute() == pytest.approx(expected['nc1'], rel=1e-5)


@pytest.mark.parametrize('mean', [0.0, 100.0])
@pytest.mark.parametrize('spread', [1e-2, 0.5])
def test_streaming_near_collapse_and_with_large_means(mean, spread):
  features, labels, kernel = _data(spread=spread, mean=mean)
  expected = neural_collapse(features, labels, kernel=kernel).nc1
  got = _streamed(features, labels, 4).compute()
  assert got == pytest.approx(expected, rel=1e-2 if spread < 0.1 else 1e-4)


def _simplex(num_classes):
  return np.eye(num_classes) - 1 / num_classes


def test_a_collapsed_network_is_all_zeros():
  labels = np.arange(50) % 5
  features = (3.0 * _simplex(5) + 1.0)[labels]
  measures = neural_collapse(features, labels, kernel=7.0 * _simplex(5))
  for name, value in dataclasses.asdict(measures).items():
    assert value == pytest.approx(0, abs=1e-12), name
  accumulator = _streamed(features.astype(np.float32), labels, 5)
  measures = accumulator.measures(7.0 * _simplex(5))
  for name, value in dataclasses.asdict(measures).items():
    assert value == pytest.approx(0, abs=1e-6), name


def test_opposite_weights_are_as_far_as_can_be():
  labels = np.arange(50) % 5
  measures = neural_collapse(_simplex(5)[labels], labels, kernel=-_simplex(5))
  assert measures.nc3 == pytest.approx(4)


def test_nc1_is_invariant_to_linear_maps():
  """tr(S_W S_B^+) is, where S_B has full rank (fewer features than classes)."""
  features, labels, _ = _data((15, 20, 25, 30, 10), 3)
  kernel = np.eye(3, 5) + 1.0
  expected = neural_collapse(features, labels, kernel=kernel).nc1
  mapped = features.astype(np.float64) @ np.array(
    [[2.0, 1, 0], [0, 0.5, 1], [3, 0, 1]]
  )
  got = neural_collapse(mapped - 9.0, labels, kernel=kernel).nc1
  assert got == pytest.approx(expected, rel=1e-8)


def test_class_means():
  features, labels, _ = _data((5, 30, 9, 12))
  expected = [features[labels == c].mean(0, dtype=np.float64) for c in range(4)]
  got = _streamed(features, labels, 4).class_means()
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize('mean', [0.0, 1000.0])
def test_nc4(mean):
  features, labels, _ = _data(spread=1.5, mean=mean)
  means = _streamed(features, labels, 4).class_means()
  nearest = nearest_class_mean(features, means)
  expected = cdist(features.astype(np.float64), means).argmin(axis=1)
  np.testing.assert_array_equal(nearest, expected)
  mask = np.arange(80) % 2 == 0
  mismatch = NearestMeanMismatch.empty().update(nearest, labels, mask)
  assert mismatch.compute() == np.mean((expected != labels)[mask])
  assert 0 < mismatch.compute() < 1
  assert np.isnan(NearestMeanMismatch.empty().compute())


def test_class_means_that_are_all_the_same():
  features = np.repeat(np.random.default_rng(0).normal(size=(10, 3)), 2, 0)
  labels = np.arange(20) % 2
  measures = neural_collapse(features, labels, kernel=np.eye(3, 2))
  assert np.isnan(measures.nc1)


def test_refusals():
  features, labels, kernel = _data()
  with pytest.raises(ValueError, match=r'num_features = 6, .*got \(5, 4\)'):
    neural_collapse(features, labels, kernel=kernel[1:])
  with pytest.raises(ValueError, match='20 of 80 labels are not class ids'):
    neural_collapse(features, labels, kernel=kernel[:, :3])
  with pytest.raises(ValueError, match='1 of 5 classes have no examples: 4'):
    neural_collapse(features, labels, kernel=np.ones((6, 5)))
  with pytest.raises(ValueError, match='1 of 5 classes have no examples: 4'):
    _streamed(features, labels, 5).compute()
  with pytest.raises(ValueError, match='20 of 80 labels are not class ids'):
    _streamed(features, labels, 3).compute()
  with pytest.raises(ValueError, match=r'num_classes = 4\]; got \(6, 3\)'):
    _streamed(features, labels, 4).measures(kernel[:, :3])
  with pytest.raises(ValueError, match=r'labels must be \[80\]'):
    neural_collapse(features, labels[1:], kernel=kernel)
  with pytest.raises(ValueError, match='num_classes >= 2'):
    NeuralCollapse.empty(1, 6)
  with pytest.raises(ValueError, match=r'\[batch, 5\]; got \(80, 6\)'):
    NeuralCollapse.empty(4, 5).update(features, labels, None)
  with pytest.raises(ValueError, match=r'\(80, 6\) and \(4, 5\)'):
    nearest_class_mean(features, np.ones((4, 5)))
  with pytest.raises(ValueError, match=r'\(80,\) and \(79,\)'):
    NearestMeanMismatch.empty().update(labels, labels[1:], None)
  features[3, 2] = np.nan
  with pytest.raises(ValueError, match='1 of 80 rows of features hold NaN'):
    neural_collapse(features, labels, kernel=kernel)
  with pytest.raises(ValueError, match='1 of 80 rows of features hold NaN'):
    _streamed(features, labels, 4).compute()
