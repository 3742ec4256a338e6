"""Whether labels, probabilities, features and their shapes are in order.

The one place that refuses what cannot be measured. Shapes and dtypes are checked
of traced arrays too; values of arrays on the host, or as counts of bad rows that
an accumulator has kept.
"""

import jax
import numpy as np
from jax.typing import ArrayLike

# How far a row of probabilities may sum from 1.
SUM_TOLERANCE = 1e-2


def check_class_ids(ids: ArrayLike, *, name: str = 'labels') -> None:
  """Raises ValueError unless ids are of an integer dtype."""
  # Traced arrays have a dtype too, but cannot be converted.
  dtype = ids.dtype if isinstance(ids, jax.Array) else np.asarray(ids).dtype
  if not np.issubdtype(dtype, np.integer):
    raise ValueError(f'{name} must be integer class ids; got dtype {dtype}.')


def check_rows_and_labels(
  rows: ArrayLike,
  labels: ArrayLike,
  *,
  name: str = 'scores',
  columns: str = 'num_classes',
  remedy: str = '',
) -> None:
  """Raises ValueError unless rows is [N, .] and labels [N], integer.

  Args:
    rows: one a label.
    labels: class ids.
    name: of `rows`, for the error.
    columns: what the second axis of `rows` counts.
    remedy: what to do about another shape.
  """
  shape = np.shape(rows)
  if len(shape) != 2 or np.shape(labels) != shape[:1]:
    raise ValueError(
      f'Expected {name} [num_examples, {columns}] and labels [num_examples]; '
      f'got {shape} and {np.shape(labels)}. {remedy}'.rstrip()
    )
  check_class_ids(labels)


def check_scores(scores: np.ndarray, *, name: str) -> None:
  """Raises ValueError unless scores are [N, K], K >= 1."""
  if scores.ndim != 2 or not scores.shape[1]:
    raise ValueError(
      f'{name} must be [num_examples, num_classes]; got {scores.shape}.'
    )


def check_distributions(log_probs: np.ndarray, *, prefix: str = '') -> None:
  """Raises ValueError unless every row is a distribution.

  Args:
    log_probs: [N, K] on the host.
    prefix: of the error, e.g. 'Member 1: '.
  """
  excess = np.abs(np.exp(log_probs).sum(axis=1) - 1.0)
  num_bad = int((~(excess <= SUM_TOLERANCE)).sum())  # NaN too
  if num_bad:
    raise ValueError(
      f'{prefix}the probabilities of {num_bad} of {len(log_probs)} examples are '
      'NaN or do not sum to 1. Pass log-probabilities (Objective.log_probs), not '
      'logits or probabilities.'
    )


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


def check_known(num_bad_labels: int, num_labels: int) -> None:
  """Raises ValueError if some of the labels are not in [0, K)."""
  if num_bad_labels:
    raise ValueError(
      f'{num_bad_labels} of {num_labels} labels are not class ids in '
      '[0, num_classes): do the labels and the model use the same classes?'
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
  check_known(num_bad_labels, int(counts.sum()) + num_bad_labels)
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
