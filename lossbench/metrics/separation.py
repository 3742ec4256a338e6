r"""Class separation R^2, eq. 11 of the paper; higher is more separated.

  R^2 = 1 - [mean_k     mean_{m,n in k}        (1 - cos(x_km, x_kn))]
          / [mean_{j,k} mean_{m in j, n in k}  (1 - cos(x_jm, x_kn))]

Classes weigh the same whatever their size; pairs of an example with itself are
included, as in the paper. A mean of cosines of pairs is the scalar product of
two means, so with u_k the mean of class k's unit-normalised embeddings

  1 - R^2 = (1 - mean_k ||u_k||^2) / (1 - ||mean_k u_k||^2),

linear in examples, and a function of K sums of M numbers: all that needs to be
accumulated.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import sparse

from lossbench.metrics import accumulators, checks
from lossbench.metrics.features import as_labels

# Below these the mean cosine distance of all pairs is rounding error.
_FLOAT32_RESOLUTION = 1e-6
_FLOAT64_RESOLUTION = 1e-14
# Squares of numbers up to here and down to its inverse are float64s.
_SAFE = 1e100


def class_separation(
  features: ArrayLike, labels: ArrayLike, *, num_classes: int | None = None
) -> float:
  """Class separation R^2 in float64 NumPy; higher is more separated.

  Args:
    features: [N, M] embeddings, finite. An all-zero row has no direction: its
      cosine to everything, itself too, is taken to be 0.
    labels: [N] int class ids.
    num_classes: K; the labels must be in [0, K) and each class must have an
      example. None takes the classes that occur.

  Returns:
    A fraction in [0, 1]: 0, classes have the same mean; 1, each class is one
    direction. NaN if all embeddings have the same direction (0/0).

  Raises:
    ValueError: if shapes disagree, labels are not integers or not in [0, K),
      there are fewer than two classes, a class is empty or a feature is NaN or
      infinite.

  Example:
    >>> x = np.array([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
    >>> print(f'{metrics.class_separation(x, [0, 0, 1, 1]):.3f}')
    0.980
  """
  _check_shapes(features, labels)
  features = np.asarray(features, np.float64)
  num_broken = int((~np.isfinite(features)).any(axis=1).sum())
  checks.check_counts(len(features), num_broken, min_examples=0)
  labels, num_classes = as_labels(
    labels, num_examples=len(features), num_classes=num_classes
  )
  scale = np.maximum(
    features.max(axis=1, initial=0.0), -features.min(axis=1, initial=0.0)
  )
  if (
    scale.max(initial=0.0) > _SAFE
    or scale[scale > 0].min(initial=1.0) < 1 / _SAFE
  ):
    features = features / np.where(scale > 0, scale, 1.0)[:, None]
  norms = np.sqrt(np.einsum('nm,nm->n', features, features))
  # One sparse product normalises and sums over classes, with no copy of all.
  weights = 1.0 / np.where(norms > 0, norms, 1.0)
  shape = (num_classes, len(labels))
  member = sparse.csr_array((weights, (labels, np.arange(len(labels)))), shape)
  sums = member @ features
  counts = np.bincount(labels, minlength=num_classes)
  return _from_sums(sums, counts, resolution=_FLOAT64_RESOLUTION)


@flax.struct.dataclass
class ClassSeparation(accumulators.Accumulator):
  """Streaming class separation R^2; higher is more separated.

  Memory: 2 K M floats (16 MB for ImageNet and 2048 features).

  Attributes:
    unit_sums: compensated float32 [K, M], sums of unit-normalised features.
    num_examples: int32 [K].
    num_broken: int32 [], real rows with a NaN or an infinity.
    num_bad_labels: int32 [], real rows whose label is not in [0, K).
  """

  unit_sums: accumulators.CompensatedSum
  num_examples: jax.Array
  num_broken: jax.Array
  num_bad_labels: jax.Array

  @classmethod
  def empty(cls, num_classes: int, num_features: int) -> Self:
    """No examples; num_classes >= 2, num_features >= 1."""
    if num_classes < 2 or num_features < 1:
      raise ValueError(
        'Class separation needs num_classes >= 2 and num_features >= 1; got '
        f'{num_classes} and {num_features}.'
      )
    return cls(
      unit_sums=accumulators.CompensatedSum.empty((num_classes, num_features)),
      num_examples=jnp.zeros(num_classes, jnp.int32),
      num_broken=jnp.zeros((), jnp.int32),
      num_bad_labels=jnp.zeros((), jnp.int32),
    )

  def update(
    self, features: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts features [B, M], labels [B] where mask [B] is not 0.

    An all-zero row has cosine 0 to everything, itself too.
    """
    _check_shapes(features, labels)
    num_classes, num_features = self.unit_sums.total.shape
    if np.shape(features)[1] != num_features:
      raise ValueError(
        f'Expected features [batch, {num_features}]; got {np.shape(features)}.'
      )
    features = jnp.asarray(features, jnp.float32)
    labels = jnp.asarray(labels).astype(jnp.int32)
    real = accumulators.real_rows(mask, labels.shape[0])
    finite = jnp.all(jnp.isfinite(features), axis=1)
    known = (labels >= 0) & (labels < num_classes)
    counted = real & finite & known
    unit = _unit_rows(jnp.where(counted[:, None], features, 0.0))
    member = (labels[:, None] == jnp.arange(num_classes)[None, :]) & counted[
      :, None
    ]  # [B, K]
    # HIGHEST: accelerators would multiply in bfloat16 or TF32 by default.
    batch_sums = jnp.matmul(
      member.astype(jnp.float32).T, unit, precision=jax.lax.Precision.HIGHEST
    )
    return self.replace(
      unit_sums=self.unit_sums.add(batch_sums),
      num_examples=self.num_examples + accumulators.count(member, axis=0),
      num_broken=self.num_broken + accumulators.count(real & ~finite),
      num_bad_labels=self.num_bad_labels + accumulators.count(real & ~known),
    )

  def compute(self) -> float:
    """A fraction in [0, 1]; NaN if all embeddings have the same direction.

    "The same" is a mean cosine distance under 1e-6, which float32 does not
    resolve.

    Raises:
      ValueError: if a class has no examples (which ones is said), or a real
        row had a feature that is NaN or infinite or a label not in [0, K).
    """
    counts = np.asarray(self.num_examples, np.int64)
    num_broken, num_bad = int(self.num_broken), int(self.num_bad_labels)
    num_examples = int(counts.sum()) + num_broken + num_bad
    checks.check_counts(num_examples, num_broken, min_examples=0)
    checks.check_classes(counts, num_bad)
    return _from_sums(
      self.unit_sums.compute(), counts, resolution=_FLOAT32_RESOLUTION
    )


def _check_shapes(features, labels):
  checks.check_rows_and_labels(
    features,
    labels,
    name='features',
    columns='num_features',
    remedy='Pool or flatten feature maps first.',
  )


def _unit_rows(features):
  # By the largest entry first: squares of 1e20 overflow, those of 1e-30 vanish.
  scale = jnp.max(jnp.abs(features), axis=1, keepdims=True)
  features = features / jnp.where(scale > 0, scale, 1.0)
  squared = jnp.sum(features**2, axis=1, keepdims=True)
  return features / jnp.sqrt(jnp.where(squared > 0, squared, 1.0))


def _from_sums(sums, counts, *, resolution):
  """R^2 of float64 sums of unit vectors [K, M] and counts [K]."""
  means = sums / counts[:, None]
  within = 1.0 - np.mean(np.sum(means**2, axis=1))
  overall = 1.0 - np.sum(np.mean(means, axis=0) ** 2)
  if overall <= resolution:
    return float('nan')
  # Rounding can carry one-direction classes past 1, equal means below 0.
  return float(np.clip(1.0 - within / overall, 0.0, 1.0))
