"""What predictions of models say of one another, and comparison.json."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lossbench.comparison.ensembles import (
  Group,
  Predictions,
  clustering,
  compare_ensembles,
)
from lossbench.metrics import agreement
from lossbench.runs.directory import write_json
from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER


def compare_predictions(
  groups: Sequence[Group], predictions: Predictions
) -> dict[str, Any]:
  """Agreement of every two models, their clustering, and ensembles."""
  pairwise = agreement.pairwise_agreement(predictions.top1, predictions.labels)
  return {
    'agreement': {
      'same_top1': pairwise.same_top1,
      'both_right_or_wrong': pairwise.both_right_or_wrong,
      'same_when_both_wrong': pairwise.same_when_both_wrong,
      'num_both_wrong': pairwise.num_both_wrong,
    },
    'clustering': clustering(pairwise.same_top1),
    'ensembles': compare_ensembles(groups, predictions),
  }


def _jsonable(value: Any) -> Any:
  """NumPy to JSON's types; NaN, which JSON lacks, to null."""
  if isinstance(value, np.ndarray):
    return _jsonable(value.tolist())
  if isinstance(value, dict):
    return {name: _jsonable(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_jsonable(item) for item in value]
  if isinstance(value, float) and np.isnan(value):
    return None
  return value.item() if isinstance(value, np.generic) else value


def write_comparison(
  directory: storage.Path, result: dict[str, Any]
) -> dict[str, Any]:
  """Writes comparison.json; returns what is in it."""
  result = _jsonable(result)
  if jax.process_index() == 0:
    write_json(directory / 'comparison.json', result)
    LOGGER.info('Wrote %s', directory / 'comparison.json')
  return result
