"""What a Newton step of logistic regression computes on the devices.

All is mapped over examples: [n, ...] is a device's share. Rows of padding are zero,
with the label -1, which is no class. `logistic_regression` says what it is for.
"""

import functools

import jax
import jax.numpy as jnp

from lossbench.runtime import devices

_HIGHEST = jax.lax.Precision.HIGHEST


def _own(labels, num_classes):
  return labels[:, None] == jnp.arange(num_classes)[None, :]


def _real(labels):
  return (labels >= 0)[:, None]


def _psum(tree):
  return jax.lax.psum(tree, devices.AXIS)


@functools.partial(devices.pmap, out_axes=None)
def feature_sums(x):
  """The sum over examples, [M].

  Args:
    x: [n, M].
  """
  return _psum(jnp.sum(x, axis=0))


@functools.partial(devices.pmap, in_axes=(0, 0, None), out_axes=(0, None))
def centre(x, labels, mean):
  """Features less their mean, and X^T X [M, M] of them.

  Args:
    x: [n, M].
    labels: [n].
    mean: [M].
  """
  x = jnp.where(_real(labels), x - mean[None, :], 0.0)
  return x, _psum(x.T @ x)


@functools.partial(
  devices.pmap, in_axes=(0, 0, None, None, None), out_axes=(0, 0, None)
)
def rotate(x, labels, basis, scale, classes):
  """Features in another basis, in float64 and float32; sums of each class [K, M].

  Args:
    x: [n, M].
    labels: [n].
    basis: [M, M].
    scale: scalar, of the result.
    classes: [K], the class ids.
  """
  x = x @ basis * scale
  own = (labels[:, None] == classes[None, :]).astype(x.dtype)
  return x, x.astype(jnp.float32), _psum(own.T @ x)


@functools.partial(devices.pmap, in_axes=(0, None, None))
def products(x, weights, bias):
  """The change of the logits [n, K] that a change of W and b makes.

  Args:
    x: [n, M].
    weights: [K, M].
    bias: [K].
  """
  return x @ weights.T + bias[None, :]


def losses(logits, labels):
  """Sum of losses, probabilities - targets [n, K], accurate near zero.

  Args:
    logits: [n, K].
    labels: [n].
  """
  own = _own(labels, logits.shape[1])
  z = logits - jnp.sum(jnp.where(own, logits, 0.0), axis=1, keepdims=True)
  peak = jnp.max(z, axis=1, keepdims=True)  # at least 0, which is the label's
  e = jnp.exp(z - peak)
  others = jnp.sum(jnp.where(own, 0.0, e), axis=1, keepdims=True)
  label = jnp.exp(-peak)
  # peak > 0: others >= 1, and the logarithm has all its digits.
  loss = jnp.where(peak > 0, peak + jnp.log(others + label), jnp.log1p(others))
  total = others + label
  residuals = jnp.where(own, -others, e) / total
  real = _real(labels)
  return (
    jnp.sum(jnp.where(real, loss, 0.0)),
    jnp.where(real, residuals, 0.0),
  )


def _curvatures(residuals, labels):
  """p (1 - p) [n, K], with all digits of p near 0 and 1."""
  own = _own(labels, residuals.shape[1])
  return (
    jnp.abs(residuals)
    * jnp.where(own, 1 + residuals, 1 - residuals)
    * _real(labels)
  )


@functools.partial(devices.pmap, in_axes=(0, 0, 0, None), out_axes=None)
def line(logits, direction, labels, step):
  """Sum of losses and its slope at logits + step * direction.

  Args:
    logits: [n, K].
    direction: [n, K].
    labels: [n].
    step: scalar.
  """
  loss, residuals = losses(logits + step * direction, labels)
  return _psum((loss, jnp.sum(residuals * direction)))


@functools.partial(
  devices.pmap, in_axes=(0, 0, 0, 0, None, None), out_axes=(0, 0, None)
)
def advance(x, logits, direction, labels, step, shift):
  """Moves the logits; what the host wants to know of the new place.

  Args:
    x: [n, M].
    logits: [n, K].
    direction: [n, K].
    labels: [n].
    step: scalar, of the direction.
    shift: [K], of the bias besides.

  Returns:
    Logits and, in float32, residuals [n, K]; sum of losses, its gradient by W
    [K, M] and b [K], and sum of p (1 - p).
  """
  logits = logits + step * direction + shift[None, :]
  loss, residuals = losses(logits, labels)
  curvature = jnp.sum(_curvatures(residuals, labels))
  sums = (loss, residuals.T @ x, jnp.sum(residuals, axis=0), curvature)
  return logits, residuals.astype(jnp.float32), _psum(sums)


