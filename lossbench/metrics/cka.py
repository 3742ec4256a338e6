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

Their CKA averages HSIC_1 over minibatches, in numerator and denominator; it is
`MinibatchCKA`, for whole feature maps, of which no covariance fits in memory.

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

Layers = ArrayLike | Sequence[ArrayLike]

_GRAM_ROWS = 4096  # examples whose Gram rows are in float64 at once
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
  as they have. What `MinibatchCKA` streams.

  Args:
    x: [N, ...] features or feature maps, finite.
    y: [N, ...], of the same examples in the same order.
    minibatch_size: G >= 4. With G >= N it is debiased linear CKA. The ratio of
      unbiased estimates is itself biased by O(G / N).

  Returns:
    In [-1, 1] up to estimation noise; NaN if a side is constant.

  Raises:
    ValueError: as `linear_cka` with debiased, or minibatch_size < 4.
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
  """Streaming linear CKA of two lists of layers, exact, by covariances.

  For features and pooled feature maps. Memory: 8 bytes x (sum M_i^2 + sum M_j^2
  + sum M_i M_j), 100 MB for 2048 features against 2048; the sums are good to
  float32's precision of the variance, whatever the means (see `moments`).

  Attributes:
    x_sums: compensated float32 [M_i] of each layer on the one side.
    y_sums: compensated float32 [M_j] of each layer on the other side.
    x_products: compensated float32 [M_i, M_i] of each layer.
    y_products: compensated float32 [M_j, M_j] of each layer.
    products: one tuple per x layer of compensated float32 [M_i, M_j].
    num_examples: int32 [].
    num_broken: int32 [], real rows with a NaN or an infinity in any layer.
  """

  x_sums: tuple[CompensatedSum, ...]
  y_sums: tuple[CompensatedSum, ...]
  x_products: tuple[CompensatedSum, ...]
  y_products: tuple[CompensatedSum, ...]
  products: tuple[tuple[CompensatedSum, ...], ...]
  num_examples: jax.Array
  num_broken: jax.Array

  @classmethod
  def empty(
    cls, x_sizes: int | Sequence[int], y_sizes: int | Sequence[int]
  ) -> Self:
    """No examples of layers with these numbers of features, each >= 1."""
    x_sizes, y_sizes = _as_sizes(x_sizes), _as_sizes(y_sizes)
    zeros = CompensatedSum.empty
    return cls(
      x_sums=tuple(zeros((m,)) for m in x_sizes),
      y_sums=tuple(zeros((m,)) for m in y_sizes),
      x_products=tuple(zeros((m, m)) for m in x_sizes),
      y_products=tuple(zeros((m, m)) for m in y_sizes),
      products=tuple(tuple(zeros((m, k)) for k in y_sizes) for m in x_sizes),
      num_examples=jnp.zeros((), jnp.int32),
      num_broken=jnp.zeros((), jnp.int32),
    )

  def update(self, xs: Layers, ys: Layers, mask: ArrayLike | None) -> Self:
    """Counts features where mask [B] is not 0.

    Args:
      xs: [B, M_i] of every x layer, or one array if there is one layer.
      ys: [B, M_j] of every y layer.
      mask: [B], 1 = real, 0 = padding; None counts every row.

    Raises:
      ValueError: if the layers or shapes are not those of `empty`.
    """
    xs, ys = _as_layers(xs), _as_layers(ys)
    _check_layers(xs, ys, self.x_sums, self.y_sums)
    real, finite = _real_and_finite((*xs, *ys), mask)
    xs = [moments.Batch.create(x, real & finite) for x in xs]
    ys = [moments.Batch.create(y, real & finite) for y in ys]

    def add_sums(sums, layers):
      return tuple(map(moments.add_rows, sums, layers))

    def add_squares(sums, layers):
      return tuple(map(moments.add_products, sums, layers, layers))

    return self.replace(
      x_sums=add_sums(self.x_sums, xs),
      y_sums=add_sums(self.y_sums, ys),
      x_products=add_squares(self.x_products, xs),
      y_products=add_squares(self.y_products, ys),
      products=tuple(
        tuple(
          moments.add_products(s, x, y) for s, y in zip(row, ys, strict=True)
        )
        for row, x in zip(self.products, xs, strict=True)
      ),
      num_examples=self.num_examples + accumulators.count(real),
      num_broken=self.num_broken + accumulators.count(real & ~finite),
    )

  def compute(self) -> float:
    """Linear CKA of one pair of layers, a fraction in [0, 1]; see `matrix`.

    Raises:
      ValueError: as `matrix`, or there is more than one pair.
    """
    return _only(self.matrix())

  def matrix(self) -> np.ndarray:
    """Linear CKA of every x layer with every y layer, float64 [L_x, L_y].

    Fractions in [0, 1]; NaN where a layer is constant.

    Raises:
      ValueError: if there are fewer than 2 examples or one was NaN or infinite.
    """
    num_examples = int(self.num_examples)
    checks.check_counts(num_examples, int(self.num_broken))

    def covariance(products, x_sum, y_sum):
      return moments.covariance(
        products, x_sum, y_sum, num_examples=num_examples
      )

    def norms(all_products, sums):
      values = []
      for products, total in zip(all_products, sums, strict=True):
        own = covariance(products, total, total)
        mean_square = np.trace(products.compute()) / num_examples
        constant = np.trace(own) <= _MOMENTS_RESOLUTION * mean_square
        values.append(np.nan if constant else np.linalg.norm(own))
      return np.array(values)

    cross = np.array(
      [
        [
          np.sum(covariance(products, x_sum, y_sum) ** 2)
          for products, y_sum in zip(row, self.y_sums, strict=True)
        ]
        for row, x_sum in zip(self.products, self.x_sums, strict=True)
      ]
    )
    scale = np.outer(
      norms(self.x_products, self.x_sums), norms(self.y_products, self.y_sums)
    )
    return np.clip(cross / scale, 0.0, 1.0)


