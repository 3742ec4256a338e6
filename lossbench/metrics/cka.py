r"""Centred kernel alignment, the similarity of two representations.

Kornblith et al. 2019 (arXiv:1905.00414), eqs. 1-2, for examples' features X
[N, M_x] and Y [N, M_y] with kernels K and L:

  CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

For the linear kernel, with centred columns, HSIC is ||Y^T X||_F^2 (eq. 4): a
function of covariances, linear in N, which `LinearCKA` streams. That estimate
of HSIC is biased upwards, the more so the more features there are to an
example. The unbiased one is Song et al. 2012 (JMLR 13), eq. 5; Nguyen et al.
2021 (arXiv:2010.15327), eq. 3, with zero diagonals K~ and L~:

  HSIC_1 = 1/(N(N-3)) [tr(K~ L~) + 1'K~1 1'L~1/((N-1)(N-2)) - 2/(N-2) 1'K~L~1]

Their CKA averages HSIC_1 over minibatches, in numerator and denominator: for
whole feature maps, of which no covariance fits in memory (`minibatch_cka`, and
`cka_minibatches` for what devices keep of them).

1 says that one representation is an orthogonal map and an isotropic scaling of
the other, 0 that no linear map between them explains anything. Neither is
better.
"""

from collections.abc import Sequence
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, checks, moments
from lossbench.metrics.accumulators import CompensatedSum
from lossbench.metrics.features import as_features, finite_rows

# The unbiased estimate divides by N - 3.
MIN_DEBIASED = 4
# A spread under this share of the largest feature is rounding error,
_FLOAT64_RESOLUTION = 1e-13
# and so is a streamed variance under this share of the mean square.
_MOMENTS_RESOLUTION = 1e-10


def linear_cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = False) -> float:
  """Linear CKA of the same examples' features, in float64 NumPy.

  Invariant to orthogonal maps, isotropic scaling and shifts of either side.
  Time is linear in N: it goes by covariances, or by Gram matrices where that is
  cheaper (fewer examples than features).

  Args:
    x: [N, M_x] features, finite.
    y: [N, M_y], of the same examples in the same order.
    debiased: take the unbiased HSIC_1; N >= 4.

  Returns:
    A fraction in [0, 1], or in [-1, 1] if debiased (about 0 for unrelated
    features); NaN if all examples of a side have the same features.

  Raises:
    ValueError: if shapes are wrong or disagree, N < 2 (4 if debiased), or a
      feature is NaN or infinite.

  Example:
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> print(f'{metrics.linear_cka(x, 2 * x[:, ::-1] + 1):.3f}')
    1.000
  """
  x, y = _check_pair(x, y, debiased=debiased)
  if _is_constant(x) or _is_constant(y):
    return float('nan')
  x, y = _centered(x), _centered(y)
  num_examples, num_x, num_y = len(x), x.shape[1], y.shape[1]
  by_features = num_x**2 + num_y**2 + num_x * num_y
  if num_examples * (num_x + num_y) < by_features:
    return _gram_cka(x @ x.T, y @ y.T, debiased=debiased)

  def hsic(a, b):
    value = np.sum((a.T @ b) ** 2)
    if debiased:
      value = _remove_bias(value, np.sum(a**2, axis=1), np.sum(b**2, axis=1))
    return value

  return _ratio(hsic(x, y), hsic(x, x), hsic(y, y))


def linear_cka_matrices(
  features: Sequence[ArrayLike],
) -> tuple[np.ndarray, np.ndarray]:
  """`linear_cka` of every two of A models, biased and debiased.

  One product of matrices a pair, and none twice.

  Args:
    features: [N, M] of each model, of the same examples; N >= 4.

  Returns:
    Two symmetric float64 [A, A]; NaN where a model's features are constant.

  Raises:
    ValueError: as `linear_cka`.
  """
  num_models = len(features)
  hsic, debiased = np.zeros((2, num_models, num_models))
  for i in range(num_models):
    for j in range(i + 1):
      x, y = _check_pair(features[i], features[j], debiased=True)
      if _is_constant(x) or _is_constant(y):
        hsic[i, j] = debiased[i, j] = np.nan
        continue
      x, y = _centered(x), _centered(y)
      if len(x) < min(x.shape[1], y.shape[1]):
        hsic[i, j] = np.vdot(x @ x.T, y @ y.T)
      else:
        hsic[i, j] = np.sum((x.T @ y) ** 2)
      squares = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
      debiased[i, j] = _remove_bias(hsic[i, j], *squares)
  return tuple(
    np.array(
      [
        [
          _ratio(values[max(i, j), min(i, j)], values[i, i], values[j, j])
          for j in range(num_models)
        ]
        for i in range(num_models)
      ]
    )
    for values in (hsic, debiased)
  )


