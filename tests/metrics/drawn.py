"""Predictions whose labels are drawn from them: calibrated when sharpness is 1."""

import numpy as np
from scipy import special

NUM_EXAMPLES, NUM_CLASSES = 300, 6


def draw_logits(*, sharpness=1.0, seed=0, num_examples=NUM_EXAMPLES):
  """Logits, and labels drawn from softmax(logits / sharpness)."""
  rng = np.random.default_rng(seed)
  logits = 2.0 * rng.normal(size=(num_examples, NUM_CLASSES))
  cumulative = np.cumsum(special.softmax(logits, axis=1), axis=1)
  labels = (rng.random((num_examples, 1)) > cumulative).sum(axis=1)
  return (sharpness * logits).astype(np.float32), labels


def draw_predictions(**kwargs):
  """Log-probabilities, and labels, of `draw_logits`."""
  logits, labels = draw_logits(**kwargs)
  log_probs = special.log_softmax(logits.astype(np.float64), axis=1)
  return log_probs.astype(np.float32), labels
