"""Groups of seeds, and ensembles of their predictions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from lossbench.evaluation import scoring
from lossbench.evaluation.collected import Collected
from lossbench.metrics import agreement
from lossbench.metrics.accuracy import top1_accuracy
from lossbench.objectives import Objective
from lossbench.runtime.console import LOGGER


@dataclasses.dataclass(frozen=True)
class Group:
  """Models of one configuration, which differ in nothing but the seed.

  Attributes:
    name: the objective's, with whatever else tells the group from others.
    indices: of the models.
  """

  name: str
  indices: tuple[int, ...]


def clustering(similarity: np.ndarray) -> dict[str, Any]:
  """A tree of models as JSON: linkage and order of the leaves."""
  tree = agreement.cluster_models(similarity)
  return {'linkage': tree.linkage, 'order': tree.order}


def _shares(size: int) -> list[tuple[int, int]]:
  """How many of each of two objectives make an ensemble of `size` members.

  An odd one can be made in two ways. One seed of each is the least.
  """
  half = max(1, size // 2)
  other = max(1, size - half)
  return [(half, other)] if half == other else [(half, other), (other, half)]


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """What an ensemble predicts.

  Its logits would be those of no member: the prediction is the class of highest
  mean probability, in float64, of members' probabilities that are float64 too.
  Those of saturated sigmoids, which float32 rounds to ties, are told apart up to
  logits of about 36; what ties beyond that goes to the lower class id.

  Attributes:
    top1: [N] predicted classes.
    accuracy: a fraction.
    nll: nats.
  """

  top1: np.ndarray
  accuracy: float
  nll: float

  @classmethod
  def create(cls, log_probs: np.ndarray, labels: np.ndarray) -> Self:
    """Ensemble of float64 log-probabilities [N, K], measured by labels [N]."""
    top1 = log_probs.argmax(axis=1)
    nll = -float(np.mean(log_probs[np.arange(len(labels)), labels]))
    return cls(top1, float(np.mean(top1 == labels)), nll)


@dataclasses.dataclass(frozen=True)
class Predictions:
  """What is kept of the logits of A models; one's are in memory at a time.

  Attributes:
    labels: [N] int32.
    top1: [N, A] predicted classes.
    top1_accuracy: [A], fractions.
    whole: for each group, the ensemble of all its seeds.
    parts: for each group, number of its first seeds -> float64 [N, K]
      log-probabilities of their ensemble, for mixtures of two groups.
  """

  labels: np.ndarray
  top1: np.ndarray
  top1_accuracy: np.ndarray
  whole: list[Ensemble]
  parts: list[dict[int, np.ndarray]]


def read_predictions(
  names: Sequence[str],
  objectives: Sequence[Objective],
  groups: Sequence[Group],
  read_fn: Callable[[int], Collected],
) -> Predictions:
  """Reads the predictions of all models, one after another.

  Args:
    names: of the models, in errors and the log.
    objectives: of each, whose probabilities are meant.
    groups: of all of them.
    read_fn: index of a model -> its 'logits'.

  Raises:
    ValueError: if models have predictions of different examples, or NaN.
  """
  read: dict[int, Any] = {}
  first: dict[str, np.ndarray] = {}
  labels = None

  def log_probs(group):
    nonlocal labels
    for index in group.indices:
      name = names[index]
      LOGGER.info('[%d/%d] %s', len(read) + 1, len(names), name)
      predictions = read_fn(index)
      labels = predictions.labels if labels is None else labels
      if not first:
        first[name] = predictions.ids
      agreement.check_same_examples({**first, name: predictions.ids})
      logits = predictions.arrays['logits']
      read[index] = logits.argmax(axis=1), float(top1_accuracy(logits, labels))
      yield scoring.log_probs_of(objectives[index], logits, exact=True)

  whole, parts = [], []
  for group in groups:
    size = len(group.indices)
    sizes = set()
    for other in groups:
      if other is not group:
        shares = _shares(min(size, len(other.indices)))
        sizes |= {share for pair in shares for share in pair}
    found = agreement.nested_ensembles(log_probs(group), {size, *sizes})
    whole.append(Ensemble.create(found[size], labels))
    parts.append({number: found[number] for number in sizes})
  top1, accuracies = zip(*(read[i] for i in range(len(names))), strict=True)
  return Predictions(
    labels, np.stack(top1, 1), np.array(accuracies), whole, parts
  )


def compare_ensembles(
  groups: Sequence[Group], predictions: Predictions
) -> dict[str, Any]:
  """Ensembles of the seeds of each objective, and of every two objectives.

  Probabilities are averaged, each member's by its own objective's map. The
  ensemble of two objectives has as many members as the smaller of theirs, half
  of them of each (of an odd number, the mean over both ways to divide it; one
  seed of each is the least), so that only the mixture is compared and not the
  number, as in the paper's ensembles of 8 (Figure D.3).

  Returns:
    Matrices [O, O] of accuracy and NLL (diagonal: the seeds of one objective)
    and of the agreement of the ensembles of seeds; clustering where there are
    two objectives or more.
  """
  labels, num_groups = predictions.labels, len(groups)
  accuracy, nll = np.zeros((2, num_groups, num_groups))
  for i in range(num_groups):
    for j in range(i, num_groups):
      mixtures = [predictions.whole[i]]
      if i != j:
        size = min(len(groups[i].indices), len(groups[j].indices))
        mixtures = [
          Ensemble.create(
            agreement.ensemble_log_probs(
              [predictions.parts[i][a]] * a + [predictions.parts[j][b]] * b
            ),
            labels,
          )
          for a, b in _shares(size)
        ]
      accuracy[i, j] = np.mean([mixture.accuracy for mixture in mixtures])
      nll[i, j] = np.mean([mixture.nll for mixture in mixtures])
      accuracy[j, i], nll[j, i] = accuracy[i, j], nll[i, j]
  top1 = np.stack([ensemble.top1 for ensemble in predictions.whole], 1)
  same = agreement.pairwise_agreement(top1, labels).same_top1
  result = {
    'objectives': [group.name for group in groups],
    'num_members': [len(group.indices) for group in groups],
    'top1_accuracy': accuracy,
    'nll': nll,
    'same_top1': same,
  }
  return result | (clustering(same) if num_groups > 1 else {})