def rbf_cka(
  x: ArrayLike,
  y: ArrayLike,
  *,
  bandwidth: float = 0.4,
  debiased: bool = False,
) -> float:
  """CKA with Gaussian kernels exp(-d^2 / (2 s^2)), in float64 NumPy.

  s is the bandwidth times the median distance of two different examples, taken
  separately of x and of y (Kornblith et al. 2019, section 3; their code's
  median includes each example's zero distance to itself).

  Time is quadratic in N and so is memory, about 40 N^2 bytes: 4 GB for 10,000
  examples.

  Args:
    x: [N, M_x] features, finite.
    y: [N, M_y], of the same examples in the same order.
    bandwidth: a fraction of the median distance, > 0; the paper has 0.2, 0.4
      and 0.8. As it grows the result approaches linear CKA.
    debiased: take the unbiased HSIC_1; N >= 4.

  Returns:
    As `linear_cka`; NaN also if most examples of a side are the same.

  Raises:
    ValueError: as `linear_cka`, or bandwidth is not in (0, inf).

  Example:
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> print(f'{metrics.rbf_cka(x, 2 * x[:, ::-1] + 1):.3f}')
    1.000
  """
  x, y = _check_pair(x, y, debiased=debiased)
  return kernel_cka(
    rbf_kernel(x, bandwidth=bandwidth),
    rbf_kernel(y, bandwidth=bandwidth),
    debiased=debiased,
  )


def minibatch_cka(x: ArrayLike, y: ArrayLike, *, minibatch_size: int) -> float:
  """CKA from unbiased HSICs of consecutive minibatches, in float64 NumPy.

  Nguyen et al. 2021, eq. 2, linear kernels. The last minibatch may be smaller;
  with fewer than 4 examples it is left out. Minibatches weigh as many examples
  as they have.

  Args:
    x: [N, ...] features or feature maps, finite.
    y: [N, ...], of the same examples in the same order.
    minibatch_size: G >= 4. With G >= N it is debiased linear CKA. The ratio of
      unbiased estimates is itself biased by O(G / N).

  Returns:
    In [-1, 1] up to estimation noise; NaN if a side is constant.

  Raises:
    ValueError: as `linear_cka` with debiased, or minibatch_size < 4.

  Example:
    >>> x = np.random.default_rng(0).normal(size=(48, 3))
    >>> print(f'{metrics.minibatch_cka(x, 2 * x + 1, minibatch_size=8):.3f}')
    1.000
  """
  if minibatch_size < MIN_DEBIASED:
    raise ValueError(
      f'minibatch_size must be at least {MIN_DEBIASED}; got {minibatch_size}.'
    )
  x, y = (np.reshape(z, (np.shape(z)[0], -1)) for z in (x, y))
  x, y = _check_pair(x, y, debiased=True)
  if _is_constant(x) or _is_constant(y):
    return float('nan')
  sums = np.zeros(3)
  for start in range(0, len(x), minibatch_size):
    a, b = (_centered(z[start : start + minibatch_size]) for z in (x, y))
    num = len(a)
    if num < MIN_DEBIASED:
      continue
    a, b = a @ a.T, b @ b.T
    sums += num * np.array([_unbiased(a, b), _unbiased(a, a), _unbiased(b, b)])
  return _ratio(*sums)


