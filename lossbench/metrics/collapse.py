r"""Neural collapse: how near the last layer is to a simplex.

Papyan, Han & Donoho 2020 (arXiv:2008.08186), with mu_c the mean features of
class c, mu_G the mean of the class means, w_c the output layer's weights:

  NC1  tr(S_W S_B^+) / K: variability within classes against that between them,
       S_W the covariance about the class means (over examples), S_B that of
       the class means (over classes)                               their fig. 6
  NC2  equal norms: std / mean over classes of |mu_c - mu_G|        fig. 2
       equal angles: std over pairs of cos(mu_c - mu_G, mu_d - mu_G) fig. 3
       maximal angles: mean over pairs of |cos + 1 / (K - 1)|       fig. 4
       and the same of the weights w_c, which are not centred
  NC3  self-duality: |W^T / |W| - M / |M||^2 in Frobenius norms, M the columns
       mu_c - mu_G                                                  fig. 5
  NC4  share of examples whose prediction is not the class of the nearest mean
                                                                    fig. 7

All are 0 for a collapsed network, and lower is more collapsed; none is better.
The paper measures them on the training set. Its classes are balanced; where
they are not, S_W weighs examples and S_B classes.
"""

import dataclasses
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, accuracy, checks, moments, spectra
from lossbench.metrics.features import (
  as_features,
  as_labels,
  class_means,
  finite_rows,
)

# Of `CollapseMeasures`, those of the output layer's weights.
KERNEL_MEASURES = (
  'nc2_kernel_norms',
  'nc2_kernel_angles',
  'nc2_kernel_simplex',
  'nc3',
)


@dataclasses.dataclass(frozen=True)
class CollapseMeasures:
  """NC1-NC3; 0 is collapsed. See the module's text.

  Without the output layer's weights `KERNEL_MEASURES` are NaN.

  Attributes:
    nc1: >= 0, ratio of variances; NaN if the class means are all the same.
    nc2_mean_norms: >= 0, coefficient of variation; of class means.
    nc2_mean_angles: in [0, 1], standard deviation of cosines.
    nc2_mean_simplex: in [0, 2], distance of cosines to -1 / (K - 1).
    nc2_kernel_norms: the same three of the output layer's weights.
    nc2_kernel_angles: as above.
    nc2_kernel_simplex: as above.
    nc3: in [0, 4], squared distance of unit matrices.
  """

  nc1: float
  nc2_mean_norms: float
  nc2_mean_angles: float
  nc2_mean_simplex: float
  nc2_kernel_norms: float
  nc2_kernel_angles: float
  nc2_kernel_simplex: float
  nc3: float


def neural_collapse(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  kernel: ArrayLike | None = None,
) -> CollapseMeasures:
  """NC1-NC3 of features and an output layer, in float64 NumPy.

  Args:
    features: [N, M] inputs of the output layer, finite.
    labels: [N] int class ids in [0, K).
    kernel: [M, K] weights of the output layer, one column a class; None measures
      the features alone, of the classes that occur.

  Raises:
    ValueError: if shapes disagree, labels are not integers in [0, K), there are
      fewer than two classes, a class is empty, or a number is NaN or infinite.

  Example:
    >>> labels = np.array([0, 1, 2, 0, 1, 2])
    >>> found = metrics.neural_collapse(np.eye(3)[labels], labels, kernel=np.eye(3))
    >>> print(f'{found.nc1:.3f} {found.nc2_mean_angles:.3f} {found.nc3:.3f}')
    0.000 0.000 0.367
  """
  features = as_features(features)
  num_classes = None
  if kernel is not None:
    kernel = _check_kernel(kernel, features.shape[1], None)
    num_classes = kernel.shape[1]
  labels, num_classes = as_labels(
    labels, num_examples=len(features), num_classes=num_classes
  )
  means = class_means(features, labels, num_classes=num_classes)
  residuals = features - means[labels]
  within = residuals.T @ residuals / len(features)
  return _measures(means, within, kernel)


def nearest_class_mean(features: ArrayLike, means: ArrayLike) -> jax.Array:
  """The class whose mean is nearest, int32 [B]; jittable, in float32.

  Args:
    features: [B, M].
    means: [K, M] class means (`NeuralCollapse.class_means`).

  Raises:
    ValueError: if the shapes disagree.
  """
  shapes = np.shape(features), np.shape(means)
  if [len(s) for s in shapes] != [2, 2] or shapes[0][1] != shapes[1][1]:
    raise ValueError(
      'Expected features [batch, num_features] and means [num_classes, '
      f'num_features]; got {shapes[0]} and {shapes[1]}.'
    )
  means = jnp.asarray(means, jnp.float32)
  # About their mean: squares of what all have in common would drown the rest.
  center = jnp.mean(means, axis=0)[None, :]
  means, features = means - center, jnp.asarray(features, jnp.float32) - center
  products = jnp.matmul(features, means.T, precision=jax.lax.Precision.HIGHEST)
  distances = jnp.sum(means**2, axis=1)[None, :] - 2.0 * products
  return jnp.argmin(distances, axis=1).astype(jnp.int32)


