r"""L2-regularised multinomial logistic regression on fixed features.

For features x_i and class ids y_i, and for every L2 value lambda of a path,

  minimise f(W, b) = sum_i CE(W x_i + b, y_i) + lambda / 2 ||W||^2,

on the SUM of the cross-entropies in nats, the bias unregularised. It is the
objective of scikit-learn's LogisticRegression with C = 1 / lambda. (Not its code:
that has no path, no certificate, no accelerator, and one host's examples.)

**Method.** Newton steps by preconditioned conjugate gradients. With features
centred and turned into the eigenbasis of X^T X, s_j^2 its eigenvalues, the
Hessian is at most 1/2 (I - 11^T/K) kron diag(s_j^2) + lambda I (Böhning 1992,
"Multinomial logistic regression algorithm"): diagonal, for every lambda at
once. The 1/2 is what a softmax can reach; the mean over examples of
(1 - ||p||^2) / (K - 1) in its place is the softmax's own and costs nothing. Once
a step takes more products than there are features, the exact diagonal block of
each class takes its place, where K M^2 numbers are few. The path is solved from
the largest lambda down, starting from a parabola in log(lambda) through the last
three solutions. (Kornblith et al. warm start upwards. The objective is convex
and every solution certified, so the order changes no result; downwards the first
problem is easy, and the path took half the time.)

**Precision.** Objective, gradient, line search and certificate are float64, on
the devices too (`jax.enable_x64` in this module alone): at lambda = 1e-6 the
whole objective of separable data is 1e-2, of thousands of losses that float32
could not tell from zero. The inner products with the Hessian, nine tenths of
the work, are float32: a Newton step needs few digits, and the next one repairs
it. Where float32 stalls, float64 takes over. A residual p - y is computed as
minus the sum of the other probabilities where p is near 1, and the Hessian from
residuals, so that both keep their digits when almost nothing is wrong.

**Certificate.** For every row-stochastic P with column sums equal to the class
counts, D(P) = sum_i H(p_i) - ||X^T (P - Y)||^2 / (2 lambda) is at most the
minimum of f (Lagrange duality: log sum exp z = max_p <p, z> + H(p); the column
sums are the condition of the free bias). P is the softmax at hand, whose column
sums are wrong by c = df/db, mixed with as much of one constant row as mends
them, epsilon = max_k c_k / (n_k + c_k). Where c = 0, f - D is the bound of
strong convexity, ||df/dW||^2 / (2 lambda). The bound holds for whatever W and b
are, optimal or not, up to the rounding of float64.

Examples are sharded over the devices of all processes; each holds its share of the
features in float64 and float32 and a few arrays [examples, K].
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import checks
from lossbench.probe import newton
from lossbench.probe.l2_values import check_l2_values
from lossbench.runtime import devices

# 45 values, on the sum of losses (Kornblith et al. 2021, section 3.4).
L2_VALUES = tuple(float(x) for x in np.logspace(-6, 5, 45))

_MAX_STEPS = 200  # of Newton, for one lambda
_MAX_PRODUCTS = {np.float32: 300, np.float64: 3000}  # in one Newton step
_MAX_STALLED = 10  # steps in a row that gained next to nothing
_MAX_BLOCKS = 2**24  # numbers of a preconditioner that differs between classes
_REDUCTION = 0.1  # of the gradient's norm, by one Newton step
_CHUNK = 4096  # examples predicted at once


@dataclasses.dataclass(frozen=True)
class Fit:
  """A certified minimum for one lambda.

  Attributes:
    l2: lambda, on the sum of losses.
    weights: [K, M] float64.
    bias: [K] float64, sums to zero.
    objective: f(W, b), nats summed over examples, with the penalty.
    gradient_norm: Euclidean, of f in W and b, features centred.
    gap_bound: f(W, b) is at most this far above the minimum of f.
    num_steps: Newton steps taken.
    num_products: products with the Hessian.
  """

  l2: float
  weights: np.ndarray
  bias: np.ndarray
  objective: float
  gradient_norm: float
  gap_bound: float
  num_steps: int
  num_products: int

  @property
  def relative_gap_bound(self) -> float:
    """`gap_bound` over a lower bound of the minimum; inf without one."""
    return _relative(self.gap_bound, self.objective)


def _relative(gap: float, objective: float) -> float:
  lower = objective - gap
  return gap / lower if lower > 0 else float('inf')


@dataclasses.dataclass
class _Data:
  """Features on the devices, centred and in their eigenbasis."""

  x: jax.Array  # [devices, n, M] float64
  x32: jax.Array
  labels: jax.Array  # [devices, n], -1 = padding
  mean: np.ndarray  # [M]
  basis: np.ndarray  # [M, M]: an original row is mean + basis @ row / scale
  scale: float
  eigenvalues: np.ndarray  # [M], of X^T X
  class_sums: np.ndarray  # [K, M]
  class_counts: np.ndarray  # [K]


def _place(features, labels, *, num_classes) -> _Data:
  padding = -len(labels) % jax.device_count()
  x = np.pad(np.asarray(features, np.float64), ((0, padding), (0, 0)))
  padded = np.pad(labels.astype(np.int32), (0, padding), constant_values=-1)
  # Every process holds all features; its devices take its part of them.
  size = len(padded) // jax.process_count()
  mine = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
  x, placed = devices.shard((x[mine], padded[mine]))
  mean = np.asarray(newton.feature_sums(x)) / len(labels)
  x, gram = newton.centre(x, placed, mean)
  eigenvalues, basis = np.linalg.eigh(np.asarray(gram))
  # Features of unit mean square norm, so that float32 neither overflows nor
  # vanishes; the weights' unit changes with them, and so does lambda's.
  mean_square = max(float(eigenvalues.sum()), 0.0) / len(labels)
  scale = mean_square**-0.5 if mean_square > 0 else 1.0
  x, x32, class_sums = newton.rotate(
    x, placed, basis, scale, np.arange(num_classes)
  )
  return _Data(
    x=x,
    x32=x32,
    labels=placed,
    mean=mean,
    basis=basis,
    scale=scale,
    eigenvalues=np.maximum(eigenvalues, 0.0) * scale**2,
    class_sums=np.asarray(class_sums),
    class_counts=np.bincount(labels, minlength=num_classes).astype(np.float64),
  )


def _entropy(probs):
  positive = probs[probs > 0]
  return float(-np.sum(positive * np.log(positive)))


@dataclasses.dataclass
class _Point:
  """W and b, the logits there, and what follows from them."""

  weights: np.ndarray  # [K, M]
  bias: np.ndarray  # [K]
  logits: jax.Array  # [devices, n, K]
  residuals: jax.Array  # [devices, n, K] float32
  loss: float
  loss_gradient: np.ndarray  # [K, M], without the penalty's
  bias_gradient: np.ndarray  # [K]
  curvature: float  # sum_i 1 - ||p_i||^2

  def objective(self, l2):
    return self.loss + l2 / 2 * float(np.sum(self.weights**2))

  def gradient(self, l2):
    return self.loss_gradient + l2 * self.weights, self.bias_gradient

  def gap_bounds(self, l2, data: _Data) -> tuple[float, float]:
    """The certificate: of the weights' part and of the whole."""
    g, c = self.loss_gradient, self.bias_gradient
    part = float(np.sum((g + l2 * self.weights) ** 2)) / (2 * l2)
    gap = part + float(c @ self.bias)
    counts = data.class_counts
    total = counts.sum()
    epsilon = max(float(np.max(c / (counts + c))), 0.0)
    if epsilon > 0:
      # How much the mixture lowers the dual objective; its entropy is at least
      # the mixture of the entropies.
      row = np.maximum(counts - c * (1 - epsilon) / epsilon, 0.0) / total
      entropies = self.loss - float(np.sum(g * self.weights) + c @ self.bias)
      moved = g + data.class_sums
      gap += epsilon * (entropies - total * _entropy(row))
      gap += (
        epsilon**2 * float(np.sum(moved**2))
        - 2 * epsilon * float(np.sum(g * moved))
      ) / (2 * l2)
    return part, max(gap, 0.0)


