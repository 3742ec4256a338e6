"""Share of non-zero activations against NumPy and hand values."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.metrics import sparsity
from lossbench.metrics.sparsity import ActivationSparsity

# Jitted here: op by op it is as right, and slower to test.
nonzero_fraction = jax.jit(sparsity.nonzero_fraction)


@pytest.mark.parametrize('shape', [(50,), (50, 3), (50, 4, 5, 6)])
def test_numpy(shape):
  x = np.maximum(np.random.default_rng(0).normal(size=shape), 0)
  expected = np.count_nonzero(x) / x.size
  assert nonzero_fraction(x) == pytest.approx(expected, rel=1e-6)
  accumulator = ActivationSparsity.empty().update(x, None)
  assert accumulator.compute() == pytest.approx(expected, rel=1e-6)


def test_hand_values():
  x = np.array([[0.0, -0.0, 1.0, -2.0], [0.0, 0.0, 0.0, 1e-30]])
  assert nonzero_fraction(x) == 3 / 8
  assert nonzero_fraction(x, mask=np.array([1, 0])) == 0.5
  assert nonzero_fraction(np.zeros((3, 2))) == 0
  assert nonzero_fraction(np.array([[np.inf, 0.0]])) == 0.5


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.int32])
def test_dtypes(dtype):
  if dtype == jnp.float16 and 'max_isa=SSE4_2' in os.environ['XLA_FLAGS']:
    pytest.skip("XLA's conversions of float16 take instructions after SSE4.2")
  x = jnp.asarray(np.arange(12).reshape(3, 4) % 3, dtype)
  assert nonzero_fraction(x) == pytest.approx(8 / 12)


def test_a_large_dense_map_is_exactly_one():
  x = np.ones((2, 56, 56, 256), np.float32)
  assert ActivationSparsity.empty().update(x, None).compute() == 1.0


def test_many_batches_keep_their_digits():
  x = (np.arange(3) == 0).astype(np.float32)[None]  # one third

  def add(carry, _):
    return carry.update(x, None), None

  accumulator = jax.jit(
    lambda: jax.lax.scan(add, ActivationSparsity.empty(), length=300_000)[0]
  )()
  assert int(accumulator.num_examples) == 300_000
  third = float(np.float32(1 / 3))
  assert accumulator.compute() == pytest.approx(third, rel=1e-12)


def test_nan_is_reported_not_counted_as_non_zero():
  x = np.array([[np.nan, 0.0], [1.0, 0.0]])
  assert np.isnan(nonzero_fraction(x))
  assert np.isnan(ActivationSparsity.empty().update(x, None).compute())
  assert nonzero_fraction(x, mask=np.array([0, 1])) == 0.5


def test_nothing_counted_is_nan():
  assert np.isnan(ActivationSparsity.empty().compute())
  assert np.isnan(nonzero_fraction(np.ones((2, 2)), mask=np.zeros(2)))


def test_refusals():
  with pytest.raises(ValueError, match='got a scalar'):
    nonzero_fraction(1.0)
  with pytest.raises(ValueError, match=r'no activations in the shape \(3, 0\)'):
    nonzero_fraction(np.ones((3, 0)))
  with pytest.raises(ValueError, match=r'mask must be \[3\]'):
    nonzero_fraction(np.ones((3, 2)), mask=np.ones(2))
