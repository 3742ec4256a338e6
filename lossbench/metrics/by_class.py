"""Accuracy of every class by itself, and of the worst. Higher is better."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class ClassAccuracies(NamedTuple):
  """What predictions are worth class by class.

  Attributes:
    accuracy: [K] float64, the share of a class's examples that are predicted as
      it (its recall); NaN of a class without examples.
    count: [K] int, examples of the class.
    num_predicted: [K] int, examples that are predicted as it.
  """

  accuracy: np.ndarray
  count: np.ndarray
  num_predicted: np.ndarray

  @property
  def mean(self) -> float:
    """Over the classes that occur, each counting the same; NaN of none.

    The balanced accuracy of Brodersen et al. 2010.
    """
    known = self.accuracy[self.count > 0]
    return float(known.mean()) if len(known) else float('nan')

  @property
  def worst(self) -> int | None:
    """The class of the lowest accuracy, of equals the first; None of none."""
    return int(np.nanargmin(self.accuracy)) if self.count.any() else None


def class_accuracies(
  predicted: ArrayLike, labels: ArrayLike, *, num_classes: int
) -> ClassAccuracies:
  """Accuracy of each class.

  Args:
    predicted: [N] int class ids in [0, num_classes).
    labels: [N] int class ids in [0, num_classes).
    num_classes: K.

  Raises:
    ValueError: if lengths differ or an id is not in [0, num_classes).
  """
  predicted, labels = np.asarray(predicted), np.asarray(labels)
  if predicted.ndim != 1 or predicted.shape != labels.shape:
    raise ValueError(
      'Expected predicted and labels, both [num_examples]; got '
      f'{predicted.shape} and {labels.shape}.'
    )
  for name, ids in (('predicted', predicted), ('labels', labels)):
    bad = (ids < 0) | (ids >= num_classes)
    if bad.any():
      raise ValueError(
        f'{name} holds {ids[bad][0]}, outside [0, {num_classes}).'
      )
  count = np.bincount(labels, minlength=num_classes)
  right = np.bincount(labels[predicted == labels], minlength=num_classes)
  with np.errstate(invalid='ignore'):
    accuracy = right / count
  return ClassAccuracies(
    accuracy, count, np.bincount(predicted, minlength=num_classes)
  )