@functools.partial(devices.pmap, out_axes=None)
def bias_hessian(residuals, labels):
  """P^T P [K, K] in float32, whose off-diagonal is minus the Hessian's.

  Args:
    residuals: [n, K], probabilities - targets.
    labels: [n].
  """
  own = _own(labels, residuals.shape[1])
  probs = residuals + own.astype(residuals.dtype)
  return _psum(jnp.matmul(probs.T, probs, precision=_HIGHEST))


@functools.partial(devices.pmap, out_axes=None)
def class_blocks(x, residuals, labels):
  """X^T diag(p_k (1 - p_k)) X [K, M, M], of which the Hessian's diagonal consists.

  Args:
    x: [n, M] float64.
    residuals: [n, K], probabilities - targets.
    labels: [n].
  """
  curvatures = _curvatures(residuals, labels).astype(x.dtype)
  return _psum(jax.lax.map(lambda c: (x * c[:, None]).T @ x, curvatures.T))


def _precondition(gradient, preconditioner, bias_diagonal, l2):
  """A step from a gradient ([K, M], [K]); as of `conjugate_gradients`."""
  weights, bias = gradient
  if preconditioner.ndim == 1:
    return weights / preconditioner[None, :], bias / bias_diagonal
  # What all classes share changes no loss: there the Hessian is the penalty's.
  shared = jnp.mean(weights, axis=0, keepdims=True)
  weights = jnp.einsum(
    'kab,kb->ka', preconditioner, weights - shared, precision=_HIGHEST
  )
  weights -= jnp.mean(weights, axis=0, keepdims=True)
  return weights + shared / l2, bias / bias_diagonal


def _dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


@functools.partial(
  devices.pmap,
  in_axes=(0, 0, 0, None, None, None, None, None, None),
  out_axes=None,
)
def conjugate_gradients(
  x,
  residuals,
  labels,
  gradient,
  l2,
  preconditioner,
  bias_diagonal,
  reduction,
  limit,
):
  """Solves H d = -gradient until the residual's norm has shrunk.

  Args:
    x: [n, M], float32 or float64: the precision of everything.
    residuals: [n, K], probabilities - targets.
    labels: [n].
    gradient: ([K, M], [K]).
    l2: scalar.
    preconditioner: of the weights, its diagonal [M]; or the inverse of one that
      differs between classes, [K, M, M].
    bias_diagonal: scalar, of the bias.
    reduction: of the residual's Euclidean norm.
    limit: of products with the Hessian.

  Returns:
    d and the number of products.
  """
  own = _own(labels, residuals.shape[1])
  off = jnp.where(own, 0.0, residuals)
  label_probs = jnp.where(own, 1 + residuals, 0.0)
  mm = functools.partial(jnp.matmul, precision=_HIGHEST)

  def hessian(d):
    weights, bias = d
    t = mm(x, weights.T) + bias[None, :]
    # p * (t - <p, t>), with t relative to the label's own: of p near 1 only
    # the rest, 1 - p, has digits.
    t = t - jnp.sum(jnp.where(own, t, 0.0), axis=1, keepdims=True)
    mean = jnp.sum(off * t, axis=1, keepdims=True)
    s = off * (t - mean) - label_probs * mean
    sums = _psum((mm(s.T, x), jnp.sum(s, axis=0)))
    return sums[0] + l2 * weights, sums[1]

  def precondition(r):
    return _precondition(r, preconditioner, bias_diagonal, l2)

  def plus(a, factor, b):
    return jax.tree.map(lambda u, v: u + factor * v, a, b)

  def unfinished(carry):
    _, r, _, _, i, broken = carry
    return (_dot(r, r) > goal) & (i < limit) & ~broken

  def body(carry):
    d, r, p, rz, i, _ = carry
    h = hessian(p)
    curvature = _dot(p, h)
    broken = ~(curvature > 0)  # rounding has eaten the direction
    length = jnp.where(broken, 0.0, rz / jnp.where(broken, 1.0, curvature))
    d, r = plus(d, length, p), plus(r, -length, h)
    z = precondition(r)
    new_rz = _dot(r, z)
    return d, r, plus(z, new_rz / rz, p), new_rz, i + 1, broken

  r = jax.tree.map(jnp.negative, gradient)
  goal = reduction**2 * _dot(r, r)
  z = precondition(r)
  start = jax.tree.map(jnp.zeros_like, r)
  d, *_, i, _ = jax.lax.while_loop(
    unfinished, body, (start, r, z, _dot(r, z), jnp.int32(0), jnp.bool_(False))
  )
  return d, i
