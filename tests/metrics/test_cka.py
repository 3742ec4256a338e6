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
  MinibatchCKA,
  linear_cka,
  minibatch_cka,
  rbf_cka,
  to_minibatches,
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
def _update(accumulator, xs, ys, mask, **kwargs):
  return accumulator.update(xs, ys, mask, **kwargs)


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


def test_lists_of_layers():
  x, y = _pair(50)
  z = np.maximum(x, 0)
  layers = [x, z]
  accumulator = LinearCKA.empty([5, 5], [7, 5, 5])
  mask = np.arange(50) < 45
  accumulator = _update(accumulator, layers, [y, z, x], mask)
  matrix = accumulator.matrix()
  assert matrix.shape == (2, 3)
  for i, a in enumerate(layers):
    for j, b in enumerate([y, z, x]):
      expected = linear_cka(a[mask], b[mask])
      assert matrix[i, j] == pytest.approx(expected, rel=1e-5)
  assert matrix[1, 1] == pytest.approx(1.0, rel=1e-6)
  assert matrix[0, 2] == pytest.approx(1.0, rel=1e-6)
  with pytest.raises(ValueError, match=r'2 x 3 pairs.*matrix\(\)'):
    accumulator.compute()


def test_constant_features_are_nan():
  x, y = _pair()
  constant = np.full_like(y, 0.1)
  for function in (linear_cka, rbf_cka):
    assert np.isnan(function(x, constant))
    assert np.isnan(function(constant, x, debiased=True))
  assert np.isnan(minibatch_cka(x, constant, minibatch_size=8))
  assert np.isnan(_streamed(x, constant, 16).compute())
  update = _update(MinibatchCKA.empty(), x[None], constant[None], None)
  assert np.isnan(update.compute())


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


# The minibatch estimator.


def test_minibatch_estimator_is_unbiased():
  """Averaged over ALL minibatches of 5 of 8 examples it is HSIC_1 of the 8.

  HSIC_1 is a U-statistic (Song et al. 2012), so this is an equality, and with
  it the estimate is debiased CKA.
  """
  x, y = _pair(8, 3, 4)
  subsets = np.array(list(itertools.combinations(range(8), 5)))
  accumulator = _update(MinibatchCKA.empty(), x[subsets], y[subsets], None)
  own = _update(MinibatchCKA.empty(), x[subsets], x[subsets], None)
  k, l = _linear_kernels(x, y)  # noqa: E741
  mean = accumulator.hsic_sum.compute() / int(accumulator.num_examples)
  assert mean == pytest.approx(_hsic_1(k, l), rel=1e-5)
  mean = accumulator.x_hsic_sum.compute() / int(accumulator.num_examples)
  assert mean == pytest.approx(_hsic_1(k, k), rel=1e-5)
  expected = linear_cka(x, y, debiased=True)
  assert accumulator.compute() == pytest.approx(expected, rel=1e-5)
  assert own.compute() == pytest.approx(1.0, rel=1e-6)


def test_minibatch_estimator_converges():
  """To debiased CKA, and as N grows to CKA, as more minibatches are drawn."""
  x, y = _pair(2000, 6, 5)
  exact = linear_cka(x, y, debiased=True)
  assert exact == pytest.approx(linear_cka(x, y), abs=3e-3)
  rng = np.random.default_rng(0)
  orders = [rng.permutation(2000) for _ in range(64)]

  def error(num_epochs, repeats):
    errors = []
    for start in range(repeats):
      accumulator = MinibatchCKA.empty()
      for order in orders[start * num_epochs : (start + 1) * num_epochs]:
        a, b = (to_minibatches(z[order], minibatch_size=20) for z in (x, y))
        accumulator = _update(accumulator, a, b, None)
      errors.append(accumulator.compute() - exact)
    return np.sqrt(np.mean(np.square(errors)))

  once, often = error(1, 16), error(16, 4)
  assert once < 0.02
  assert often < 0.6 * once
  assert often < 0.005


@pytest.mark.parametrize('shape', [(6,), (3, 4, 2)])
def test_minibatch_accumulator_is_the_plain_function(shape):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(48, *shape)).astype(np.float32) + 3.0
  y = np.maximum(x[:, ::2], 2.9)
  expected = minibatch_cka(x, y, minibatch_size=8)
  a, b = (to_minibatches(z, minibatch_size=8) for z in (x, y))
  whole = _update(MinibatchCKA.empty(), a, b, None)
  assert whole.compute() == pytest.approx(expected, rel=1e-4)
  halves = [
    _update(MinibatchCKA.empty(), a[rows], b[rows], None)
    for rows in (slice(3), slice(3, 6))
  ]
  merged = halves[0].merge(halves[1])
  assert merged.compute() == pytest.approx(expected, rel=1e-4)
  assert int(merged.num_examples) == 48


