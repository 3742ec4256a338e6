"""Values of examples whose mean is a metric that is no mean of examples.

To bootstrap a metric over examples is to weigh them anew. To first order a
metric T moves, when the weights w of N examples move from 1/N, by its empirical
influence function I_n = N dT/dw_n (Efron 1982, The Jackknife, the Bootstrap and
Other Resampling Plans, chapter 6), so that T + I_n are values of examples whose
mean is T and whose resampled means have the spread of T: accuracies, calibration
errors and class separation are treated alike, and none is computed again for
every resample. In float64 NumPy.
"""

import numpy as np
from numpy.typing import ArrayLike

from lossbench.metrics.features import as_features, as_labels, class_means


def calibration_error_values(
  log_confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = 15
) -> np.ndarray:
  """Values whose mean is the expected calibration error.

  With G_b the sum of (correct - confidence) over bin b, ECE = sum_b |G_b| / N,
  and the value of an example in b is sign(G_b) (correct - confidence).

  Args:
    log_confidence: [N], the logarithm of the top-1 probability.
    correct: [N], whether that prediction is right.
    num_bins: M; bins are those of `calibration.expected_calibration_error`.

  Returns:
    [N] float64; NaN where a log-confidence is NaN.

  Raises:
    ValueError: if the lengths differ.
  """
  log_confidence, correct = np.asarray(log_confidence), np.asarray(correct)
  if log_confidence.ndim != 1 or log_confidence.shape != correct.shape:
    raise ValueError(
      'Expected log_confidence and correct, both [num_examples]; got '
      f'{log_confidence.shape} and {correct.shape}.'
    )
  edges = np.log(np.arange(1, num_bins) / num_bins).astype(np.float32)
  bins = np.searchsorted(edges, log_confidence.astype(np.float32), side='left')
  gaps = correct - np.minimum(np.exp(log_confidence.astype(np.float64)), 1.0)
  return np.sign(np.bincount(bins, gaps, num_bins))[bins] * gaps


def mean_class_accuracy_values(
  correct: ArrayLike, labels: ArrayLike
) -> np.ndarray:
  """Values whose mean is the mean over the classes that occur of accuracies.

  With A_k the accuracy of class k, of N_k examples, and A the mean of the K,
  I_n = N / (K N_k) (correct_n - A_k).

  Args:
    correct: [N], whether the prediction is right.
    labels: [N] int class ids.

  Returns:
    [N] float64.

  Raises:
    ValueError: if the lengths differ.
  """
  correct = np.asarray(correct, np.float64)
  _, classes, counts = np.unique(
    np.asarray(labels), return_inverse=True, return_counts=True
  )
  if correct.shape != classes.shape or correct.ndim != 1:
    raise ValueError(
      'Expected correct and labels, both [num_examples]; got '
      f'{correct.shape} and {classes.shape}.'
    )
  accuracy = np.bincount(classes, correct) / counts
  scale = len(correct) / (len(counts) * counts[classes])
  return accuracy.mean() + scale * (correct - accuracy[classes])


def class_separation_values(
  features: ArrayLike, labels: ArrayLike
) -> np.ndarray:
  """Values whose mean is the class separation R^2 of the classes that occur.

  With x_n unit embeddings, u_k their class means, u the mean of these,
  W = mean_k ||u_k||^2 and B = ||u||^2, R^2 = 1 - (1 - W) / (1 - B); in class k
    dW_n = 2 N / (K N_k) u_k . (x_n - u_k),  dB_n = 2 N / (K N_k) u . (x_n - u_k)
    I_n = (dW_n (1 - B) - (1 - W) dB_n) / (1 - B)^2.

  Args:
    features: [N, M] embeddings; an all-zero row has cosine 0 to everything.
    labels: [N] int class ids.

  Returns:
    [N] float64; NaN if all embeddings have the same direction.

  Raises:
    ValueError: if shapes disagree, there are fewer than two classes, or a
      feature is NaN or infinite.
  """
  features = as_features(features)
  labels, num_classes = as_labels(
    labels, num_examples=len(features), num_classes=None
  )
  scale = np.abs(features).max(axis=1, keepdims=True)
  unit = features / np.where(scale > 0, scale, 1.0)
  norms = np.linalg.norm(unit, axis=1, keepdims=True)
  unit = unit / np.where(norms > 0, norms, 1.0)
  counts = np.bincount(labels, minlength=num_classes)
  means = class_means(unit, labels, num_classes=num_classes)
  center = means.mean(axis=0)
  within = 1.0 - np.mean(np.sum(means**2, axis=1))
  overall = 1.0 - center @ center
  if overall <= 1e-14:
    return np.full(len(labels), np.nan)
  deviation = unit - means[labels]
  weight = 2 * len(labels) / (num_classes * counts[labels])
  d_within = -weight * np.einsum('nm,nm->n', means[labels], deviation)
  d_overall = -weight * (deviation @ center)
  influence = (within * d_overall - d_within * overall) / overall**2
  return 1.0 - within / overall + influence