@flax.struct.dataclass
class MinibatchCKA(accumulators.Accumulator):
  """Streaming CKA of whole feature maps from unbiased HSICs of minibatches.

  Nguyen et al. 2021 (arXiv:2010.15327), eq. 2, linear kernels, all pairs of two
  lists of layers. The estimate depends on which examples share a minibatch, so
  a minibatch of G examples, not an example, is what this accumulator counts:
  an array is [B, G, ...], B minibatches. Make them of consecutive examples in
  the data's order, with `to_minibatches`, and results are the same for every
  batch size that is a multiple of G x devices.

  Memory: 8 bytes x (L_x L_y + L_x + L_y), and within `update` one [B, G, G]
  Gram matrix of each layer beside the activations: nothing grows with N or
  with the size of a map.

  Attributes:
    hsic_sum: compensated float32 [L_x, L_y], HSIC_1 x examples.
    x_hsic_sum: compensated float32 [L_x], each layer's with itself.
    y_hsic_sum: compensated float32 [L_y].
    num_examples: int32 [], in minibatches that count.
    num_left_out: int32 [], in minibatches of fewer than 4 examples.
    num_broken: int32 [], minibatches that were not finite.
  """

  hsic_sum: CompensatedSum
  x_hsic_sum: CompensatedSum
  y_hsic_sum: CompensatedSum
  num_examples: jax.Array
  num_left_out: jax.Array
  num_broken: jax.Array

  @classmethod
  def empty(cls, num_x_layers: int = 1, num_y_layers: int = 1) -> Self:
    """No minibatches of that many layers on each side, each >= 1."""
    if num_x_layers < 1 or num_y_layers < 1:
      raise ValueError(
        'CKA needs at least one layer on each side; got '
        f'{num_x_layers} and {num_y_layers}.'
      )
    return cls(
      hsic_sum=CompensatedSum.empty((num_x_layers, num_y_layers)),
      x_hsic_sum=CompensatedSum.empty((num_x_layers,)),
      y_hsic_sum=CompensatedSum.empty((num_y_layers,)),
      num_examples=jnp.zeros((), jnp.int32),
      num_left_out=jnp.zeros((), jnp.int32),
      num_broken=jnp.zeros((), jnp.int32),
    )

  def update(
    self,
    xs: Layers,
    ys: Layers,
    mask: ArrayLike | None,
    *,
    example_mask: ArrayLike | None = None,
  ) -> Self:
    """Counts minibatches where mask [B] is not 0.

    Args:
      xs: [B, G, ...] of every x layer, or one array if there is one layer.
      ys: [B, G, ...] of every y layer.
      mask: [B], 1 = real, 0 = padding; None counts every minibatch.
      example_mask: [B, G], real examples of each minibatch; None: all are.

    Raises:
      ValueError: if the layers are not as many as those of `empty`, the arrays
        disagree in B or G, or G < 4.
    """
    xs, ys = _as_layers(xs), _as_layers(ys)
    num_layers = self.hsic_sum.total.shape
    if (len(xs), len(ys)) != num_layers:
      raise ValueError(
        f'Expected {num_layers[0]} x and {num_layers[1]} y layers; got '
        f'{len(xs)} and {len(ys)}.'
      )
    leading = {np.shape(z)[:2] for z in (*xs, *ys)}
    (shape,) = leading if len(leading) == 1 else [()]
    if len(shape) != 2 or shape[1] < MIN_DEBIASED:
      raise ValueError(
        'Expected arrays [num_minibatches, minibatch_size, ...] that agree, '
        f'with minibatch_size >= {MIN_DEBIASED}; got '
        f'{[np.shape(z) for z in (*xs, *ys)]}.'
      )
    real = accumulators.real_rows(mask, shape[0])
    if example_mask is None:
      example_mask = jnp.ones(shape, bool)
    elif np.shape(example_mask) != shape:
      raise ValueError(
        f'example_mask must be {list(shape)}; got {np.shape(example_mask)}.'
      )
    members = jnp.asarray(example_mask).astype(bool) & real[:, None]  # [B, G]
    sizes = accumulators.count(members, axis=1)
    enough = sizes >= MIN_DEBIASED
    xs = jnp.stack([u_centered_grams(x, members) for x in xs])
    ys = jnp.stack([u_centered_grams(y, members) for y in ys])

    def hsic(equation, a, b):  # Grams [L, B, G, G] -> [B, ...]
      products = jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST)
      # sizes x (products / (sizes (sizes - 3))): sizes as the weight.
      scale = jnp.maximum(sizes - (MIN_DEBIASED - 1), 1).astype(jnp.float32)
      return products / scale.reshape(-1, *[1] * (products.ndim - 1))

    cross = hsic('lbij,mbij->blm', xs, ys)
    own_x, own_y = hsic('lbij,lbij->bl', xs, xs), hsic('mbij,mbij->bm', ys, ys)
    finite = (
      jnp.all(jnp.isfinite(own_x), axis=1)
      & jnp.all(jnp.isfinite(own_y), axis=1)
      & jnp.all(jnp.isfinite(cross), axis=(1, 2))
    )
    counted = enough & finite

    def add(sums, values):
      keep = counted.reshape(-1, *[1] * (values.ndim - 1))
      return sums.add_rows(jnp.where(keep, values, 0.0))

    return self.replace(
      hsic_sum=add(self.hsic_sum, cross),
      x_hsic_sum=add(self.x_hsic_sum, own_x),
      y_hsic_sum=add(self.y_hsic_sum, own_y),
      num_examples=self.num_examples
      + jnp.sum(jnp.where(counted, sizes, 0), dtype=jnp.int32),
      num_left_out=self.num_left_out
      + jnp.sum(jnp.where(enough, 0, sizes), dtype=jnp.int32),
      num_broken=self.num_broken + accumulators.count(enough & ~finite),
    )

  def compute(self) -> float:
    """CKA of one pair of layers, in [-1, 1]; see `matrix`.

    Raises:
      ValueError: as `matrix`, or there is more than one pair.
    """
    return _only(self.matrix())

  def matrix(self) -> np.ndarray:
    """CKA of every x layer with every y layer, float64 [L_x, L_y].

    In [-1, 1]; 1 for a layer with itself; NaN where a layer is constant.

    Raises:
      ValueError: if no minibatch had 4 examples, or one was not finite.
    """
    if int(self.num_broken):
      raise ValueError(
        f'{int(self.num_broken)} minibatches of features hold NaN or infinity, '
        'or products that float32 cannot hold: did the run diverge?'
      )
    if not int(self.num_examples):
      raise ValueError(
        f'No minibatch had {MIN_DEBIASED} examples or more; '
        f'{int(self.num_left_out)} examples were left out.'
      )
    own = np.outer(self.x_hsic_sum.compute(), self.y_hsic_sum.compute())
    with np.errstate(invalid='ignore', divide='ignore'):
      ratio = self.hsic_sum.compute() / np.sqrt(own)
    return np.where(own > 0, np.clip(ratio, -1.0, 1.0), np.nan)