class _Solver:
  """Newton's method on placed data, one lambda at a time."""

  def __init__(self, data: _Data, *, tolerance: float):
    self._data = data
    self._tolerance = tolerance
    self._in_blocks = False  # the preconditioner, once one step was long

  def _preconditioner(self, point: _Point, l2, mean_curvature) -> np.ndarray:
    """Diagonal [M], or the inverse of a block of each class, [K, M, M]."""
    data = self._data
    if not self._in_blocks:
      return mean_curvature / data.class_counts.sum() * data.eigenvalues + l2
    blocks = np.array(newton.class_blocks(data.x, point.residuals, data.labels))
    blocks += l2 * np.eye(blocks.shape[1])
    return np.linalg.inv(blocks)

  def point(self, weights, bias) -> _Point:
    logits = newton.products(self._data.x, weights, bias)
    return self._moved(
      logits, logits, 0.0, weights, bias, shift=np.zeros_like(bias)
    )

  def _moved(self, logits, direction, step, weights, bias, *, shift) -> _Point:
    logits, residuals, sums = newton.advance(
      self._data.x, logits, direction, self._data.labels, step, shift
    )
    loss, loss_gradient, bias_gradient, curvature = map(np.asarray, sums)
    return _Point(
      weights=weights,
      bias=bias,
      logits=logits,
      residuals=residuals,
      loss=float(loss),
      loss_gradient=loss_gradient,
      # Residuals of a row sum to zero, but for rounding.
      bias_gradient=bias_gradient - bias_gradient.mean(),
      curvature=float(curvature),
    )

  def _shift_bias(self, point: _Point) -> _Point:
    """One Newton step of the bias alone."""
    hessian = -np.asarray(
      newton.bias_hessian(point.residuals, self._data.labels), np.float64
    )
    np.fill_diagonal(hessian, 0.0)
    diagonal = -hessian.sum(axis=1)
    np.fill_diagonal(hessian, diagonal)
    # All-ones is its null space, to which the gradient is orthogonal.
    hessian += diagonal.mean() / len(hessian) + 1e-300
    shift = -np.linalg.lstsq(hessian, point.bias_gradient)[0]
    shift -= shift.mean()
    return self._moved(
      point.logits,
      point.logits,
      0.0,
      point.weights,
      point.bias + shift,
      shift=shift,
    )

  def _newton(self, point: _Point, l2, *, reduction, precise):
    """One Newton step; returns the new point and the number of products."""
    data = self._data
    dtype = np.float64 if precise else np.float32
    gradient = point.gradient(l2)
    scale = float(np.sqrt(sum(np.sum(g**2) for g in gradient)))
    num_classes = len(point.bias)
    mean_curvature = point.curvature / (num_classes - 1)
    preconditioner = self._preconditioner(point, l2, mean_curvature)
    # The gradient is scaled to norm 1: its square must not vanish in float32.
    (weights, bias), num_products = newton.conjugate_gradients(
      data.x if precise else data.x32,
      point.residuals.astype(dtype),
      data.labels,
      tuple((g / scale).astype(dtype) for g in gradient),
      dtype(l2),
      preconditioner.astype(dtype),
      dtype(max(mean_curvature, 1e-30)),
      dtype(reduction),
      np.int32(_MAX_PRODUCTS[dtype]),
    )
    weights = np.asarray(weights, np.float64) * scale
    bias = np.asarray(bias, np.float64) * scale
    bias -= bias.mean()
    direction = newton.products(data.x, weights, bias)
    step = self._step_length(point, direction, weights, l2)
    new = self._moved(
      point.logits,
      direction,
      step,
      point.weights + step * weights,
      point.bias + step * bias,
      shift=np.zeros_like(bias),
    )
    num_features = point.weights.shape[1]
    # Blocks cost as much as num_features / 2 products.
    self._in_blocks |= (
      num_products > num_features
      and num_classes * num_features**2 <= _MAX_BLOCKS
    )
    return new, int(num_products)

  def _step_length(self, point, direction, weights, l2) -> float:
    """Halves the Newton step until the objective certainly falls.

    The slope tells it where the objective's own digits no longer do: of a
    convex function that still falls at the end of a step, the step is good.
    """
    squares = [
      float(np.sum(point.weights**2)),
      float(np.sum(point.weights * weights)),
      float(np.sum(weights**2)),
    ]
    start = point.objective(l2)
    _, slope = newton.line(point.logits, direction, self._data.labels, 0.0)
    slope = float(slope) + l2 * squares[1]
    step = 1.0
    for _ in range(40):
      loss, new_slope = map(
        float, newton.line(point.logits, direction, self._data.labels, step)
      )
      penalty = squares[0] + 2 * step * squares[1] + step**2 * squares[2]
      objective = loss + l2 / 2 * penalty
      new_slope += l2 * (squares[1] + step * squares[2])
      if new_slope <= 0 or objective <= start + 1e-4 * step * slope:
        return step
      rounding = 1e-12 * abs(start)
      if new_slope <= 0.1 * abs(slope) and objective <= start + rounding:
        return step
      step /= 2
    return 0.0

  def solve(self, point: _Point, *, l2: float) -> tuple[_Point, int, int]:
    """Minimises from a point; returns the minimum, steps and products."""
    num_steps = num_products = num_stalled = 0
    precise = shifted = False
    while True:
      objective = point.objective(l2)
      part, gap = point.gap_bounds(l2, self._data)
      relative = _relative(gap, objective)
      if relative <= self._tolerance:
        return point, num_steps, num_products
      # Below this the weights are done and the bias is what is left.
      target = 0.5 * self._tolerance * max(objective - gap, objective * 1e-3)
      if part <= target and not shifted:
        new = self._shift_bias(point)
        shrunk = (
          np.abs(new.bias_gradient).sum()
          <= 0.5 * np.abs(point.bias_gradient).sum()
        )
        shifted = not shrunk
        if shrunk:
          point = new
          continue
      if num_steps == _MAX_STEPS or num_stalled > _MAX_STALLED:
        raise ValueError(
          # As it was given: here it is that of the scaled features.
          f'L2 = {l2 / self._data.scale**2:g}: not within {self._tolerance:g} of the minimum after '
          f'{num_steps} Newton steps; the certificate says {relative:.1e}. Are '
          'the features of very different scales? Standardise them, or allow a '
          'larger tolerance.'
        )
      wanted = 0.7 * np.sqrt(target / part) if part > 0 else 0.0
      new, products = self._newton(
        point,
        l2,
        reduction=max(_REDUCTION, wanted),
        precise=precise,
      )
      shifted = False
      num_steps += 1
      num_products += products
      _, new_gap = new.gap_bounds(l2, self._data)
      if new_gap > 0.5 * gap:
        gained = objective - new.objective(l2)
        precise |= gained < 0.01 * objective
        # Where the features are badly conditioned steps are many and the bound is
        # far off for long, but the objective falls.
        stalled = gained < self._tolerance * objective
        num_stalled = num_stalled + 1 if stalled else 0
      else:
        num_stalled = 0
      point = new


