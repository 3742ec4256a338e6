"""Singular value spectra of activations, weights and class centroids.

A matrix here has examples (or classes) as rows and features as columns: final
weights [M, K] come transposed, kernel.T. `centered` is to be said by the
caller: it subtracts the mean row. A spectrum of activations that are not
centred begins with a value that is little but their mean. Neither a steep nor a
flat spectrum is better.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, checks, moments
from lossbench.metrics.features import (
  as_features,
  as_labels,
  class_means,
  finite_rows,
)


def singular_values(matrix: ArrayLike, *, centered: bool) -> np.ndarray:
  """Singular values of a matrix, largest first, in float64 NumPy.

  Args:
    matrix: [N, M], finite, N >= 2: activations, kernel.T or class centroids.
    centered: subtract the mean row first.

  Returns:
    float64 [min(N, M)]. Divided by sqrt(N), centred ones are the standard
    deviations along the principal axes.

  Raises:
    ValueError: if the shape is wrong or an entry is NaN or infinite.

  Example:
    >>> print(metrics.singular_values([[3.0, 0.0], [0.0, 4.0]], centered=False))
    [4. 3.]
  """
  matrix = as_features(matrix, name='matrix')
  if centered:
    matrix = matrix - matrix.mean(axis=0)
  return np.linalg.svd(matrix, compute_uv=False)


def class_centroids(
  features: ArrayLike, labels: ArrayLike, *, num_classes: int | None = None
) -> np.ndarray:
  """The mean features of every class, float64 [K, M].

  Args:
    features: [N, M], finite.
    labels: [N] int class ids.
    num_classes: K; None takes the classes that occur.

  Raises:
    ValueError: if shapes disagree, labels are not integers in [0, K), there are
      fewer than two classes, a class is empty, or a feature is not finite.

  Example:
    >>> x = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    >>> print(metrics.class_centroids(x, [0, 0, 1]))
    [[2. 0.]
     [0. 5.]]
  """
  features = as_features(features)
  labels, num_classes = as_labels(
    labels, num_examples=len(features), num_classes=num_classes
  )
  return class_means(features, labels, num_classes=num_classes)


def participation_ratio(values: ArrayLike) -> float:
  """How many directions a spectrum has, (sum s^2)^2 / sum s^4.

  Args:
    values: [R] singular values.

  Returns:
    In [1, R]: 1, all in one direction; R, all the same. NaN if all are 0.

  Example:
    >>> metrics.participation_ratio([3.0, 3.0, 0.0])
    2.0
  """
  values = np.asarray(values, np.float64)
  largest = values.max(initial=0.0)
  if not largest > 0:
    return float('nan')
  squares = (values / largest) ** 2
  return float(squares.sum() ** 2 / (squares**2).sum())


@flax.struct.dataclass
class ActivationSpectrum(accumulators.Accumulator):
  """Streaming singular values of activations, by their second moments.

  Memory: 8 M^2 bytes, 34 MB for 2048 features. Squares lose half the digits:
  singular values under about 3e-4 of the largest one are float32's rounding
  noise, or 0.

  Attributes:
    feature_sum: compensated float32 [M].
    products: compensated float32 [M, M], sum of x x^T.
    num_examples: int32 [].
    num_broken: int32 [], real rows with a NaN or an infinity.
  """

  feature_sum: accumulators.CompensatedSum
  products: accumulators.CompensatedSum
  num_examples: jax.Array
  num_broken: jax.Array

  @classmethod
  def empty(cls, num_features: int) -> Self:
    """No examples of num_features = M >= 1."""
    if num_features < 1:
      raise ValueError(f'num_features must be at least 1; got {num_features}.')
    return cls(
      feature_sum=accumulators.CompensatedSum.empty((num_features,)),
      products=accumulators.CompensatedSum.empty((num_features, num_features)),
      num_examples=jnp.zeros((), jnp.int32),
      num_broken=jnp.zeros((), jnp.int32),
    )

  def update(self, features: ArrayLike, mask: ArrayLike | None) -> Self:
    """Counts features [B, M] where mask [B] is not 0."""
    num_features = self.feature_sum.total.shape[0]
    if np.ndim(features) != 2 or np.shape(features)[1] != num_features:
      raise ValueError(
        f'Expected features [batch, {num_features}]; got {np.shape(features)}. '
        'Pool or flatten feature maps first.'
      )
    finite = finite_rows(features)
    real = accumulators.real_rows(mask, finite.shape[0])
    batch = moments.Batch.create(features, real & finite)
    return self.replace(
      feature_sum=moments.add_rows(self.feature_sum, batch),
      products=moments.add_products(self.products, batch, batch),
      num_examples=self.num_examples + accumulators.count(real),
      num_broken=self.num_broken + accumulators.count(real & ~finite),
    )

  def compute(self) -> float:
    """`participation_ratio` of the centred spectrum, in [1, M].

    Raises:
      ValueError: as `singular_values`.
    """
    return participation_ratio(self.singular_values(centered=True))

  def dead_unit_fraction(self) -> float:
    """The share of units that are 0 on every example, exactly; in [0, 1].

    Raises:
      ValueError: as `singular_values`.
    """
    checks.check_counts(int(self.num_examples), int(self.num_broken))
    return float(np.mean(np.diagonal(self.products.compute()) == 0))

  def singular_values(self, *, centered: bool) -> np.ndarray:
    """float64 [min(N, M)], largest first; of all N examples as one matrix.

    Raises:
      ValueError: if there are fewer than 2 examples or one was NaN or infinite.
    """
    num_examples = int(self.num_examples)
    checks.check_counts(num_examples, int(self.num_broken))
    if centered:
      squares = num_examples * moments.covariance(
        self.products,
        self.feature_sum,
        self.feature_sum,
        num_examples=num_examples,
      )
    else:
      squares = self.products.compute()
    eigenvalues = np.linalg.eigvalsh((squares + squares.T) / 2)[::-1]
    # Rounding can carry eigenvalues below 0.
    values = np.sqrt(np.maximum(eigenvalues, 0.0))
    return values[: min(num_examples, len(values))]
