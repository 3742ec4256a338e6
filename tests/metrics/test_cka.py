"""CKA against HSIC by its definition, loops, and published identities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from lossbench.metrics import cka
from lossbench.metrics.cka import (
  LinearCKA,
  linear_cka,
  minibatch_cka,
  rbf_cka,
)

SIZES = [(40, 5, 7), (12, 30, 9), (9, 3, 50), (4, 2, 2)]


def _pair(num_examples=40, num_x=5, num_y=7, *, mean=0.0, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(num_examples, num_x)) * rng.uniform(0.2, 3, num_x)
  y = np.tanh(x @ rng.normal(size=(num_x, num_y)))
  y = y + rng.normal(size=y.shape)
  return (x + mean).astype(np.float32), (y - mean).astype(np.float32)


def _hsic(k, l):  # noqa: E741, as in the papers
  """Gretton et al. 2005, eq. 9, without its constant."""
  n = len(k)
  h = np.eye(n) - np.ones((n, n)) / n
  return np.trace(k @ h @ l @ h)


def _hsic_1(k, l):  # noqa: E741
  """Song et al. 2012, eq. 4: the mean over all distinct i, j, q, r."""
  n = len(k)
  terms = [
    k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2.0 * k[i, j] * l[i, q]
    for i, j, q, r in itertools.permutations(range(n), 4)
  ]
  return np.mean(terms)


def _cka(k, l, hsic=_hsic):  # noqa: E741
  return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def _linear_kernels(*features):
  return [f.astype(np.float64) @ f.astype(np.float64).T for f in features]


def _rbf_kernel(features, bandwidth):
  distances = pdist(features.astype(np.float64))
  width = bandwidth * np.median(distances)
  return np.exp(-(squareform(distances) ** 2) / (2 * width**2))


@jax.jit
def _update(accumulator, x, y, mask):
  return accumulator.update(x, y, mask)


def _streamed(x, y, batch_size=None):
  accumulator = LinearCKA.empty(x.shape[1], y.shape[1])
  batch_size = batch_size or len(x)
  for start in range(0, len(x), batch_size):
    rows = slice(start, start + batch_size)
    fill = batch_size - len(x[rows])
    padded = [
      np.pad(z[rows], ((0, fill), (0, 0)), constant_values=np.nan)
      for z in (x, y)
    ]
    mask = np.arange(batch_size) < batch_size - fill
    accumulator = _update(accumulator, *padded, mask)
  return accumulator


# Linear CKA.


@pytest.mark.parametrize('sizes', SIZES)
def test_linear_by_definition(sizes):
  x, y = _pair(*sizes)
  expected = _cka(*_linear_kernels(x, y))
  assert linear_cka(x, y) == pytest.approx(expected, rel=1e-10)
  assert _streamed(x, y).compute() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('sizes', [(8, 3, 2), (7, 4, 9), (4, 2, 2), (9, 1, 1)])
def test_debiased_by_definition(sizes):
  x, y = _pair(*sizes, mean=2.0)
  expected = _cka(*_linear_kernels(x, y), hsic=_hsic_1)
  got = linear_cka(x, y, debiased=True)
  assert got == pytest.approx(np.clip(expected, -1, 1), rel=1e-8)


@pytest.mark.parametrize('debiased', [False, True])
def test_by_features_and_by_examples_agree(debiased):
  """Zero columns change nothing, but make Gram matrices the cheaper way."""
  x, y = _pair(40, 5, 7)
  wide = np.concatenate([x, np.zeros((40, 300))], axis=1)
  expected = linear_cka(x, y, debiased=debiased)
  got = linear_cka(wide, y, debiased=debiased)
  assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('debiased', [False, True])
@pytest.mark.parametrize('function', [linear_cka, rbf_cka])
def test_invariances(function, debiased):
  """Orthogonal maps, isotropic scaling, shifts (Kornblith et al., 2.2)."""
  x, y = _pair()
  rng = np.random.default_rng(1)
  rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
  expected = function(x, y, debiased=debiased)
  for mapped in (x.astype(np.float64) @ rotation, -3.0 * x, x + np.arange(5.0)):
    got = function(mapped, y, debiased=debiased)
    assert got == pytest.approx(expected, rel=1e-5)
    same = function(x, mapped, debiased=debiased)
    assert same == pytest.approx(1.0, rel=1e-5)
  swapped = function(y, x, debiased=debiased)
  assert swapped == pytest.approx(expected, rel=1e-12)
  order = rng.permutation(40)
  got = function(x[order], y[order], debiased=debiased)
  assert got == pytest.approx(expected, rel=1e-10)
  # Not invariant to any linear map.
  skewed = x * np.array([10.0, 1, 1, 1, 0.1])
  assert abs(function(skewed, x, debiased=debiased) - 1) > 0.01


def test_one_feature_is_squared_correlation():
  x, y = _pair(30, 1, 1)
  expected = np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2
  assert linear_cka(x, y) == pytest.approx(expected, rel=1e-6)
  assert _streamed(x, y).compute() == pytest.approx(expected, rel=1e-5)


def test_debiased_is_zero_for_noise():
  rng = np.random.default_rng(0)
  pairs = [rng.normal(size=(2, 50, 200)) for _ in range(40)]
  biased = [linear_cka(*pair) for pair in pairs]
  debiased = [linear_cka(*pair, debiased=True) for pair in pairs]
  assert np.mean(biased) > 0.7
  assert abs(np.mean(debiased)) < 3 * np.std(debiased) / np.sqrt(40) + 1e-3


@pytest.mark.parametrize('mean', [0.0, 10.0, 300.0])
def test_streaming_with_large_means(mean):
  x, y = _pair(300, 6, 4, mean=mean)
  expected = linear_cka(x, y)
  for batch_size in (1, 32, 300):
    got = _streamed(x, y, batch_size).compute()
    assert got == pytest.approx(expected, rel=2e-6), batch_size


@pytest.mark.parametrize('scale', [1e-6, 1e4])
def test_streaming_of_any_scale(scale):
  x, y = _pair(100)
  got = _streamed(np.float32(scale) * x, y, 32).compute()
  assert got == pytest.approx(linear_cka(x, y), rel=1e-5)


def test_constant_features_are_nan():
  x, y = _pair()
  constant = np.full_like(y, 0.1)
  for function in (linear_cka, rbf_cka):
    assert np.isnan(function(x, constant))
    assert np.isnan(function(constant, x, debiased=True))
  assert np.isnan(minibatch_cka(x, constant, minibatch_size=8))
  assert np.isnan(_streamed(x, constant, 16).compute())


# RBF CKA.


@pytest.mark.parametrize('bandwidth', [0.2, 0.4, 0.8])
def test_rbf_by_definition(bandwidth):
  x, y = _pair(30)
  kernels = [_rbf_kernel(f, bandwidth) for f in (x, y)]
  got = rbf_cka(x, y, bandwidth=bandwidth)
  assert got == pytest.approx(_cka(*kernels), rel=1e-8)


def test_debiased_rbf_by_definition():
  x, y = _pair(9)
  kernels = [_rbf_kernel(f, 0.5) for f in (x, y)]
  got = rbf_cka(x, y, bandwidth=0.5, debiased=True)
  assert got == pytest.approx(_cka(*kernels, hsic=_hsic_1), rel=1e-8)


def test_wide_rbf_is_linear():
  x, y = _pair(30)
  got = rbf_cka(x, y, bandwidth=300.0)
  assert got == pytest.approx(linear_cka(x, y), rel=1e-4)


def test_rbf_matrix_is_that_of_pairs():
  rng = np.random.default_rng(0)
  features = [rng.normal(size=(30, m)) for m in (5, 8, 40)]
  features.append(np.ones((30, 3)))
  matrix = cka.rbf_cka_matrix(features, bandwidth=0.5)
  kernels = [_rbf_kernel(f, 0.5) for f in features[:3]]
  expected = np.full((4, 4), np.nan)
  expected[:3, :3] = [[_cka(x, y) for y in kernels] for x in kernels]
  np.testing.assert_allclose(matrix, expected, rtol=1e-8)
  with pytest.raises(ValueError, match='same examples'):
    cka.rbf_cka_matrix([features[0], features[1][:20]])


# The minibatch estimator.


def test_minibatches_by_definition():
  """The mean HSIC_1 of minibatches, by examples; the 3 left over are not used."""
  x, y = _pair(15, 3, 4, mean=1.0)
  sums = np.zeros(3)
  for rows in (slice(0, 6), slice(6, 12)):
    k, l = _linear_kernels(x[rows], y[rows])  # noqa: E741
    sums += [_hsic_1(k, l), _hsic_1(k, k), _hsic_1(l, l)]
  expected = sums[0] / np.sqrt(sums[1] * sums[2])
  got = minibatch_cka(x, y, minibatch_size=6)
  assert got == pytest.approx(expected, rel=1e-8)


def test_one_minibatch_is_debiased_cka():
  x, y = _pair(30, mean=1.0)
  expected = linear_cka(x, y, debiased=True)
  got = minibatch_cka(x, y, minibatch_size=30)
  assert got == pytest.approx(expected, rel=1e-10)


def test_bfloat16_features():
  x, y = (jnp.asarray(z, jnp.bfloat16) for z in _pair(24))
  wide = [np.asarray(z, np.float64) for z in (x, y)]
  got = _update(LinearCKA.empty(5, 7), x, y, None).compute()
  assert got == pytest.approx(linear_cka(*wide), rel=1e-5)


# What is refused.


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_features_that_are_not_finite(bad):
  x, y = _pair()
  broken = y.copy()
  broken[3, 2] = broken[5, 0] = bad
  for function in (linear_cka, rbf_cka):
    with pytest.raises(ValueError, match='2 of 40 rows of y hold NaN'):
      function(x, broken)
  with pytest.raises(ValueError, match='2 of 40 rows of features hold NaN'):
    _streamed(x, broken).compute()


@pytest.mark.parametrize('function', [linear_cka, rbf_cka])
def test_refusals(function):
  x, y = _pair()
  with pytest.raises(ValueError, match='x of 40 and y of 39 examples'):
    function(x, y[1:])
  with pytest.raises(ValueError, match=r'x must be \[num_examples.*Pool'):
    function(x[:, :, None], y)
  with pytest.raises(ValueError, match=r'at least 2 examples.*got 1'):
    function(x[:1], y[:1])
  with pytest.raises(ValueError, match=r'at least 4 examples.*got 3'):
    function(x[:3], y[:3], debiased=True)
  with pytest.raises(ValueError, match=r'y must be .*\(40, 0\)'):
    function(x, y[:, :0])


def test_refusals_of_parameters():
  x, y = _pair()
  for bandwidth in (0.0, -1.0, np.inf, np.nan):
    with pytest.raises(ValueError, match=r'bandwidth must be in \(0, inf\)'):
      rbf_cka(x, y, bandwidth=bandwidth)
  with pytest.raises(ValueError, match='minibatch_size must be at least 4'):
    minibatch_cka(x, y, minibatch_size=3)


def test_refusals_of_the_accumulator():
  x, y = _pair()
  for sizes in ((0, 3), (3, 0)):
    with pytest.raises(ValueError, match='number of features of each layer'):
      LinearCKA.empty(*sizes)
  empty = LinearCKA.empty(5, 7)
  with pytest.raises(ValueError, match=r'\(40, 5\), \(40, 7\).*\(40, 6\)'):
    empty.update(x, y[:, 1:], None)
  with pytest.raises(ValueError, match=r'\(40, 5\) and \(39, 7\)'):
    empty.update(x, y[1:], None)
  with pytest.raises(ValueError, match='Pool feature maps first'):
    empty.update(x[:, :, None], y, None)
  with pytest.raises(ValueError, match=r'at least 2 examples.*got 1'):
    empty.update(x[:1], y[:1], None).compute()
  with pytest.raises(ValueError, match='got 0'):
    empty.compute()


def test_time_is_linear_in_examples():
  """No N x N matrix: 200,000 examples would need 320 GB."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200_000, 3))
  assert 0.9 < linear_cka(x, x + 0.01, debiased=True) <= 1.0
  assert cka.MIN_DEBIASED == 4


def test_matrices_are_those_of_pairs():
  """By covariances and by Gram matrices, and NaN for constant features."""
  rng = np.random.default_rng(0)
  features = [rng.normal(size=(30, m)) for m in (5, 8, 40, 50)]
  features.append(np.ones((30, 3)))
  for debiased, matrix in zip(
    (False, True), cka.linear_cka_matrices(features), strict=True
  ):
    expected = [
      [cka.linear_cka(x, y, debiased=debiased) for y in features]
      for x in features
    ]
    np.testing.assert_allclose(matrix, expected, rtol=1e-9)
