"""per_example.npz: values of every example whose means are the metrics.

What a report resamples, beside the metrics.json of the same directory and of the
same checkpoint. Values of metrics that are no means of examples are those of
`lossbench.metrics.influence`; temperatures are held as fitted.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from lossbench.evaluation import predictions
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.files import write_arrays
from lossbench.evaluation.temperatures import Tempered
from lossbench.metrics.accuracy import top_k_correct
from lossbench.metrics.influence import (
  calibration_error_values,
  class_separation_values,
  mean_class_accuracy_values,
)
from lossbench.runs.records import Record
from lossbench.runtime import storage

FILE = 'per_example.npz'

Values = dict[str, np.ndarray]


def of_predictions(
  logits: np.ndarray,
  log_probs: np.ndarray,
  labels: np.ndarray,
  scaled: Sequence[Tempered],
) -> Values:
  """Values [N] of accuracies, NLL, ECE and Brier score, some after scaling.

  Args:
    logits: [N, K], which say what is predicted.
    log_probs: [N, K].
    labels: [N] int class ids in [0, K).
    scaled: log-probabilities after temperature scaling.
  """
  rows = np.arange(len(labels))
  correct = logits.argmax(axis=1) == labels
  probs = np.exp(log_probs.astype(np.float64))
  values = {
    'top1_accuracy': correct,
    'mean_class_accuracy': mean_class_accuracy_values(correct, labels),
    'brier_score': np.sum(probs**2, 1) - 2 * probs[rows, labels] + 1,
  }
  if logits.shape[1] > 5:
    values['top5_accuracy'] = np.asarray(top_k_correct(logits, labels, k=5))
  for prefix, found in (
    ('', log_probs),
    *((f'{fit.prefix}tempered_', fit.log_probs) for fit in scaled),
  ):
    if found is not None:
      values[f'{prefix}nll'] = -found[rows, labels]
      values[f'{prefix}ece'] = calibration_error_values(
        found.max(axis=1), correct, num_bins=predictions.NUM_BINS
      )
  return values


def of_subset(
  logits: np.ndarray, labels: np.ndarray, num_used_classes: int
) -> Values:
  """Values [N] of accuracy among only the classes that occur, if all do."""
  classes, within = np.unique(labels, return_inverse=True)
  if len(classes) != num_used_classes:
    return {}
  found = logits[:, classes].argmax(axis=1)
  return {'subset_top1_accuracy': found == within}


def of_mapped(
  logits: np.ndarray, is_label: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
  """Whether the largest logit among some classes is of a right one, bool [N].

  Args:
    logits: [N, K].
    is_label: [N, K] bool.
    classes: ids, ascending.
  """
  found = logits[:, classes].argmax(axis=1)
  return is_label[:, classes][np.arange(len(logits)), found]


def of_real_labels(logits: np.ndarray, is_label: np.ndarray) -> Values:
  """Values [N] of ReaL accuracy; an image without a label bears its mean.

  Args:
    logits: [N, K].
    is_label: [N, K] bool.
  """
  labelled = is_label.any(axis=1)
  if not labelled.any():
    return {}
  hits = is_label[np.arange(len(logits)), logits.argmax(axis=1)]
  mean = hits[labelled].mean()
  values = mean + labelled * (hits - mean) / labelled.mean()
  return {'real_accuracy': values.astype(np.float32)}


def of_features(sample: Collected, record: Record) -> Values:
  """Values [n] of class separation, and ids of their own.

  Args:
    sample: 'features' of all examples or of some.
    record: of class separation of all; values of some are moved to its mean.
  """
  if record.value is None:
    return {}
  try:
    values = class_separation_values(sample.arrays['features'], sample.labels)
  except ValueError:  # a class has no example in the sample
    return {}
  name = f'{record.name}/{record.endpoint}'
  values += record.value - values.mean()
  return {name: values.astype(np.float32), f'{name}/id': sample.ids}


def finite(values: Values) -> Values:
  """Values as they are written, without metrics that are undefined."""
  return {
    name: of_metric if of_metric.dtype == bool else of_metric.astype(np.float32)
    for name, of_metric in values.items()
    if np.isfinite(of_metric).all()
  }


def mean_of(members: Sequence[Values]) -> Values:
  """Mean values of data sets that are the same examples in the same order."""
  return {
    name: np.mean([values[name] for values in members], axis=0)
    for name in members[0]
    if all(name in values for values in members)
  }


def write(
  directory: storage.Path,
  ids: np.ndarray,
  values: Mapping[str, np.ndarray],
  **about,
):
  """Writes per_example.npz.

  Args:
    directory: of the metrics.json.
    ids: [N].
    values: metric -> [N]; of one whose examples are others, '<metric>/id' too.
    **about: of the checkpoint, as in metrics.json.
  """
  if jax.process_index() == 0:
    more = {f'about_{name}': np.array(value) for name, value in about.items()}
    write_arrays(directory / FILE, id=ids, **values, **more)