def check_examples(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  all_classes: bool = True,
) -> None:
  """Raises ValueError unless a regression can be fitted to the examples.

  Args:
    features: [N, M], finite, N >= 2, M >= 1.
    labels: [N] int class ids in [0, K); every class has an example, for the
      unregularised bias of one that has none would go to minus infinity.
    num_classes: K >= 2.
    all_classes: False for examples to test on, which may lack some.
  """
  checks.check_rows_and_labels(
    features, labels, name='features', columns='num_features'
  )
  num_examples, num_features = np.shape(features)
  labels = np.asarray(labels)
  if num_classes < 2:
    raise ValueError(f'num_classes must be at least 2; got {num_classes}.')
  if num_examples < 2 or num_features < 1:
    raise ValueError(
      'Logistic regression needs at least 2 examples and 1 feature; got '
      f'{num_examples} and {num_features}.'
    )
  num_broken = int((~np.isfinite(np.asarray(features))).any(axis=1).sum())
  checks.check_counts(num_examples, num_broken)
  bad = (labels < 0) | (labels >= num_classes)
  if bad.any():
    raise ValueError(
      f'Label {labels[bad][0]} is not a class id in [0, {num_classes}).'
    )
  counts = np.bincount(labels, minlength=num_classes)
  empty = np.flatnonzero(counts == 0)
  if all_classes and len(empty):
    shown = ', '.join(str(k) for k in empty[:5])
    more = ', ...' if len(empty) > 5 else ''
    raise ValueError(
      f'{len(empty)} of {num_classes} classes have no training example: '
      f'{shown}{more}. Their bias has no finite optimum: use a split that has '
      'them all.'
    )


