"""Top-1, top-5, NLL and ECE of logits: one way to fill them, for all.

Training on its holdout, evaluation and scores of stored logits. What has no
logits fills nothing here: ensembles predict from probabilities in float64, the
probe from fits in float64.
"""

import jax

from lossbench.metrics.accumulators import Accumulator
from lossbench.metrics.accuracy import Accuracy, top_k_correct
from lossbench.metrics.calibration import (
  ExpectedCalibrationError,
  NegativeLogLikelihood,
)

NUM_BINS = 15  # of ECE, as in the paper

Accumulators = dict[str, Accumulator]


def empty(num_classes: int) -> Accumulators:
  """Metric -> empty accumulator; top-5 of more than five classes."""
  accumulators = {
    'top1_accuracy': Accuracy.empty(k=1),
    'top5_accuracy': Accuracy.empty(k=5),
    'nll': NegativeLogLikelihood.empty(),
    'ece': ExpectedCalibrationError.empty(num_bins=NUM_BINS),
  }
  if num_classes <= 5:  # then the top 5 are always right
    del accumulators['top5_accuracy']
  return accumulators


def update(
  accumulators: Accumulators,
  logits: jax.Array,
  log_probs: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
) -> Accumulators:
  """Counts a batch; jittable.

  Args:
    accumulators: of `empty`, and others that take log-probabilities.
    logits: [B, K].
    log_probs: [B, K], by the objective's own map.
    labels: [B] int class ids.
    mask: [B], 1 = real, 0 = padding.
  """
  # The logits tell what is predicted: where sigmoids saturate, distinct logits
  # get the same probability.
  more = {'ece': {'correct': top_k_correct(logits, labels, k=1)}}
  return {
    name: accumulator.update(
      logits if isinstance(accumulator, Accuracy) else log_probs,
      labels,
      mask,
      **more.get(name, {}),
    )
    for name, accumulator in accumulators.items()
  }
