"""Max pooling: on the CPU a gradient of our own, elsewhere Flax's program."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.models.convolution import tracing_for
from lossbench.models.pooling import max_pool


def _gradient(pool_fn, x):
  """Of a loss that tells apart which input of a window gets how much."""

  def loss(x):
    y = pool_fn(x)
    return jnp.sum(y * jnp.arange(1, y.size + 1).reshape(y.shape))

  return jax.jit(jax.grad(loss))(x)


@pytest.mark.parametrize('size', [(7, 8), (6, 9)])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((1, 1), (1, 1))])
@pytest.mark.parametrize('strides', [(2, 2), (1, 3)])
def test_the_gradient_is_that_of_flax_also_where_inputs_are_equal(
  size, padding, strides
):
  rng = np.random.default_rng(0)
  x = np.maximum(rng.integers(-4, 3, size=(2, *size, 3)), 0).astype(np.float32)
  options = {'window_shape': (3, 3), 'strides': strides, 'padding': padding}
  ours, flaxs = (
    functools.partial(pool_fn, **options) for pool_fn in (max_pool, nn.max_pool)
  )
  np.testing.assert_array_equal(ours(x), flaxs(x))
  np.testing.assert_array_equal(_gradient(ours, x), _gradient(flaxs, x))


def test_accelerators_get_the_program_of_flax():
  x = jnp.ones((1, 8, 8, 2), jnp.bfloat16)

  def lowered(pool_fn):
    def loss(x):
      return jnp.sum(pool_fn(x, (3, 3), (2, 2), 'SAME'))

    traced = jax.jit(jax.grad(loss)).trace(x)
    return traced.lower(lowering_platforms=('tpu',)).as_text()

  with tracing_for('tpu'):
    assert lowered(max_pool) == lowered(nn.max_pool)
  assert lowered(max_pool) != lowered(nn.max_pool)
