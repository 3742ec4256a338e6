"""What the measures of features ask of them, in one place.

Features are [N, M]: N examples, M numbers each, from any framework. Plain
functions work on them in float64 NumPy and refuse what they cannot measure.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


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
  check_shape(np.shape(features), name=name)
  features = np.asarray(features, np.float64)
  num_examples = len(features)
  num_broken = int((~np.isfinite(features)).any(axis=1).sum())
  check_counts(num_examples, num_broken, name=name, min_examples=min_examples)
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
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f'labels must be integer class ids; got dtype {labels.dtype}.'
    )
  if num_classes is None:
    classes, labels = np.unique(labels, return_inverse=True)
    num_classes = len(classes)
  known = (labels >= 0) & (labels < num_classes)
  counts = np.bincount(labels[known], minlength=num_classes)
  check_classes(counts, int((~known).sum()), all_classes=all_classes)
  return labels.astype(np.int64), num_classes


def check_shape(shape: tuple[int, ...], *, name: str = 'features') -> None:
  """Raises ValueError unless shape is [N, M] with M >= 1."""
  if len(shape) != 2 or shape[1] < 1:
    raise ValueError(
      f'{name} must be [num_examples, num_features]; got {tuple(shape)}. Pool '
      'or flatten feature maps first.'
    )


def check_counts(
  num_examples: int,
  num_broken: int,
  *,
  name: str = 'features',
  min_examples: int = 2,
) -> None:
  """Raises ValueError if rows are not finite or there are too few of them."""
  if num_broken:
    raise ValueError(
      f'{num_broken} of {num_examples} rows of {name} hold NaN or infinity: '
      'did the run diverge?'
    )
  if num_examples < min_examples:
    raise ValueError(
      f'{name} must have at least {min_examples} examples for this measure; '
      f'got {num_examples}.'
    )


def check_classes(
  counts: np.ndarray, num_bad_labels: int, *, all_classes: bool = True
) -> None:
  """Raises ValueError if a label is no class or, if asked, a class is empty.

  Args:
    counts: [K] examples of each class.
    num_bad_labels: labels not in [0, K).
    all_classes: refuse fewer than two classes and classes without examples.
  """
  if num_bad_labels:
    raise ValueError(
      f'{num_bad_labels} of {int(counts.sum()) + num_bad_labels} labels are '
      'not class ids in [0, num_classes).'
    )
  if not all_classes:
    return
  empty = np.flatnonzero(counts == 0)
  if len(empty):
    shown = ', '.join(str(k) for k in empty[:5])
    more = ', ...' if len(empty) > 5 else ''
    raise ValueError(
      f'{len(empty)} of {len(counts)} classes have no examples: {shown}{more}. '
      'Use a split that has them all.'
    )
  if len(counts) < 2:
    raise ValueError(f'Expected at least two classes; got {len(counts)}.')


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
