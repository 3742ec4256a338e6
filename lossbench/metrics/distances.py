"""Densities of cosine distance within and between classes.

All pairs of two different examples of at most 10,000, chosen the same way every
time: their cosine distances 1 - cos in [0, 2], as counts in narrow bins, which
`density.smooth_density` makes smooth. The time is quadratic in the number chosen (about 10
s for 10,000 examples of 2048 features on two cores), constant in N; memory is
one block of distances. Neither direction is better.
"""

import dataclasses

import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import checks
from lossbench.metrics.features import as_features, as_labels

MAX_EXAMPLES = 10_000
_CHUNK_SIZE = 512


@dataclasses.dataclass(frozen=True)
class CosineDistances:
  """Histograms of cosine distances of pairs; an unordered pair counts once.

  Attributes:
    edges: [B + 1] float64, of bins [e_b, e_{b+1}); the last includes 2.
    within: [B] int64, pairs of the same class.
    between: [B] int64, pairs of different classes.
    num_examples: examples the pairs are of.
  """

  edges: np.ndarray
  within: np.ndarray
  between: np.ndarray
  num_examples: int


def choose_examples(
  num_examples: int, *, max_examples: int = MAX_EXAMPLES, seed: int = 0
) -> np.ndarray:
  """Which examples to look at: a function of (num_examples, seed).

  Returns:
    int [min(num_examples, max_examples)], ascending, without repetition; all of
    them if there are no more than max_examples.
  """
  if num_examples <= max_examples:
    return np.arange(num_examples)
  chosen = np.random.default_rng(seed).choice(
    num_examples, size=max_examples, replace=False
  )
  return np.sort(chosen)


def cosine_distances(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 1000,
  max_examples: int = MAX_EXAMPLES,
  seed: int = 0,
) -> CosineDistances:
  """Histograms of the cosine distances within and between classes.

  An all-zero row has no direction: its distance to everything is taken to be 1.

  Args:
    features: [N, M], finite.
    labels: [N] int class ids.
    num_bins: B equal bins of [0, 2].
    max_examples: of more, `choose_examples` takes so many.
    seed: of that choice.

  Raises:
    ValueError: if shapes disagree, labels are not integers, N < 2, a feature
      chosen is NaN or infinite, or num_bins < 1 or max_examples < 2.

  Example:
    >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> found = metrics.cosine_distances(x, [0, 0, 1], num_bins=4)
    >>> print(found.edges, found.within, found.between)
    [0.  0.5 1.  1.5 2. ] [1 0 0 0] [0 0 2 0]
  """
  if num_bins < 1 or max_examples < 2:
    raise ValueError(
      'Expected num_bins >= 1 and max_examples >= 2; got '
      f'{num_bins} and {max_examples}.'
    )
  checks.check_shape(np.shape(features))
  labels = as_labels(
    labels,
    num_examples=len(features),
    num_classes=None,
    all_classes=False,
  )[0]
  chosen = choose_examples(len(labels), max_examples=max_examples, seed=seed)
  # Chosen before the conversion: N x M in float64 need not fit in memory.
  features, labels = as_features(np.asarray(features)[chosen]), labels[chosen]
  scale = np.abs(features).max(axis=1, keepdims=True)
  features = features / np.where(scale > 0, scale, 1.0)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  features = features / np.where(norms > 0, norms, 1.0)
  counts = np.zeros(2 * num_bins, np.int64)
  for start in range(0, len(labels), _CHUNK_SIZE):
    stop = start + _CHUNK_SIZE
    # Columns from `start` on, and of the square block the upper triangle.
    cosines = features[start:stop] @ features[start:].T
    first = np.arange(len(cosines))
    pairs = first[:, None] < np.arange(cosines.shape[1])[None, :]
    bins = ((1.0 - cosines) * (num_bins / 2)).astype(np.int64)
    bins = np.clip(bins, 0, num_bins - 1)
    same = labels[start:stop, None] == labels[None, start:]
    bins += np.where(same, 0, num_bins)
    counts += np.bincount(bins[pairs], minlength=2 * num_bins)
  return CosineDistances(
    edges=np.linspace(0.0, 2.0, num_bins + 1),
    within=counts[:num_bins],
    between=counts[num_bins:],
    num_examples=len(labels),
  )
