"""Files of a probe: predictions, the linear classifier, metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lossbench.evaluation import per_example
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.files import write_arrays
from lossbench.metrics.influence import mean_class_accuracy_values
from lossbench.probe import logistic_regression as regression
from lossbench.runs.directory import write_json


def write_correct(
  target,
  test: Collected,
  correct: Mapping[str, np.ndarray],
  *,
  source: Mapping[str, Any],
):
  """Writes which test examples are predicted right, for the bootstrap.

  Args:
    target: directory.
    test: the test examples.
    correct: prefix of metrics -> [N] whether, or how often.
    source: 'step' and 'checkpoint' of what made the features, where known.
  """
  values = {}
  for prefix, right in correct.items():
    values[f'{prefix}top1_accuracy'] = right
    values[f'{prefix}mean_class_accuracy'] = mean_class_accuracy_values(
      right, test.labels
    )
  per_example.write(
    target,
    test.ids,
    values,
    **{k: source[k] for k in ('step', 'checkpoint') if k in source},
  )


def write_results(
  target,
  test: Collected,
  final: regression.Fit,
  metrics: dict[str, Any],
  correct: Mapping[str, np.ndarray],
):
  """Writes predictions, classifier and metrics; the last says it is whole.

  Args:
    target: directory.
    test: 'features' of the test data.
    final: the linear classifier.
    metrics: of all protocols.
    correct: prefix of the metrics of another protocol -> [N] of each example.
  """
  logits = test.arrays['features'] @ final.weights.T + final.bias
  prediction = regression.predict(final, test.arrays['features'])
  write_arrays(
    target / 'predictions.npz',
    id=test.ids,
    label=test.labels,
    # What is measured: of logits in float64, which float32 may round to ties.
    prediction=prediction,
    logits=logits.astype(np.float32),
  )
  write_arrays(
    target / 'classifier.npz',
    weights=final.weights,
    bias=final.bias,
    l2=final.l2,
  )
  write_correct(
    target, test, {'': prediction == test.labels, **correct}, source=metrics
  )
  write_json(target / 'metrics.json', metrics)