@flax.struct.dataclass
class LinearCKA(accumulators.Accumulator):
  """Streaming `linear_cka` of two layers, exact, by covariances.

  For features and pooled feature maps. Memory: 8 bytes x (M_x^2 + M_y^2 +
  M_x M_y), 100 MB for 2048 features against 2048; the sums are good to float32's
  precision of the variance, whatever the means (see `moments`).

  Attributes:
    x_sum: compensated float32 [M_x].
    y_sum: compensated float32 [M_y].
    x_products: compensated float32 [M_x, M_x], sum of x x^T.
    y_products: compensated float32 [M_y, M_y].
    products: compensated float32 [M_x, M_y], sum of x y^T.
    num_examples: int32 [].
    num_broken: int32 [], real rows with a NaN or an infinity in either layer.
  """

  x_sum: CompensatedSum
  y_sum: CompensatedSum
  x_products: CompensatedSum
  y_products: CompensatedSum
  products: CompensatedSum
  num_examples: jax.Array
  num_broken: jax.Array

  @classmethod
  def empty(cls, num_x: int, num_y: int) -> Self:
    """No examples of layers with these numbers of features, each >= 1."""
    if min(num_x, num_y) < 1:
      raise ValueError(
        'Expected the number of features of each layer, >= 1; got '
        f'{num_x} and {num_y}.'
      )
    zeros = CompensatedSum.empty
    return cls(
      x_sum=zeros((num_x,)),
      y_sum=zeros((num_y,)),
      x_products=zeros((num_x, num_x)),
      y_products=zeros((num_y, num_y)),
      products=zeros((num_x, num_y)),
      num_examples=jnp.zeros((), jnp.int32),
      num_broken=jnp.zeros((), jnp.int32),
    )

  def update(self, x: ArrayLike, y: ArrayLike, mask: ArrayLike | None) -> Self:
    """Counts features x [B, M_x], y [B, M_y] where mask [B] is not 0.

    Raises:
      ValueError: if the shapes are not those of `empty`.
    """
    expected = [(*np.shape(x)[:1], *s.total.shape) for s in self._sums()]
    if [np.shape(x), np.shape(y)] != expected:
      raise ValueError(
        f'Expected x and y {expected}, [batch, num_features]; got '
        f'{np.shape(x)} and {np.shape(y)}. Pool feature maps first, or take '
        'their Gram matrices (cka_minibatches).'
      )
    finite = finite_rows(x) & finite_rows(y)
    real = accumulators.real_rows(mask, finite.shape[0])
    x = moments.Batch.create(x, real & finite)
    y = moments.Batch.create(y, real & finite)
    return self.replace(
      x_sum=moments.add_rows(self.x_sum, x),
      y_sum=moments.add_rows(self.y_sum, y),
      x_products=moments.add_products(self.x_products, x, x),
      y_products=moments.add_products(self.y_products, y, y),
      products=moments.add_products(self.products, x, y),
      num_examples=self.num_examples + accumulators.count(real),
      num_broken=self.num_broken + accumulators.count(real & ~finite),
    )

  def compute(self) -> float:
    """A fraction in [0, 1]; NaN if a layer is constant.

    Raises:
      ValueError: if there are fewer than 2 examples or one was NaN or infinite.
    """
    num_examples = int(self.num_examples)
    checks.check_counts(num_examples, int(self.num_broken))

    scale = 1.0
    for products, own in zip(
      (self.x_products, self.y_products), self._sums(), strict=True
    ):
      covariance = moments.covariance(
        products, own, own, num_examples=num_examples
      )
      mean_square = np.trace(products.compute()) / num_examples
      if np.trace(covariance) <= _MOMENTS_RESOLUTION * mean_square:
        return float('nan')
      scale *= np.linalg.norm(covariance)
    cross = moments.covariance(
      self.products, *self._sums(), num_examples=num_examples
    )
    return float(np.clip(np.sum(cross**2) / scale, 0.0, 1.0))

  def _sums(self):
    return self.x_sum, self.y_sum


def rbf_kernel(features: ArrayLike, *, bandwidth: float = 0.4) -> np.ndarray:
  """Gaussian kernel exp(-d^2 / (2 s^2)) of all pairs, float64 [N, N].

  s is the bandwidth times the median distance of two different examples; see
  `rbf_cka`. All NaN if most examples are the same.

  Args:
    features: [N, M], finite.
    bandwidth: a fraction of the median distance, > 0.
  """
  if not 0 < bandwidth < np.inf:
    raise ValueError(f'bandwidth must be in (0, inf); got {bandwidth}.')
  squares = _squared_distances(_centered(as_features(features)))
  pairs = np.triu_indices(len(squares), k=1)
  width = bandwidth * np.median(np.sqrt(squares[pairs]))
  if width <= 0:
    return np.full_like(squares, np.nan)
  return np.exp(squares / (-2.0 * width**2))


