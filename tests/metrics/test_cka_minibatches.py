"""Gram matrices of minibatches against HSIC's definition and `minibatch_cka`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.metrics.cka import linear_cka, minibatch_cka
from lossbench.metrics.cka_minibatches import (
  cka_of_grams,
  to_minibatches,
  u_centered_grams,
)


def _pair(num_examples=40, num_x=5, num_y=7):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num_examples, num_x)) * rng.uniform(0.2, 3, num_x)
  y = np.tanh(x @ rng.normal(size=(num_x, num_y)))
  y = y + rng.normal(size=y.shape)
  return x.astype(np.float32), y.astype(np.float32)


def _hsic_1(k, l):  # noqa: E741, as in the papers
  """Song et al. 2012, eq. 4: the mean over all distinct i, j, q, r."""
  terms = [
    k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2.0 * k[i, j] * l[i, q]
    for i, j, q, r in itertools.permutations(range(len(k)), 4)
  ]
  return np.mean(terms)


_grams = jax.jit(u_centered_grams)


def _rows(layer, size, num_real=None):
  """Gram rows [N, size] of the examples, the last minibatch filled with NaN."""
  num_real = len(layer) if num_real is None else num_real
  fill = np.full((-len(layer) % size, *layer.shape[1:]), np.nan, layer.dtype)
  padded = np.concatenate([layer, fill])
  members = to_minibatches(
    np.arange(len(padded)) < num_real, minibatch_size=size
  )
  minibatches = to_minibatches(padded, minibatch_size=size)
  return np.asarray(_grams(minibatches, members)).reshape(-1, size)[:num_real]


def _cka(x, y, size, num_real=None):
  grams = [_rows(layer, size, num_real) for layer in (x, y)]
  return cka_of_grams(grams, minibatch_size=size)[0, 1]


def test_products_are_unbiased_hsic():
  """Averaged over ALL minibatches of 5 of 8 examples it is HSIC_1 of the 8.

  HSIC_1 is a U-statistic (Song et al. 2012), so this is an equality, and with
  it the estimate is debiased CKA.
  """
  x, y = _pair(8, 3, 4)
  subsets = np.array(list(itertools.combinations(range(8), 5)))
  members = np.ones(subsets.shape, bool)
  grams = [np.asarray(_grams(z[subsets], members)) for z in (x, y)]
  k, l = (z.astype(np.float64) @ z.astype(np.float64).T for z in (x, y))  # noqa: E741
  for a, b, kernels in ((0, 1, (k, l)), (0, 0, (k, k))):
    products = np.einsum('bij,bij->b', grams[a], grams[b]) / (5 * 2)
    assert np.mean(products) == pytest.approx(_hsic_1(*kernels), rel=1e-5)
  got = cka_of_grams([g.reshape(-1, 5) for g in grams], minibatch_size=5)
  expected = linear_cka(x, y, debiased=True)
  assert got[0, 1] == pytest.approx(expected, rel=1e-5)
  np.testing.assert_allclose(np.diag(got), 1.0, rtol=1e-12)


def test_converges_as_more_minibatches_are_drawn():
  x, y = _pair(2000, 6, 5)
  exact = linear_cka(x, y, debiased=True)
  assert exact == pytest.approx(linear_cka(x, y), abs=3e-3)
  rng = np.random.default_rng(0)
  orders = [rng.permutation(2000) for _ in range(64)]

  def error(num_epochs, repeats):
    errors = []
    for start in range(repeats):
      order = np.concatenate(orders[start * num_epochs :][:num_epochs])
      errors.append(_cka(x[order], y[order], 20) - exact)
    return np.sqrt(np.mean(np.square(errors)))

  once, often = error(1, 16), error(16, 4)
  assert once < 0.02
  assert often < 0.6 * once
  assert often < 0.005


@pytest.mark.parametrize('shape', [(6,), (3, 4, 2)])
def test_the_plain_function(shape):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(48, *shape)).astype(np.float32) + 3.0
  y = np.maximum(x[:, ::2], 2.9)
  expected = minibatch_cka(x, y, minibatch_size=8)
  assert _cka(x, y, 8) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('num_real', [27, 22])
def test_minibatches_of_fewer_examples(num_real):
  """6 in the last minibatch; and 3, which HSIC_1 cannot use."""
  x, y = _pair(27)
  expected = minibatch_cka(x[:num_real], y[:num_real], minibatch_size=8)
  assert _cka(x, y, 8, num_real) == pytest.approx(expected, rel=1e-5)


def test_all_pairs_of_layers():
  rng = np.random.default_rng(0)
  maps = rng.normal(size=(96, 4, 4, 3)).astype(np.float32)
  layers = [maps, np.maximum(maps, 0), maps.mean((1, 2)), 0 * maps]
  grams = [_rows(layer, 12) for layer in layers]
  matrix = cka_of_grams(grams, minibatch_size=12)
  np.testing.assert_array_equal(matrix, matrix.T)
  for i, j in itertools.product(range(4), range(4)):
    expected = minibatch_cka(layers[i], layers[j], minibatch_size=12)
    np.testing.assert_allclose(matrix[i, j], expected, rtol=1e-4)
  assert np.isnan(matrix[3]).all()


def test_bfloat16_maps():
  x, y = _pair(24)
  x, y = (np.asarray(jnp.asarray(z, jnp.bfloat16)) for z in (x, y))
  wide = [np.asarray(z, np.float64) for z in (x, y)]
  expected = linear_cka(*wide, debiased=True)
  assert _cka(x, y, 24) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_grams_that_are_not_finite(bad):
  grams = np.random.default_rng(0).normal(size=(2, 12, 4))
  grams[1, 5, 2] = bad
  with pytest.raises(ValueError, match='NaN or infinity: did the run diverge'):
    cka_of_grams(list(grams), minibatch_size=4)


def test_refusals():
  with pytest.raises(ValueError, match='minibatches of 7'):
    to_minibatches(np.ones((40, 5)), minibatch_size=7)
  with pytest.raises(ValueError, match=r'Expected Gram rows.*got \[\]'):
    cka_of_grams([], minibatch_size=4)
  with pytest.raises(ValueError, match=r'\(11, 4\), \(12, 4\)'):
    cka_of_grams([np.ones((12, 4)), np.ones((11, 4))], minibatch_size=4)
  for shape, size in (((12, 4), 8), ((12, 3), 3), ((3, 4), 4)):
    with pytest.raises(ValueError, match='minibatch_size must be'):
      cka_of_grams([np.ones(shape)], minibatch_size=size)
