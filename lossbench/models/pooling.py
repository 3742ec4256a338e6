"""Max pooling whose gradient is fast on CPUs."""

import functools
import itertools
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lossbench.models.convolution import traced_for_cpu

_Pair = tuple[int, int]


def max_pool(
  x: jax.Array,
  window_shape: _Pair,
  strides: _Pair = (1, 1),
  padding: str | Sequence[_Pair] = 'VALID',
) -> jax.Array:
  """`flax.linen.max_pool`, with a gradient of its own on the CPU.

  On accelerators it is Flax's. XLA:CPU finds again which input was the largest,
  by arrays of its indices; here that is kept. The gradient is the same: it goes
  to the first, by rows, of the largest inputs of each window.

  Args:
    x: [N, H, W, C].
    window_shape: rows and columns.
    strides: of both dimensions.
    padding: 'SAME', 'VALID' or a pair for both dimensions; what is added is
      never the largest.

  Returns:
    [N, H', W', C].
  """
  if not traced_for_cpu():
    return nn.max_pool(x, window_shape, strides, padding)
  pads = padding
  if isinstance(padding, str):
    pads = lax.padtype_to_pads(x.shape[1:3], window_shape, strides, padding)
  return _max_pool(x, tuple(window_shape), tuple(strides), tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, pads):
  return nn.max_pool(x, window, strides, pads)


def _places(window: _Pair) -> Iterator[_Pair]:
  """Row and column of each place in a window."""
  return itertools.product(*map(range, window))


def _forward(x, window, strides, pads):
  edges = ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0))
  padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
  largest = nn.max_pool(x, window, strides, pads)
  rows, columns = largest.shape[1:3]
  place = jnp.full(largest.shape, window[0] * window[1], jnp.uint8)
  for number, (i, j) in reversed(list(enumerate(_places(window)))):
    inputs = padded[
      :,
      i : i + (rows - 1) * strides[0] + 1 : strides[0],
      j : j + (columns - 1) * strides[1] + 1 : strides[1],
    ]
    place = jnp.where(inputs == largest, jnp.uint8(number), place)
  return largest, (place, x.shape)


def _backward(window, strides, pads, residuals, gradient):
  place, shape = residuals
  zero = jnp.zeros((), gradient.dtype)
  total = 0
  for number, offsets in enumerate(_places(window)):
    edges = [(0, 0, 0), (0, 0, 0)]
    edges[1:1] = [
      (
        offset - low,
        size + low - (count - 1) * stride - 1 - offset,
        stride - 1,
      )
      for offset, (low, _), size, count, stride in zip(
        offsets, pads, shape[1:3], place.shape[1:3], strides, strict=True
      )
    ]
    share = jnp.where(place == number, gradient, zero)
    total += lax.pad(share, zero, edges)
  return (total,)


_max_pool.defvjp(_forward, _backward)