def test_minibatches_of_fewer_examples():
  """Padding in a minibatch; and 3 left over, which HSIC_1 cannot use."""
  x, y = _pair(27)
  fill = np.full((5, 1), np.nan)
  a = to_minibatches(
    np.concatenate([x, np.repeat(fill, 5, 1)]), minibatch_size=8
  )
  b = to_minibatches(
    np.concatenate([y, np.repeat(fill, 7, 1)]), minibatch_size=8
  )
  real = to_minibatches(np.arange(32) < 27, minibatch_size=8)
  accumulator = _update(MinibatchCKA.empty(), a, b, None, example_mask=real)
  assert int(accumulator.num_examples) == 24
  assert int(accumulator.num_left_out) == 3
  expected = minibatch_cka(x, y, minibatch_size=8)
  assert accumulator.compute() == pytest.approx(expected, rel=1e-5)
  real = np.asarray(real) & (np.arange(32) < 22).reshape(4, 8)
  accumulator = _update(MinibatchCKA.empty(), a, b, None, example_mask=real)
  expected = minibatch_cka(x[:22], y[:22], minibatch_size=8)
  assert accumulator.compute() == pytest.approx(expected, rel=1e-5)
  assert int(accumulator.num_left_out) == 0


def test_one_minibatch_is_debiased_cka():
  x, y = _pair(30, mean=1.0)
  expected = linear_cka(x, y, debiased=True)
  got = minibatch_cka(x, y, minibatch_size=30)
  assert got == pytest.approx(expected, rel=1e-10)
  got = _update(MinibatchCKA.empty(), x[None], y[None], None).compute()
  assert got == pytest.approx(expected, rel=1e-5)


def test_all_pairs_of_layers_and_a_diagonal_of_one():
  rng = np.random.default_rng(0)
  maps = rng.normal(size=(10, 12, 4, 4, 3)).astype(np.float32)
  layers = [maps, np.maximum(maps, 0), maps.mean((2, 3))]
  layers = [jnp.asarray(layer) for layer in layers]
  mask = np.arange(10) != 7
  accumulator = _update(MinibatchCKA.empty(3, 3), layers, layers, mask)
  matrix = accumulator.matrix()
  np.testing.assert_allclose(np.diag(matrix), 1.0, rtol=1e-6)
  np.testing.assert_allclose(matrix, matrix.T, rtol=1e-6)
  flat = [np.asarray(z)[mask].reshape(108, -1) for z in layers]
  for i, j in itertools.product(range(3), range(3)):
    expected = minibatch_cka(flat[i], flat[j], minibatch_size=12)
    assert matrix[i, j] == pytest.approx(expected, rel=1e-4)
  with pytest.raises(ValueError, match='3 x 3 pairs'):
    accumulator.compute()


def test_bfloat16_maps():
  x, y = _pair(24)
  x, y = (jnp.asarray(z, jnp.bfloat16) for z in (x, y))
  wide = [np.asarray(z, np.float64) for z in (x, y)]
  got = _update(MinibatchCKA.empty(), x[None], y[None], None).compute()
  assert got == pytest.approx(linear_cka(*wide, debiased=True), rel=1e-5)
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
  minibatches = [to_minibatches(z, minibatch_size=8) for z in (x, broken)]
  accumulator = _update(MinibatchCKA.empty(), *minibatches, None)
  with pytest.raises(ValueError, match='1 minibatches of features hold NaN'):
    accumulator.compute()


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


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_grams_that_are_not_finite(bad):
  grams = np.random.default_rng(0).normal(size=(2, 12, 4))
  grams[1, 5, 2] = bad
  with pytest.raises(ValueError, match='NaN or infinity: did the run diverge'):
    cka.cka_of_grams(list(grams), minibatch_size=4)


def test_refusals_of_parameters():
  x, y = _pair()
  for bandwidth in (0.0, -1.0, np.inf, np.nan):
    with pytest.raises(ValueError, match=r'bandwidth must be in \(0, inf\)'):
      rbf_cka(x, y, bandwidth=bandwidth)
  with pytest.raises(ValueError, match='minibatch_size must be at least 4'):
    minibatch_cka(x, y, minibatch_size=3)
  with pytest.raises(ValueError, match='minibatches of 7'):
    to_minibatches(x, minibatch_size=7)


def test_refusals_of_the_accumulators():
  x, y = _pair()
  with pytest.raises(ValueError, match='number of features of each layer'):
    LinearCKA.empty([], [3])
  with pytest.raises(ValueError, match='number of features of each layer'):
    LinearCKA.empty([3, 0], [3])
  empty = LinearCKA.empty(5, 7)
  with pytest.raises(ValueError, match=r'ys \[batch.*\[7\] features; got'):
    empty.update(x, y[:, 1:], None)
  with pytest.raises(ValueError, match=r'ys \[batch'):
    empty.update(x, y[1:], None)
  with pytest.raises(ValueError, match='MinibatchCKA'):
    empty.update(x[:, :, None], y, None)
  with pytest.raises(ValueError, match=r'at least 2 examples.*got 1'):
    empty.update(x[:1], y[:1], None).compute()
  with pytest.raises(ValueError, match='got 0'):
    empty.compute()
  with pytest.raises(ValueError, match='at least one layer on each side'):
    MinibatchCKA.empty(0, 1)
  empty = MinibatchCKA.empty(1, 1)
  with pytest.raises(ValueError, match='Expected 1 x and 1 y layers; got 2'):
    empty.update([x[None], x[None]], y[None], None)
  with pytest.raises(ValueError, match='that agree, with minibatch_size >= 4'):
    empty.update(x[None, :3], y[None, :3], None)
  with pytest.raises(ValueError, match='that agree'):
    empty.update(x[None], y[None, 1:], None)
  with pytest.raises(ValueError, match=r'example_mask must be \[1, 40\]'):
    empty.update(x[None], y[None], None, example_mask=np.ones(40))
  with pytest.raises(ValueError, match='No minibatch had 4 examples'):
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