def _extrapolate(l2: float, solved: Sequence[tuple[float, Any, Any]]):
  """The polynomial in log(lambda) through (lambda, W, b)s, at l2."""
  nodes = [np.log(value) for value, _, _ in solved]
  at = np.log(l2)
  weights, bias = 0.0, 0.0
  for i, (_, old_weights, old_bias) in enumerate(solved):
    factor = np.prod(
      [(at - n) / (nodes[i] - n) for j, n in enumerate(nodes) if j != i]
    )
    weights = weights + factor * old_weights
    bias = bias + factor * old_bias
  return weights, bias


@contextlib.contextmanager
def _float64() -> Iterator[None]:
  with jax.enable_x64(True):
    yield


def fit_path(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  l2_values: Sequence[float] = L2_VALUES,
  tolerance: float = 1e-6,
  start: Fit | None = None,
  on_fit: Callable[[Fit], Any] = lambda fit: None,
) -> list[Fit]:
  """Minimises the objective for every L2 value, each with its certificate.

  Args:
    features: [N, M] float, finite, as the model gives them: centred here.
    labels: [N] int class ids in [0, K), each at least once.
    num_classes: K.
    l2_values: positive, in any order; solved from the largest down.
    tolerance: certified (f(W, b) - min f) / min f of every fit.
    start: where the first solve starts, e.g. the fit to part of the examples;
      None starts at zero.
    on_fit: called with every fit as it is made.

  Returns:
    One fit per L2 value, in the order of `l2_values`.

  Raises:
    ValueError: if the examples are refused by `check_examples`, an L2 value or
      the tolerance is not positive, L2 values repeat, or the tolerance cannot
      be reached.
  """
  check_examples(features, labels, num_classes=num_classes)
  labels = np.asarray(labels)
  l2_values = [float(value) for value in l2_values]
  check_l2_values(l2_values)
  if not 0 < tolerance < 1:
    raise ValueError(f'tolerance must be in (0, 1); got {tolerance}.')
  fits: dict[float, Fit] = {}
  with _float64():
    data = _place(features, labels, num_classes=num_classes)
    solver = _Solver(data, tolerance=tolerance)
    point = solver.point(*_initial(data, start))
    solved: list[tuple[float, np.ndarray, np.ndarray]] = []
    for l2 in sorted(l2_values, reverse=True):
      # W of the scaled features is W / scale: lambda is that of its square.
      scaled_l2 = l2 * data.scale**2
      if len(solved) > 1:
        guess = solver.point(*_extrapolate(l2, solved))
        if guess.objective(scaled_l2) < point.objective(scaled_l2):
          point = guess
      point, num_steps, num_products = solver.solve(point, l2=scaled_l2)
      solved = [*solved[-2:], (l2, point.weights, point.bias)]
      fits[l2] = _to_fit(
        point,
        data,
        l2=l2,
        num_steps=num_steps,
        num_products=num_products,
      )
      on_fit(fits[l2])
  return [fits[value] for value in l2_values]