def rbf_cka_matrix(
  features: Sequence[ArrayLike], *, bandwidth: float = 0.4
) -> np.ndarray:
  """`rbf_cka` of every two of A models, each kernel centred once.

  Args:
    features: [N, M] of each model, of the same examples.
    bandwidth: as of `rbf_cka`.

  Returns:
    Symmetric float64 [A, A]; NaN where most of a model's features are the same.

  Raises:
    ValueError: as `rbf_cka`.
  """
  for x in features[1:]:
    _check_pair(features[0], x, debiased=False)
  kernels = [
    _doubly_centered(rbf_kernel(x, bandwidth=bandwidth)) for x in features
  ]
  own = [np.vdot(kernel, kernel) for kernel in kernels]
  matrix = np.zeros((len(kernels), len(kernels)))
  for i, x in enumerate(kernels):
    for j, y in enumerate(kernels[: i + 1]):
      matrix[i, j] = matrix[j, i] = _ratio(np.vdot(x, y), own[i], own[j])
  return matrix


def kernel_cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = False) -> float:
  """CKA of two kernel matrices [N, N] of the same examples, in float64 NumPy.

  Returns:
    As `linear_cka`; NaN if a kernel is.

  Raises:
    ValueError: if the kernels are not [N, N] with one N, at least 2 (4 if
      debiased).
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  num_examples = len(x)
  if x.shape != y.shape or x.shape != (num_examples, num_examples):
    raise ValueError(
      f'Expected two kernels [N, N] with one N; got {x.shape} and {y.shape}.'
    )
  if num_examples < (MIN_DEBIASED if debiased else 2):
    raise ValueError(f'{num_examples} examples are too few for CKA.')
  if np.isnan(x).any() or np.isnan(y).any():
    return float('nan')
  return _gram_cka(x, y, debiased=debiased)


def _check_pair(x, y, *, debiased):
  min_examples = MIN_DEBIASED if debiased else 2
  x = as_features(x, name='x', min_examples=min_examples)
  y = as_features(y, name='y', min_examples=min_examples)
  if len(x) != len(y):
    raise ValueError(
      'CKA compares features of the same examples; got x of '
      f'{len(x)} and y of {len(y)} examples.'
    )
  return x, y


def _is_constant(x):
  spread = np.max(np.ptp(x, axis=0))
  return bool(spread <= _FLOAT64_RESOLUTION * np.max(np.abs(x)))


def _centered(x):
  return x - np.mean(x, axis=0)


def _doubly_centered(kernel):
  rows = kernel.mean(axis=1)[:, None]
  return kernel - kernel.mean(axis=0) - rows + kernel.mean()


def _squared_distances(x):
  squares = np.sum(x**2, axis=1)
  distances = squares[:, None] + squares[None, :] - 2.0 * (x @ x.T)
  np.fill_diagonal(distances, 0.0)
  return np.maximum(distances, 0.0)


def _gram_cka(x, y, *, debiased):
  """CKA of two kernel matrices [N, N]."""
  if debiased:
    return _ratio(_unbiased(x, y), _unbiased(x, x), _unbiased(y, y))
  x, y = _doubly_centered(x), _doubly_centered(y)
  return _ratio(np.vdot(x, y), np.vdot(x, x), np.vdot(y, y))


def _ratio(cross, own_x, own_y):
  if own_x <= 0 or own_y <= 0:
    return float('nan')
  # Rounding can carry it past 1.
  return float(np.clip(cross / (np.sqrt(own_x) * np.sqrt(own_y)), -1.0, 1.0))


def _remove_bias(product, x_squares, y_squares):
  """HSIC_1 of linear kernels of centred features, times N (N - 3).

  Of centred features the rows of K sum to 0, and those of K~ to minus the
  squared lengths; so all three terms of HSIC_1 are sums over examples.
  """
  num = len(x_squares)
  return (
    product
    - num / (num - 2) * np.sum(x_squares * y_squares)
    + x_squares.sum() * y_squares.sum() / ((num - 1) * (num - 2))
  )


def _unbiased(x, y):
  """HSIC_1 of kernel matrices [N, N]."""
  num = len(x)
  diagonals = np.diag(x), np.diag(y)
  x_rows, y_rows = x.sum(1) - diagonals[0], y.sum(1) - diagonals[1]
  trace = np.vdot(x, y) - np.vdot(*diagonals)
  return (
    trace
    + x_rows.sum() * y_rows.sum() / ((num - 1) * (num - 2))
    - 2.0 / (num - 2) * np.vdot(x_rows, y_rows)
  ) / (num * (num - 3))
