"""Class separation R^2 against eq. 11 itself, and as linear regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.metrics.separation import (
  ClassSeparation,
  class_separation,
)

BALANCED = [20, 20, 20, 20]
UNBALANCED = [3, 40, 11, 1]


def _clusters(counts, *, num_features=6, spread=1.0, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
  centres = rng.normal(size=(len(counts), num_features)) + 0.5
  noise = rng.normal(size=(len(labels), num_features))
  return (centres[labels] + spread * noise).astype(np.float32), labels


@jax.jit
def _update(accumulator, features, labels, mask=None):
  return accumulator.update(features, labels, mask)


def _streamed(features, labels, *, num_classes=None, mask=None):
  num_classes = num_classes or int(np.max(labels)) + 1
  accumulator = ClassSeparation.empty(num_classes, np.shape(features)[1])
  return _update(accumulator, features, labels, mask).compute()


def _unit(features):
  features = np.asarray(features, np.float64)
  norms = np.sqrt((features**2).sum(axis=1, keepdims=True))
  return np.divide(
    features, norms, out=np.zeros_like(features), where=norms > 0
  )


def _eq_11(features, labels):
  """The four sums of eq. 11, pair by pair, in float64."""
  classes = np.unique(labels)
  unit = _unit(features)
  within = overall = 0.0
  for j in classes:
    for k in classes:
      distances = []
      for x in unit[labels == j]:
        for y in unit[labels == k]:
          distances.append(1.0 - sum(a * b for a, b in zip(x, y, strict=True)))
      overall += np.mean(distances) / len(classes) ** 2
      if j == k:
        within += np.mean(distances) / len(classes)
  return 1.0 - within / overall


def _cosine_kernels(features, labels):
  unit = _unit(features)
  one_hot = np.equal.outer(labels, np.unique(labels)).astype(np.float64)
  centre = np.eye(len(labels)) - 1.0 / len(labels)
  return (
    centre @ unit @ unit.T @ centre,
    centre @ one_hot @ one_hot.T @ centre,
  )


@pytest.mark.parametrize('counts', [BALANCED, UNBALANCED, [2, 2], [1, 5]])
@pytest.mark.parametrize('spread', [0.01, 1.0, 10.0])
def test_equation_11(counts, spread):
  features, labels = _clusters(counts, spread=spread)
  expected = _eq_11(features, labels)
  assert class_separation(features, labels) == pytest.approx(
    expected, abs=1e-12
  )
  assert _streamed(features, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('counts', [BALANCED, UNBALANCED])
def test_is_the_r2_of_a_regression_on_the_classes(counts):
  """Weighted 1/N_k, unit embeddings on one-hot labels (paper, section 3.4)."""
  features, labels = _clusters(counts)
  unit = _unit(features)
  weights = np.sqrt(1.0 / np.asarray(counts)[labels])[:, None]
  one_hot = np.eye(len(counts))[labels]

  def residual(design):
    solution, *_ = np.linalg.lstsq(weights * design, weights * unit, rcond=None)
    return np.sum((weights * (unit - design @ solution)) ** 2)

  expected = 1.0 - residual(one_hot) / residual(np.ones((len(labels), 1)))
  assert class_separation(features, labels) == pytest.approx(
    expected, rel=1e-10
  )


def test_relation_to_cka_on_balanced_classes():
  """R^2 and CKA share their numerator, <HKH, HLH>, on balanced classes.

  CKA divides it by Frobenius norms (Cortes et al. 2012, eq. 4), R^2 by the
  trace of HKH: CKA = R^2 * tr(HKH) / (sqrt(K - 1) ||HKH||_F). They are equal
  where HKH has K - 1 equal eigenvalues and no others.
  """
  features, labels = _clusters(BALANCED)
  kernel, target = _cosine_kernels(features, labels)
  cka = np.sum(kernel * target) / (
    np.linalg.norm(kernel) * np.linalg.norm(target)
  )
  ratio = np.trace(kernel) / (np.sqrt(3) * np.linalg.norm(kernel))
  r2 = class_separation(features, labels)
  assert cka == pytest.approx(r2 * ratio, rel=1e-10)
  # With the kernel normalised by its trace the equality holds as published.
  aligned = np.sum(kernel * target) / (np.trace(kernel) * len(labels) / 4)
  assert r2 == pytest.approx(aligned, rel=1e-10)
  # A simplex of classes: both are 1.
  simplex = np.eye(4)[labels]
  kernel, target = _cosine_kernels(simplex, labels)
  cka = np.sum(kernel * target) / (
    np.linalg.norm(kernel) * np.linalg.norm(target)
  )
  assert cka == pytest.approx(1.0)
  assert class_separation(simplex, labels) == pytest.approx(1.0)


def test_hand_values():
  # Classes {0 deg, 90 deg} and {180 deg, 270 deg}:
  # within 1/2, overall (1/2 + 3/2) / 2 = 1.
  features = np.array([[1, 0], [0, 5], [-2, 0], [0, -3]], np.float32)
  labels = np.array([0, 0, 1, 1])
  assert class_separation(features, labels) == pytest.approx(0.5)
  assert _streamed(features, labels) == pytest.approx(0.5, abs=1e-7)


def test_ends_of_the_range():
  rng = np.random.default_rng(0)
  one_direction = np.eye(4)[np.arange(40) % 4] * rng.random((40, 1))
  labels = np.arange(40) % 4
  assert class_separation(one_direction, labels) == pytest.approx(1.0)
  assert _streamed(one_direction, labels) == pytest.approx(1.0)
  same_means = np.repeat(rng.normal(size=(10, 5)), 4, axis=0)
  assert class_separation(same_means, labels) == pytest.approx(0.0, abs=1e-14)
  assert _streamed(same_means, labels) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize('scale', [1e-30, 1e-6, 1e4, 1e30])
def test_length_does_not_matter(scale):
  features, labels = _clusters(UNBALANCED)
  expected = class_separation(features, labels)
  lengths = scale * np.random.default_rng(1).uniform(0.5, 2, (55, 1))
  scaled = (features * lengths).astype(np.float32)
  assert class_separation(scaled, labels) == pytest.approx(expected, rel=1e-5)
  assert _streamed(scaled, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('scale', [-1e250, 1e250, -1e-250])
def test_squares_beyond_float64_do_not_matter(scale):
  """Of features of one sign, whose largest or smallest alone shows the size."""
  features, labels = _clusters(UNBALANCED)
  features = np.abs(features).astype(np.float64)
  expected = class_separation(features, labels)
  got = class_separation(scale * features, labels)
  assert got == pytest.approx(expected, rel=1e-10)


def test_size_of_a_class_does_not_matter():
  features, labels = _clusters(UNBALANCED)
  expected = class_separation(features, labels)
  repeats = np.where(labels == 2, 7, 1)
  got = class_separation(
    np.repeat(features, repeats, axis=0), np.repeat(labels, repeats)
  )
  assert got == pytest.approx(expected, rel=1e-12)


def test_nearly_parallel_embeddings():
  """As after average pooling of ReLUs: all cosines are close to 1."""
  features, labels = _clusters([200] * 5, spread=0.3, num_features=64)
  features = features + 20.0
  expected = class_separation(features, labels)
  assert _streamed(features, labels) == pytest.approx(expected, abs=2e-5)


def test_many_batches_keep_their_digits():
  features, labels = _clusters([50] * 4)
  accumulator = ClassSeparation.empty(4, 6)
  for _ in range(100):
    accumulator = _update(accumulator, features, labels)
  expected = class_separation(features, labels)
  assert accumulator.compute() == pytest.approx(expected, abs=1e-6)
  assert list(accumulator.num_examples) == [5000] * 4


def test_zero_rows_have_cosine_zero():
  features, labels = _clusters(BALANCED)
  features[::5] = 0.0
  expected = _eq_11(features, labels)  # its _unit does the same
  assert class_separation(features, labels) == pytest.approx(expected)
  assert _streamed(features, labels) == pytest.approx(expected, abs=1e-6)
  everything = np.zeros((80, 3))
  # All distances are 1, within and overall.
  assert class_separation(everything, labels) == 0.0
  assert _streamed(everything, labels) == 0.0


def test_one_direction_for_all_is_nan():
  labels = np.arange(20) % 2
  features = np.linspace(1, 2, 20)[:, None] * np.array([[1.0, 2.0, 3.0]])
  assert np.isnan(class_separation(features, labels))
  assert np.isnan(_streamed(features, labels))


def test_classes_without_examples():
  features, labels = _clusters(BALANCED)
  text = r'8 of 12 classes have no examples: 4, 5, 6, 7, 8, \.\.\.'
  with pytest.raises(ValueError, match=text):
    class_separation(features, labels, num_classes=12)
  with pytest.raises(ValueError, match=text):
    _streamed(features, labels, num_classes=12)
  with pytest.raises(ValueError, match=r'4 of 4 classes'):
    ClassSeparation.empty(4, 2).compute()
  # None takes the classes that occur, whatever their ids.
  expected = class_separation(features, labels)
  assert class_separation(features, 100 * labels - 7) == expected


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(bad):
  features, labels = _clusters(BALANCED)
  features[3, 2] = features[5, 0] = bad
  text = '2 of 80 rows of features hold NaN or infinity'
  with pytest.raises(ValueError, match=text):
    class_separation(features, labels)
  with pytest.raises(ValueError, match=text):
    _streamed(features, labels)
  mask = np.ones(80)
  mask[[3, 5]] = 0
  expected = class_separation(features[mask > 0], labels[mask > 0])
  got = _streamed(features, labels, mask=mask)
  assert got == pytest.approx(expected, abs=1e-6)


def test_labels_that_are_no_class():
  features, labels = _clusters(BALANCED)
  labels[0], labels[1] = -1, 4
  text = r'2 of 80 labels are not class ids in \[0, num_classes\)'
  with pytest.raises(ValueError, match=text):
    class_separation(features, labels, num_classes=4)
  with pytest.raises(ValueError, match=text):
    _streamed(features, labels, num_classes=4)


def test_bfloat16_features():
  features, labels = _clusters(BALANCED)
  rounded = jnp.asarray(features, jnp.bfloat16)
  expected = class_separation(np.asarray(rounded, np.float64), labels)
  assert _streamed(rounded, labels) == pytest.approx(expected, abs=1e-6)


def test_refusals():
  features, labels = _clusters(BALANCED)
  for function in (class_separation, _streamed):
    with pytest.raises(ValueError, match=r'\(80, 6\) and \(79,\)'):
      function(features, labels[1:])
    with pytest.raises(ValueError, match='Pool or flatten'):
      function(features[:, :, None], labels)
    with pytest.raises(ValueError, match='got dtype float32'):
      function(features, labels.astype(np.float32))
  with pytest.raises(ValueError, match=r'features \[batch, 6\].*\(80, 5\)'):
    ClassSeparation.empty(4, 6).update(features[:, 1:], labels, None)
  with pytest.raises(ValueError, match='at least two classes; got 1'):
    class_separation(features, np.zeros(80, int))
  with pytest.raises(ValueError, match='got 0'):
    class_separation(features[:0], labels[:0])
  with pytest.raises(ValueError, match='num_classes >= 2'):
    ClassSeparation.empty(1, 6)