def _initial(data: _Data, start: Fit | None):
  num_classes, num_features = data.class_sums.shape
  if start is None:
    bias = np.log(data.class_counts)
    return np.zeros((num_classes, num_features)), bias - bias.mean()
  if np.shape(start.weights) != (num_classes, num_features):
    raise ValueError(
      f'start has weights {np.shape(start.weights)}; expected '
      f'{(num_classes, num_features)}.'
    )
  bias = start.bias + start.weights @ data.mean
  return start.weights @ data.basis / data.scale, bias - bias.mean()


def _to_fit(point: _Point, data: _Data, *, l2, num_steps, num_products) -> Fit:
  scaled_l2 = l2 * data.scale**2
  weights = point.weights @ data.basis.T * data.scale
  bias = point.bias - weights @ data.mean
  gradient = point.gradient(scaled_l2)
  return Fit(
    l2=l2,
    weights=weights,
    bias=bias - bias.mean(),
    objective=point.objective(scaled_l2),
    gradient_norm=float(
      np.sqrt(
        np.sum(gradient[0] ** 2) / data.scale**2 + np.sum(gradient[1] ** 2)
      )
    ),
    gap_bound=point.gap_bounds(scaled_l2, data)[1],
    num_steps=num_steps,
    num_products=num_products,
  )


@jax.jit
def _score_chunk(features, labels, weights, bias):
  logits = features @ weights.T + bias[None, :]
  return jnp.argmax(logits, axis=1), newton.losses(logits, labels)[0]


def score(
  fit: Fit, features: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, float]:
  """Class ids [N] int, as `predict`, and the mean cross-entropy in nats.

  The cross-entropy is float64, accurate also where almost nothing is wrong.

  Args:
    fit: the classifier.
    features: [N, M].
    labels: [N] int class ids in [0, K).

  Raises:
    ValueError: if shapes disagree or there are no examples.
  """
  features, labels = np.asarray(features), np.asarray(labels)
  if features.ndim != 2 or features.shape[1] != fit.weights.shape[1]:
    raise ValueError(
      f'Expected features [num_examples, {fit.weights.shape[1]}]; got '
      f'{features.shape}.'
    )
  if labels.shape != features.shape[:1] or not len(labels):
    raise ValueError(
      f'Expected labels of {len(features)} examples, at least one; got '
      f'{labels.shape}.'
    )
  predicted, total = [], 0.0
  with _float64():
    for first in range(0, len(features), _CHUNK):
      rows = slice(first, first + _CHUNK)
      classes, loss = _score_chunk(
        features[rows].astype(np.float64),
        labels[rows].astype(np.int32),
        fit.weights,
        fit.bias,
      )
      predicted.append(np.asarray(classes))
      total += float(loss)
  return np.concatenate(predicted), total / len(labels)


def predict(fit: Fit, features: ArrayLike) -> np.ndarray:
  """Class ids [N] int of features [N, M]; ties go to the lower id."""
  if not len(features):
    return np.zeros((0,), np.int64)
  return score(fit, features, np.zeros(len(features), np.int32))[0]