def to_minibatches(x: ArrayLike, *, minibatch_size: int) -> jax.Array:
  """[B, ...] as [B / G, G, ...], consecutive examples together; jittable.

  A mask [B] too: as the `example_mask` of `MinibatchCKA.update`.

  Raises:
    ValueError: if minibatch_size = G does not divide B.
  """
  x = jnp.asarray(x)
  if minibatch_size < 1 or x.ndim < 1 or x.shape[0] % minibatch_size:
    raise ValueError(
      f'A batch of shape {x.shape} is not a number of minibatches of '
      f'{minibatch_size}: choose a minibatch size that divides the batch of a '
      'device.'
    )
  return x.reshape(-1, minibatch_size, *x.shape[1:])


def u_centered_grams(features: ArrayLike, members: ArrayLike) -> jax.Array:
  """U-centred Gram matrices: HSIC_1 is their product / (n (n - 3)).

  Székely & Rizzo 2014 (arXiv:1310.2926), definition 2, of linear kernels.
  Jittable.

  Args:
    features: [B, G, ...], B minibatches of G examples.
    members: [B, G] bool; rows and columns of examples that are none are 0.

  Returns:
    float32 [B, G, G].
  """
  num_minibatches, size = members.shape
  flat = jnp.reshape(features, (num_minibatches, size, -1))
  flat = jnp.where(members[:, :, None], flat.astype(jnp.float32), 0.0)
  count = accumulators.count(members, axis=1).astype(jnp.float32)[:, None]
  means = jnp.sum(flat, axis=1) / jnp.maximum(count, 1.0)
  flat = jnp.where(members[:, :, None], flat - means[:, None, :], 0.0)
  gram = jnp.einsum(
    'bid,bjd->bij', flat, flat, precision=jax.lax.Precision.HIGHEST
  )
  pairs = (
    members[:, :, None] & members[:, None, :] & ~jnp.eye(size, dtype=bool)[None]
  )
  gram = jnp.where(pairs, gram, 0.0)
  rows = jnp.sum(gram, axis=2)
  total = jnp.sum(rows, axis=1)[:, None, None]
  less_1 = jnp.maximum(count - 1.0, 1.0)[:, :, None]
  less_2 = jnp.maximum(count - 2.0, 1.0)[:, :, None]
  centred = (
    gram
    - (rows[:, :, None] + rows[:, None, :]) / less_2
    + total / (less_1 * less_2)
  )
  return jnp.where(pairs, centred, 0.0)


