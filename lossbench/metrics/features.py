"""Features and labels as the measures of features take them.

Features are [N, M]: N examples, M numbers each, from any framework. Plain
functions work on them in float64 NumPy and refuse what they cannot measure.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import checks


def as_features(
  features: ArrayLike, *, name: str = 'features', min_examples: int = 2
) -> np.ndarray:
  """Checked features, float64 [N, M].

  Args:
    features: [N, M], finite; any dtype NumPy converts to float64.
    name: of the argument, for the error.
    min_examples: the fewest examples of which the measure makes sense.

  Raises:
    ValueError: if it is not [N, M] with M >= 1 and N >= min_examples, or a
      row holds NaN or infinity.
  """
  checks.check_shape(np.shape(features), name=name)
  features = np.asarray(features, np.float64)
  num_examples = len(features)
  num_broken = int((~np.isfinite(features)).any(axis=1).sum())
  checks.check_counts(
    num_examples, num_broken, name=name, min_examples=min_examples
  )
  return features


def as_labels(
  labels: ArrayLike,
  *,
  num_examples: int,
  num_classes: int | None,
  all_classes: bool = True,
) -> tuple[np.ndarray, int]:
  """Checked labels, int64 [N] in [0, K), and K.

  Args:
    labels: [N] int class ids.
    num_examples: N.
    num_classes: K; None numbers the classes that occur.
    all_classes: refuse fewer than two classes and classes without examples.

  Raises:
    ValueError: if the shape is wrong, labels are not integers or not in [0, K),
      or classes are missing that must not be.
  """
  labels = np.asarray(labels)
  if labels.shape != (num_examples,):
    raise ValueError(
      f'labels must be [{num_examples}], one per example; got {labels.shape}.'
    )
  checks.check_class_ids(labels)
  if num_classes is None:
    classes, labels = np.unique(labels, return_inverse=True)
    num_classes = len(classes)
  known = (labels >= 0) & (labels < num_classes)
  counts = np.bincount(labels[known], minlength=num_classes)
  checks.check_classes(counts, int((~known).sum()), all_classes=all_classes)
  return labels.astype(np.int64), num_classes


def class_means(
  features: np.ndarray, labels: np.ndarray, *, num_classes: int
) -> np.ndarray:
  """The mean of every class, float64 [K, M], of checked features and labels."""
  sums = np.zeros((num_classes, features.shape[1]))
  np.add.at(sums, labels, features)
  return sums / np.bincount(labels, minlength=num_classes)[:, None]


def finite_rows(features: ArrayLike) -> jax.Array:
  """Which rows of features [B, ...] are finite, bool [B]; jittable."""
  features = jnp.asarray(features)
  return jnp.all(jnp.isfinite(features), axis=tuple(range(1, features.ndim)))