@flax.struct.dataclass
class NeuralCollapse(accumulators.Accumulator):
  """Streaming NC1-NC3, and the class means for NC4.

  Memory: 8 (M^2 + K M) bytes, 50 MB for ImageNet and 2048 features. S_W is a
  difference of second moments about the batches' means: an NC1 under 1e-5 or so
  is float32's rounding noise.

  Attributes:
    class_sums: compensated float32 [K, M].
    products: compensated float32 [M, M], sum of x x^T.
    num_examples: int32 [K].
    num_broken: int32 [], real rows with a NaN or an infinity.
    num_bad_labels: int32 [], real rows whose label is not in [0, K).
  """

  class_sums: accumulators.CompensatedSum
  products: accumulators.CompensatedSum
  num_examples: jax.Array
  num_broken: jax.Array
  num_bad_labels: jax.Array

  @classmethod
  def empty(cls, num_classes: int, num_features: int) -> Self:
    """No examples; num_classes >= 2, num_features >= 1."""
    if num_classes < 2 or num_features < 1:
      raise ValueError(
        'Neural collapse needs num_classes >= 2 and num_features >= 1; got '
        f'{num_classes} and {num_features}.'
      )
    return cls(
      class_sums=accumulators.CompensatedSum.empty((num_classes, num_features)),
      products=accumulators.CompensatedSum.empty((num_features, num_features)),
      num_examples=jnp.zeros(num_classes, jnp.int32),
      num_broken=jnp.zeros((), jnp.int32),
      num_bad_labels=jnp.zeros((), jnp.int32),
    )

  def update(
    self, features: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts features [B, M], labels [B] where mask [B] is not 0."""
    checks.check_rows_and_labels(
      features, labels, name='features', columns='num_features'
    )
    num_classes, num_features = self.class_sums.total.shape
    if np.shape(features)[1] != num_features:
      raise ValueError(
        f'Expected features [batch, {num_features}]; got {np.shape(features)}.'
      )
    finite = finite_rows(features)
    real = accumulators.real_rows(mask, finite.shape[0])
    known = accuracy.known_labels(labels, num_classes=num_classes)
    counted = real & finite & known
    labels = jnp.asarray(labels).astype(jnp.int32)
    batch = moments.Batch.create(features, counted)
    member = (labels[:, None] == jnp.arange(num_classes)[None, :]) & counted[
      :, None
    ]  # [B, K]
    return self.replace(
      class_sums=moments.add_group_rows(self.class_sums, batch, member),
      products=moments.add_products(self.products, batch, batch),
      num_examples=self.num_examples + accumulators.count(member, axis=0),
      num_broken=self.num_broken + accumulators.count(real & ~finite),
      num_bad_labels=self.num_bad_labels + accumulators.count(real & ~known),
    )

  def compute(self) -> float:
    """NC1, >= 0, lower is more collapsed; NaN if all class means are the same.

    Raises:
      ValueError: as `class_means`.
    """
    means = self.class_means()
    return _nc1(means, self._within(means))

  def class_means(self) -> np.ndarray:
    """float64 [K, M].

    Raises:
      ValueError: if a class has no examples, or a real row had a NaN or an
        infinity or a label not in [0, K).
    """
    counts = np.asarray(self.num_examples, np.int64)
    num_broken, num_bad = int(self.num_broken), int(self.num_bad_labels)
    checks.check_counts(int(counts.sum()) + num_broken + num_bad, num_broken)
    checks.check_classes(counts, num_bad)
    return self.class_sums.compute() / counts[:, None]

  def measures(self, kernel: ArrayLike | None) -> CollapseMeasures:
    """NC1-NC3 with the output layer's weights, kernel [M, K], or without.

    Raises:
      ValueError: as `class_means`, or if kernel is not finite or not [M, K].
    """
    num_classes, num_features = np.shape(self.class_sums.total)
    if kernel is not None:
      kernel = _check_kernel(kernel, num_features, num_classes)
    means = self.class_means()
    return _measures(means, self._within(means), kernel)

  def activation_spectrum(self) -> spectra.ActivationSpectrum:
    """The singular values of the same features: it needs no other sums."""
    counts = np.asarray(self.num_examples, np.int64)
    sums = self.class_sums
    return spectra.ActivationSpectrum(
      feature_sum=accumulators.CompensatedSum(
        total=np.sum(sums.total, axis=0, dtype=np.float64),
        compensation=np.sum(sums.compensation, axis=0, dtype=np.float64),
      ),
      products=self.products,
      num_examples=counts.sum() + self.num_bad_labels + self.num_broken,
      num_broken=self.num_broken + self.num_bad_labels,
    )

  def _within(self, means):
    counts = np.asarray(self.num_examples, np.float64)
    between = (means * counts[:, None]).T @ means
    return (self.products.compute() - between) / counts.sum()


@flax.struct.dataclass
class NearestMeanMismatch(accumulators.Accumulator):
  """Streaming NC4, a second pass once the class means are known.

  Attributes:
    num_mismatches: int32 [].
    num_examples: int32 [].
  """

  num_mismatches: jax.Array
  num_examples: jax.Array

  @classmethod
  def empty(cls) -> Self:
    """No examples."""
    zero = jnp.zeros((), jnp.int32)
    return cls(zero, zero)

  def update(
    self, nearest: ArrayLike, predictions: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts examples where mask [B] is not 0.

    Args:
      nearest: [B] int, `nearest_class_mean` of the features.
      predictions: [B] int, argmax of the logits.
      mask: [B], 1 = real, 0 = padding; None counts every row.
    """
    shapes = np.shape(nearest), np.shape(predictions)
    if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
      raise ValueError(
        'Expected nearest and predictions [batch]; got '
        f'{shapes[0]} and {shapes[1]}.'
      )
    nearest, predictions = jnp.asarray(nearest), jnp.asarray(predictions)
    real = accumulators.real_rows(mask, nearest.shape[0])
    mismatch = real & (nearest != predictions)
    return self.replace(
      num_mismatches=self.num_mismatches + accumulators.count(mismatch),
      num_examples=self.num_examples + accumulators.count(real),
    )

  def compute(self) -> float:
    """A fraction in [0, 1], lower is more collapsed; NaN if nothing counted."""
    if not int(self.num_examples):
      return float('nan')
    return int(self.num_mismatches) / int(self.num_examples)


def _check_kernel(kernel, num_features, num_classes):
  kernel = as_features(kernel, name='kernel', min_examples=1)
  if kernel.shape[0] != num_features or (
    num_classes is not None and kernel.shape[1] != num_classes
  ):
    raise ValueError(
      f'kernel must be [num_features = {num_features}, num_classes'
      f'{"" if num_classes is None else f" = {num_classes}"}]; got '
      f'{kernel.shape}.'
    )
  return kernel


def _measures(means, within, kernel):
  centered = means - means.mean(axis=0)
  mean_norms, mean_angles, mean_simplex = _simplex_measures(centered)
  of_kernel = dict.fromkeys(KERNEL_MEASURES, float('nan'))
  if kernel is not None:
    with np.errstate(invalid='ignore', divide='ignore'):
      duality = kernel.T / np.linalg.norm(kernel) - centered / np.linalg.norm(
        centered
      )
    values = *_simplex_measures(kernel.T), float(np.sum(duality**2))
    of_kernel = dict(zip(KERNEL_MEASURES, values, strict=True))
  return CollapseMeasures(
    nc1=_nc1(means, within),
    nc2_mean_norms=mean_norms,
    nc2_mean_angles=mean_angles,
    nc2_mean_simplex=mean_simplex,
    **of_kernel,
  )


def _nc1(means, within):
  """tr(S_W S_B^+) / K of class means [K, M] and S_W [M, M]."""
  num_classes = len(means)
  centered = means - means.mean(axis=0)
  # S_B = centered' centered / K, of rank K - 1 at most.
  _, values, axes = np.linalg.svd(centered, full_matrices=False)
  floor = values[0] * max(centered.shape) * np.finfo(np.float64).eps
  if values[0] <= 1e-13 * np.max(np.abs(means)):
    return float('nan')
  rank = min(num_classes - 1, int(np.sum(values > floor)))
  axes, values = axes[:rank], values[:rank]
  spread = np.einsum('rm,mn,rn->r', axes, within, axes)
  return float(max(np.sum(spread / values**2), 0.0))


def _simplex_measures(vectors):
  """Variation of norms and of cosines, and distance to a simplex, of rows."""
  num_vectors = len(vectors)
  norms = np.linalg.norm(vectors, axis=1)
  with np.errstate(invalid='ignore', divide='ignore'):
    unit = vectors / norms[:, None]
    variation = np.std(norms) / np.mean(norms)
  cosines = (unit @ unit.T)[np.triu_indices(num_vectors, k=1)]
  distance = np.mean(np.abs(cosines + 1 / (num_vectors - 1)))
  return float(variation), float(np.std(cosines)), float(distance)
