"""Angular visual hardness: how far an example is from its class's weights.

Chen et al. 2019 (arXiv:1912.02279), definition 2: with A(u, v) the angle of two
vectors, features x and the output layer's weights w_k of class k,

  AVH(x) = A(x, w_y) / sum_k A(x, w_k).

A share of all angles, in [0, 1], lower is easier; 1/K where all angles are the
same. Biases play no part. An all-zero vector has no direction: its cosine to
everything is taken to be 0, as in `class_separation`.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, accuracy, checks
from lossbench.metrics.features import as_features, as_labels


def angular_visual_hardness(
  features: ArrayLike, labels: ArrayLike, *, kernel: ArrayLike
) -> np.ndarray:
  """AVH of every example, in float64 NumPy; lower is easier.

  Args:
    features: [N, M] inputs of the output layer, finite.
    labels: [N] int class ids in [0, K).
    kernel: [M, K] weights of the output layer, one column a class.

  Returns:
    [N] float64 in [0, 1].

  Raises:
    ValueError: if shapes disagree, labels are not integers in [0, K), or a
      number is NaN or infinite.

  Example:
    >>> x = np.array([[1.0, 0.0], [1.0, 1.0]])
    >>> print(metrics.angular_visual_hardness(x, [0, 1], kernel=np.eye(2)))
    [0.  0.5]
  """
  features = as_features(features, min_examples=1)
  kernel = as_features(kernel, name='kernel', min_examples=1)
  if kernel.shape[0] != features.shape[1]:
    raise ValueError(
      f'kernel must be [num_features = {features.shape[1]}, num_classes]; got '
      f'{kernel.shape}.'
    )
  labels = as_labels(
    labels,
    num_examples=len(features),
    num_classes=kernel.shape[1],
    all_classes=False,
  )[0]
  cosines = _unit_rows(features, np) @ _unit_rows(kernel.T, np).T
  angles = np.arccos(np.clip(cosines, -1.0, 1.0))
  return angles[np.arange(len(labels)), labels] / _positive(angles.sum(1), np)


def cosine_similarities(features: ArrayLike, kernel: ArrayLike) -> jax.Array:
  """Cosines of features [B, M] to the K columns of kernel [M, K].

  Jittable. float32 [B, K] in [-1, 1], also for features of 1e-30 or 1e30; NaN
  where a feature is NaN or infinite.

  Raises:
    ValueError: if the shapes disagree.
  """
  shapes = np.shape(features), np.shape(kernel)
  if [len(s) for s in shapes] != [2, 2] or shapes[0][1] != shapes[1][0]:
    raise ValueError(
      'Expected features [batch, num_features] and kernel [num_features, '
      f'num_classes]; got {shapes[0]} and {shapes[1]}.'
    )
  features = jnp.asarray(features, jnp.float32)
  kernel = jnp.asarray(kernel, jnp.float32)
  # HIGHEST: accelerators would multiply in bfloat16 or TF32 by default.
  cosines = jnp.matmul(
    _unit_rows(features, jnp),
    _unit_rows(kernel.T, jnp).T,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.clip(cosines, -1.0, 1.0)


@flax.struct.dataclass
class AngularVisualHardness(accumulators.Accumulator):
  """Streaming mean of AVH over examples; lower is easier.

  Attributes:
    hardness_sum: compensated float32 [].
    num_examples: int32 [].
    num_broken: int32 [], real rows with a cosine that is NaN.
    num_bad_labels: int32 [], real rows whose label is not in [0, K).
  """

  hardness_sum: accumulators.CompensatedSum
  num_examples: jax.Array
  num_broken: jax.Array
  num_bad_labels: jax.Array

  @classmethod
  def empty(cls) -> Self:
    """No examples."""
    zero = jnp.zeros((), jnp.int32)
    return cls(accumulators.CompensatedSum.empty(), zero, zero, zero)

  def update(
    self, cosines: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts examples where mask [B] is not 0.

    Args:
      cosines: [B, K], `cosine_similarities(features, kernel)`; float32, which
        resolves angles to about 3e-4 near 0 and 1e-7 elsewhere.
      labels: [B] int class ids.
      mask: [B], 1 = real, 0 = padding; None counts every row.
    """
    checks.check_rows_and_labels(cosines, labels)
    cosines = jnp.asarray(cosines, jnp.float32)
    num_classes = cosines.shape[1]
    real = accumulators.real_rows(mask, cosines.shape[0])
    finite = jnp.all(jnp.isfinite(cosines), axis=1)
    known = accuracy.known_labels(labels, num_classes=num_classes)
    angles = jnp.arccos(jnp.clip(cosines, -1.0, 1.0))
    of_label = accuracy.score_of_label(angles, labels)
    hardness = of_label / _positive(jnp.sum(angles, axis=1), jnp)
    counted = real & finite & known
    return self.replace(
      hardness_sum=self.hardness_sum.add_rows(
        jnp.where(counted, hardness, 0.0)
      ),
      num_examples=self.num_examples + accumulators.count(real),
      num_broken=self.num_broken + accumulators.count(real & ~finite),
      num_bad_labels=self.num_bad_labels + accumulators.count(real & ~known),
    )

  def compute(self) -> float:
    """A fraction in [0, 1], lower is easier; NaN if nothing was counted.

    Raises:
      ValueError: if a real row had a NaN or a label not in [0, K).
    """
    num_examples = int(self.num_examples)
    checks.check_counts(num_examples, int(self.num_broken), min_examples=0)
    checks.check_known(int(self.num_bad_labels), num_examples)
    if not num_examples:
      return float('nan')
    return float(self.hardness_sum.compute() / num_examples)


def _unit_rows(x, numpy):
  # By the largest entry first: squares of 1e20 overflow, those of 1e-30 vanish.
  x = x / _positive(numpy.max(numpy.abs(x), axis=1, keepdims=True), numpy)
  squares = numpy.sum(x**2, axis=1, keepdims=True)
  return x / numpy.sqrt(_positive(squares, numpy))


def _positive(x, numpy):
  """x, and 1 where it is 0."""
  return numpy.where(x == 0, 1.0, x)
