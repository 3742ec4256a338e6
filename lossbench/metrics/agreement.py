"""How alike the predictions of models are, and ensembles of models.

For each pair of models on the same examples (Figure of the paper's section on
predictions): the share with the same top-1 class, the share with both right or
both wrong, and among the examples both get wrong the share with the same wrong
class. All are fractions in [0, 1], symmetric, and neither direction is better.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from jax.typing import ArrayLike
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from lossbench.metrics import checks

_CHUNK_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class PairwiseAgreement:
  """Agreement of every pair of A models; NumPy, symmetric, [A, A].

  Attributes:
    same_top1: share of examples with the same predicted class; diagonal 1.
    both_right_or_wrong: share that both get right or both get wrong; diagonal
      1.
    same_when_both_wrong: share, of the examples that both get wrong, with the
      same predicted class; NaN where there is no such example.
    num_both_wrong: int64, how many those are; the diagonal counts errors.
    num_examples: N.
  """

  same_top1: np.ndarray
  both_right_or_wrong: np.ndarray
  same_when_both_wrong: np.ndarray
  num_both_wrong: np.ndarray
  num_examples: int


@dataclasses.dataclass(frozen=True)
class Clustering:
  """Models in a tree of similarity.

  Attributes:
    linkage: [A - 1, 4] float64, as SciPy's dendrogram takes it; heights are
      disagreement, 1 - agreement.
    order: [A] int, leaves from left to right: likes beside likes.
  """

  linkage: np.ndarray
  order: np.ndarray


def pairwise_agreement(
  predictions: ArrayLike, labels: ArrayLike
) -> PairwiseAgreement:
  """Agreement of the predictions of A models, exact, on the host.

  Args:
    predictions: [N, A] int, top-1 class ids of each model, one column a model.
    labels: [N] int class ids.

  Raises:
    ValueError: if shapes disagree, there is no model or no example, or they
      are not integers.

  Example:
    >>> found = metrics.pairwise_agreement([[0, 0], [2, 2], [2, 1]], [0, 1, 1])
    >>> print(found.same_top1.round(2), found.num_both_wrong[0, 1])
    [[1.   0.67]
     [0.67 1.  ]] 1
  """
  _check_predictions(predictions, labels)
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  num_models = predictions.shape[1]
  sums = np.zeros((3, num_models, num_models), np.int64)
  for start in range(0, len(labels), _CHUNK_SIZE):
    rows = slice(start, start + _CHUNK_SIZE)
    columns = np.ascontiguousarray(predictions[rows].T)
    wrong = columns != labels[None, rows]
    for i in range(num_models):
      same = columns[i] == columns[i:]
      both_wrong = wrong[i] & wrong[i:]
      sums[0, i, i:] += np.count_nonzero(same, axis=1)
      sums[1, i, i:] += np.count_nonzero(both_wrong, axis=1)
      sums[2, i, i:] += np.count_nonzero(wrong[i] == wrong[i:], axis=1)
  upper = np.triu(sums)
  sums = upper + np.transpose(np.triu(sums, k=1), (0, 2, 1))
  return _from_counts(*sums, num_examples=len(labels))


def cluster_models(agreement: ArrayLike) -> Clustering:
  """Hierarchical clustering of models by agreement.

  Average linkage (UPGMA) of the distances 1 - agreement; leaves in SciPy's
  optimal order (Bar-Joseph et al. 2001), neighbours as alike as the tree lets
  them.

  Args:
    agreement: [A, A], symmetric, in [0, 1], diagonal 1; A >= 2. A matrix of
      `PairwiseAgreement`, or of CKA.

  Raises:
    ValueError: if it is anything else, or has a NaN.

  Example:
    >>> tree = metrics.cluster_models([[1, 0.5, 0.9], [0.5, 1, 0.6], [0.9, 0.6, 1]])
    >>> print(tree.order, tree.linkage[0])
    [1 2 0] [2.  0.  0.1 2. ]
  """
  agreement = np.asarray(agreement, np.float64)
  if agreement.ndim != 2 or not 2 <= len(agreement) == agreement.shape[1]:
    raise ValueError(
      'Expected a matrix of agreement of two or more models, [A, A]; got '
      f'{agreement.shape}.'
    )
  if np.isnan(agreement).any():
    raise ValueError(
      f'{int(np.isnan(agreement).sum())} entries of agreement are NaN: leave '
      'those models out (two models without a common error have none to agree '
      'on).'
    )
  distances = 1.0 - agreement
  if (
    np.max(np.abs(distances - distances.T)) > 1e-6
    or np.max(np.abs(np.diag(distances))) > 1e-6
    or distances.min() < -1e-6
    or distances.max() > 1 + 1e-6
  ):
    raise ValueError(
      'agreement must be symmetric, in [0, 1] and 1 on the diagonal.'
    )
  distances = np.clip((distances + distances.T) / 2, 0.0, None)
  np.fill_diagonal(distances, 0.0)
  linkage = hierarchy.linkage(
    squareform(distances), method='average', optimal_ordering=True
  )
  return Clustering(linkage, hierarchy.leaves_list(linkage).astype(int))


def ensemble_log_probs(members: Iterable[ArrayLike]) -> np.ndarray:
  """Log of the mean probability of several models.

  log((1/A) sum_a p_a), by log-sum-exp in float64: exact also where every
  member's probability is too small for a float. Each member's log-probabilities
  come from its own objective's map (`Objective.log_probs`).

  Args:
    members: log-probabilities [N, K] of each model, same examples, same order.
      One after another, so that a generator needs the memory of one; -inf is
      allowed.

  Returns:
    float64 [N, K] log-probabilities.

  Raises:
    ValueError: if there are no members, shapes disagree, or a row is no
      distribution: NaN, or does not sum to 1 within 1e-2.

  Example:
    >>> members = [np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])]
    >>> print(np.exp(metrics.ensemble_log_probs(members)).round(2))
    [[0.7 0.3]]
  """
  sums = collections.deque(_running_sums(members), maxlen=1)
  if not sums:
    raise ValueError('An ensemble needs at least one member.')
  num_members, total = sums[0]
  return total - np.log(num_members)


def nested_ensembles(
  members: Iterable[ArrayLike], sizes: Collection[int]
) -> dict[int, np.ndarray]:
  """Ensembles of the first members, for several numbers of them, in one go.

  Args:
    members: as of `ensemble_log_probs`.
    sizes: numbers of members, each at least 1 and at most how many there are.

  Returns:
    size -> float64 [N, K] log-probabilities. (float32 would tie classes that
    share almost all the probability, and so change predictions.)

  Raises:
    ValueError: as `ensemble_log_probs`.
  """
  return {
    num_members: total - np.log(num_members)
    for num_members, total in _running_sums(members)
    if num_members in sizes
  }


def _running_sums(members):
  """Yields the number of members so far and the log of their summed probs."""
  total = None
  for index, member in enumerate(members):
    member = np.asarray(member, np.float64)
    checks.check_scores(member, name=f'Log-probabilities of member {index}')
    checks.check_distributions(member, prefix=f'Member {index}: ')
    if total is None:
      total = member.copy()
    elif member.shape != total.shape:
      raise ValueError(
        f'Member {index} has log-probabilities {member.shape}, those before it '
        f'{total.shape}.'
      )
    else:
      np.logaddexp(total, member, out=total)
    yield index + 1, total


def check_same_examples(ids: Mapping[str, ArrayLike]) -> None:
  """Refuses runs that were not evaluated on the same examples.

  Args:
    ids: run -> [N] example ids, in the order of its predictions.

  Raises:
    ValueError: if a run's ids are not those of the first, in the same order.
  """
  (first, expected), *others = [(k, np.asarray(v)) for k, v in ids.items()]
  for run, got in others:
    if len(got) != len(expected):
      raise ValueError(
        f'{run} has predictions of {len(got)} examples, {first} of '
        f'{len(expected)}: evaluate both on the same split.'
      )
    if not np.array_equal(got, expected):
      at = int(np.flatnonzero(got != expected)[0])
      raise ValueError(
        f'{run} and {first} have predictions of different examples: number '
        f'{at} is {got[at]!r} in the one and {expected[at]!r} in the other.'
      )


def _check_predictions(predictions, labels):
  checks.check_rows_and_labels(
    predictions, labels, name='predictions', columns='num_models'
  )
  checks.check_class_ids(predictions, name='predictions')
  if not np.size(predictions):
    raise ValueError(
      'Agreement needs at least one example and one model; got predictions '
      f'{np.shape(predictions)}.'
    )


def _from_counts(same, both_wrong, alike, *, num_examples):
  with np.errstate(invalid='ignore', divide='ignore'):
    # The same prediction is wrong for both, or right for both.
    both_right = alike - both_wrong
    same_when_both_wrong = (same - both_right) / both_wrong
  return PairwiseAgreement(
    same_top1=same / num_examples,
    both_right_or_wrong=alike / num_examples,
    same_when_both_wrong=np.where(both_wrong, same_when_both_wrong, np.nan),
    num_both_wrong=both_wrong,
    num_examples=num_examples,
  )