def cka_of_grams(
  grams: Sequence[ArrayLike], *, minibatch_size: int
) -> np.ndarray:
  """`minibatch_cka` of every pair of A layers from stored Gram matrices.

  A layer of any size is thereby compared with any other without its
  activations: N G numbers a layer are all that has to be kept.

  Args:
    grams: A arrays [N, G], each example's row of its minibatch's
      `u_centered_grams`; consecutive examples share a minibatch, the last one
      may be short.
    minibatch_size: G >= 4.

  Returns:
    float64 [A, A] in [-1, 1], symmetric, 1 on the diagonal; NaN where a layer
    is constant.

  Raises:
    ValueError: if there are no layers, shapes disagree, no minibatch has 4
      examples or a number is NaN or infinite.
  """
  shapes = {np.shape(gram) for gram in grams}
  if len(shapes) != 1 or len(next(iter(shapes))) != 2:
    raise ValueError(
      'Expected Gram rows [num_examples, minibatch_size] of the same examples; '
      f'got {sorted(shapes)}.'
    )
  num_examples, size = next(iter(shapes))
  if size != minibatch_size or min(size, num_examples) < MIN_DEBIASED:
    raise ValueError(
      f'minibatch_size must be {size}, the length of the rows, and it and the '
      f'number of examples at least {MIN_DEBIASED}; got {minibatch_size} and '
      f'{num_examples}.'
    )
  sizes = np.full(num_examples, size)
  short = num_examples % size
  if short:
    sizes[-short:] = short
  # A minibatch weighs n / (n (n - 3)): as many examples as it has.
  divisor = np.maximum(sizes - (MIN_DEBIASED - 1), 1)
  scale = np.where(sizes < MIN_DEBIASED, 0.0, divisor**-0.5)
  hsic = np.zeros((len(grams), len(grams)))
  for start in range(0, num_examples, _GRAM_ROWS):
    rows = slice(start, start + _GRAM_ROWS)
    chunk = np.stack(
      [np.asarray(gram[rows], np.float64).reshape(-1) for gram in grams]
    )
    chunk *= np.repeat(scale[rows], size)
    hsic += chunk @ chunk.T
  if not np.isfinite(hsic).all():
    raise ValueError(
      'A Gram matrix holds NaN or infinity: did the run diverge?'
    )
  own = np.diag(hsic)
  with np.errstate(invalid='ignore', divide='ignore'):
    ratio = hsic / np.sqrt(np.outer(own, own))
  return np.where(np.outer(own, own) > 0, np.clip(ratio, -1.0, 1.0), np.nan)


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


