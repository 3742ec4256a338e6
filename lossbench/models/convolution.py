"""Convolutions whose gradients are fast on CPUs, also inside loops."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_Pair = tuple[int, int]

_traced_for = contextvars.ContextVar('traced_for', default=None)


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
  """Programs traced inside are for this platform, not for the default backend.

  For those who compile for machines that they are not on.

  Args:
    platform: 'cpu', 'gpu' or 'tpu', as `jax.default_backend` names them.
  """
  token = _traced_for.set(platform)
  try:
    yield
  finally:
    _traced_for.reset(token)


def traced_for_cpu() -> bool:
  """Whether what is traced now runs on CPUs."""
  return (_traced_for.get() or jax.default_backend()) == 'cpu'


def conv_general_dilated(
  x: jax.Array,
  kernel: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[_Pair],
  *,
  lhs_dilation: Sequence[int] = (1, 1),
  rhs_dilation: Sequence[int] = (1, 1),
  dimension_numbers: lax.ConvDimensionNumbers | None = None,
  feature_group_count: int = 1,
  precision: lax.PrecisionLike = None,
) -> jax.Array:
  """`lax.conv_general_dilated`, with gradients of its own on the CPU.

  On accelerators it is JAX's. On the CPU the gradients are the same numbers but
  for rounding, from another program: XLA:CPU has fast convolutions for images
  as NHWC and kernels as HWIO only. JAX's gradients come in other layouts, which
  a pass of XLA puts right, but not inside the bodies of loops, where they are
  30 times slower (jax issue 12868); and the gradient with respect to the input
  of a convolution with strides spends its time on zeros. Here all of them are
  in the layouts that are fast, the input is never dilated, and kernels of one
  pixel are matrix products.

  Grouped or dilated convolutions are JAX's everywhere.

  Args:
    x: [N, H, W, C].
    kernel: [h, w, C, C'].
    window_strides: of both dimensions.
    padding: 'SAME', 'VALID' or a pair for both dimensions.
    lhs_dilation: as in JAX, like all that follow.
    rhs_dilation: likewise.
    dimension_numbers: likewise.
    feature_group_count: likewise.
    precision: likewise.

  Returns:
    [N, H', W', C'].
  """
  options = {
    'lhs_dilation': lhs_dilation,
    'rhs_dilation': rhs_dilation,
    'dimension_numbers': dimension_numbers,
    'feature_group_count': feature_group_count,
    'precision': precision,
  }
  plain = (
    x.ndim == 4
    and dimension_numbers
    == lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT)
    and {*lhs_dilation, *rhs_dilation} == {1}
    and feature_group_count == 1
  )
  if not (traced_for_cpu() and plain):
    return lax.conv_general_dilated(
      x, kernel, window_strides, padding, **options
    )
  strides = tuple(window_strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      x.shape[1:3], kernel.shape[:2], strides, padding
    )
  pads = tuple((int(low), int(high)) for low, high in padding)
  return _convolve(x, kernel, strides, pads, precision)


def _plain(x, kernel, strides, pads, precision):
  return lax.conv_general_dilated(
    x, kernel, strides, pads, dimension_numbers=_LAYOUT, precision=precision
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x, kernel, strides, pads, precision):
  return _plain(x, kernel, strides, pads, precision)


def _forward(x, kernel, strides, pads, precision):
  return _plain(x, kernel, strides, pads, precision), (x, kernel)


def _backward(strides, pads, precision, residuals, gradient):
  x, kernel = residuals
  arguments = (strides, pads, precision)
  return (
    _input_gradient(x.shape, kernel, gradient, *arguments),
    _kernel_gradient(x, kernel.shape, gradient, *arguments),
  )


_convolve.defvjp(_forward, _backward)


def _taps(size: int, stride: int, low: int, phase: int) -> tuple[int, int, int]:
  """Which taps of a kernel meet the inputs phase, phase + stride, ...

  With y[o] = sum_t k[t] x[o * stride - low + t], the gradient of
  x[i * stride + phase] takes the taps t = first, first + stride, ... and of
  them the j-th with y's gradient at i + offset - j.

  Returns:
    first, number of taps, offset.
  """
  first = (phase + low) % stride
  return first, len(range(first, size, stride)), (phase + low) // stride


def _input_gradient(shape, kernel, gradient, strides, pads, precision):
  """Convolutions of the phases of the strides, interleaved."""
  batch, *sizes, channels = shape
  counts = [-(-size // s) for size, s in zip(sizes, strides, strict=True)]
  # The kernel of the transposed convolution: [h, w, C', C], turned round.
  turned = kernel.swapaxes(2, 3)

  def of_phase(phases):
    starts, sides = [], []
    for d, phase in enumerate(phases):
      first, num_taps, offset = _taps(
        kernel.shape[d], strides[d], pads[d][0], phase
      )
      if num_taps == 0:
        return jnp.zeros((batch, *counts, channels), gradient.dtype)
      starts.append(first)
      low = num_taps - 1 - offset
      sides.append((low, counts[d] + offset - gradient.shape[1 + d]))
    taps = turned[starts[0] :: strides[0], starts[1] :: strides[1]]
    return _plain(gradient, taps[::-1, ::-1], (1, 1), sides, precision)

  if strides == (1, 1):
    return of_phase((0, 0))
  rows = [
    jnp.stack([of_phase((a, b)) for b in range(strides[1])], axis=3)
    for a in range(strides[0])
  ]
  phases = jnp.stack(rows, axis=2)  # [N, H/s, s, W/s, s, C]
  whole = [n * s for n, s in zip(counts, strides, strict=True)]
  interleaved = phases.reshape(batch, *whole, channels)
  return interleaved[:, : sizes[0], : sizes[1]]


def _kernel_gradient(x, shape, gradient, strides, pads, precision):
  """A convolution over the batch, or a matrix product for one pixel."""
  reach = [
    (n - 1) * s + size
    for n, s, size in zip(gradient.shape[1:3], strides, shape[:2], strict=True)
  ]
  sides = [
    (low, end - size - low)
    for (low, _), end, size in zip(pads, reach, x.shape[1:3], strict=True)
  ]
  if shape[:2] == (1, 1):
    zero = jnp.zeros((), x.dtype)
    edges = [(0, 0, 0), *((*side, 0) for side in sides), (0, 0, 0)]
    seen = lax.pad(x, zero, edges)[:, :: strides[0], :: strides[1]]
    # XLA copies the left factor transposed, and computes it anew as it does, which
    # of a residual block's input is the sum over all blocks before.
    factors = seen, gradient
    swap = shape[3] < shape[2] or strides != (1, 1)
    product = lax.dot_general(
      *(factors[::-1] if swap else factors),
      (((0, 1, 2), (0, 1, 2)), ((), ())),
      precision=precision,
    )
    return (product.T if swap else product)[None, None]
  correlation = lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0),  # [C, H, W, N]
    gradient.transpose(1, 2, 0, 3),  # [H', W', N, C']
    (1, 1),
    sides,
    rhs_dilation=strides,
    dimension_numbers=_LAYOUT,
    precision=precision,
  )  # [C, h, w, C']
  return correlation.transpose(1, 2, 0, 3)


class Conv(nn.Conv):
  """Flax's convolution over `conv_general_dilated` above."""

  conv_general_dilated: Callable[..., jax.Array] = conv_general_dilated