def _squared_distances(x):
  squares = np.sum(x**2, axis=1)
  distances = squares[:, None] + squares[None, :] - 2.0 * (x @ x.T)
  np.fill_diagonal(distances, 0.0)
  return np.maximum(distances, 0.0)


def _gram_cka(x, y, *, debiased):
  """CKA of two kernel matrices [N, N]."""
  if debiased:
    return _ratio(_unbiased(x, y), _unbiased(x, x), _unbiased(y, y))
  x, y = (
    k - k.mean(axis=0) - k.mean(axis=1)[:, None] + k.mean() for k in (x, y)
  )
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


def _as_layers(layers):
  return tuple(layers) if isinstance(layers, list | tuple) else (layers,)


def _as_sizes(sizes):
  sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
  if not sizes or min(sizes) < 1:
    raise ValueError(
      f'Expected the number of features of each layer, >= 1; got {sizes}.'
    )
  return sizes


def _check_layers(xs, ys, x_sums, y_sums):
  for name, layers, sums in (('xs', xs, x_sums), ('ys', ys, y_sums)):
    got = [np.shape(layer) for layer in layers]
    sizes = [s.total.shape[0] for s in sums]
    num_rows = np.shape(xs[0])[:1]
    if got != [(*num_rows, size) for size in sizes]:
      raise ValueError(
        f'Expected {name} [batch, num_features] of {sizes} features; got '
        f'{got}. Pool feature maps first, or use MinibatchCKA.'
      )


def _real_and_finite(layers, mask):
  real = accumulators.real_rows(mask, np.shape(layers[0])[0])
  finite = jnp.ones_like(real)
  for layer in layers:
    finite &= finite_rows(layer)
  return real, finite


def _only(matrix):
  if matrix.size != 1:
    raise ValueError(
      f'There are {matrix.shape[0]} x {matrix.shape[1]} pairs of layers: use '
      'matrix().'
    )
  return float(matrix[0, 0])
