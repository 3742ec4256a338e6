r"""Calibration errors beside ECE: class-wise, and with bins of equal mass.

Nixon et al. 2019 (arXiv:1904.01685). ECE looks at the top-1 probability only,
and its equal-width bins are mostly empty for a confident model. The static
calibration error (class-wise ECE) bins every class's probability; the adaptive
ones put the same number of examples in every bin.

Bins of equal mass need all probabilities at once, sorted: those errors are
plain functions, for saved predictions. All take log-probabilities, and treat
rows that are no distribution and labels that are no class as `calibration`.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, calibration, checks


def classwise_calibration_error(
  log_probs: ArrayLike,
  labels: ArrayLike,
  *,
  mask: ArrayLike | None = None,
  num_bins: int = 15,
) -> jax.Array:
  r"""Static (class-wise) calibration error; lower is better.

  Nixon et al. 2019, eq. 4, bins ((b-1)/B, b/B], the first with 0:
    SCE = 1/K sum_k sum_b n_bk / N |acc(b, k) - conf(b, k)|
  acc(b, k) is the share of examples of class k among those whose p_k is in the
  bin. With many classes it is small, of the order of 1/K: most p_k are.

  Args:
    log_probs: [N, K] log-probabilities, not probabilities.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.
    num_bins: B; static under jit.

  Returns:
    Scalar float32, a fraction in [0, 1]; NaN if nothing is counted, a
    log-probability is NaN, a row is no distribution or a label is not in
    [0, K).

  Raises:
    ValueError: if shapes disagree, labels are not integers or num_bins < 1.

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> print(f'{metrics.classwise_calibration_error(log_probs, [0, 1]):.3f}')
    0.350
  """
  checks.check_rows_and_labels(log_probs, labels)
  bins = ClasswiseCalibrationError.empty(
    np.shape(log_probs)[1], num_bins=num_bins
  )
  bins = bins.update(log_probs, labels, mask)
  gaps = jnp.abs(bins.num_of_class - bins.probability_sum.on_device())
  # Every example is in one bin of every class.
  error = jnp.mean(jnp.sum(gaps, axis=1)) / jnp.sum(bins.num_examples[0])
  return jnp.where(bins.num_unscorable > 0, jnp.nan, error)


@flax.struct.dataclass
class ClasswiseCalibrationError(accumulators.Accumulator):
  """Streaming `classwise_calibration_error`, with its reliability diagrams.

  Memory: 16 K B bytes.

  Attributes:
    num_examples: int32 [K, B], examples by bin of each class's probability.
    num_of_class: int32 [K, B], those of them whose label is the class.
    probability_sum: compensated float32 [K, B].
    num_unscorable: int32 [], real rows that are no distribution or whose label
      is not in [0, K); they are in no bin.
  """

  num_examples: jax.Array
  num_of_class: jax.Array
  probability_sum: accumulators.CompensatedSum
  num_unscorable: jax.Array

  @classmethod
  def empty(cls, num_classes: int, *, num_bins: int = 15) -> Self:
    """No examples of K = num_classes >= 2 in B = num_bins >= 1 bins."""
    if num_bins < 1 or num_classes < 2:
      raise ValueError(
        'Class-wise calibration needs num_bins >= 1 and num_classes >= 2; got '
        f'{num_bins} and {num_classes}.'
      )
    shape = (num_classes, num_bins)
    return cls(
      num_examples=jnp.zeros(shape, jnp.int32),
      num_of_class=jnp.zeros(shape, jnp.int32),
      probability_sum=accumulators.CompensatedSum.empty(shape),
      num_unscorable=jnp.zeros((), jnp.int32),
    )

  def update(
    self, log_probs: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts log_probs [B, K], labels [B] where mask [B] is not 0."""
    scorable = calibration._scorable(log_probs, labels)
    num_classes, num_bins = self.num_examples.shape
    if np.shape(log_probs)[1] != num_classes:
      raise ValueError(
        f'Expected log_probs [batch, {num_classes}]; got {np.shape(log_probs)}.'
      )
    log_probs = jnp.asarray(log_probs, jnp.float32)
    labels = jnp.asarray(labels).astype(jnp.int32)
    real = accumulators.real_rows(mask, labels.shape[0])
    counted = (real & scorable)[:, None]
    is_label = labels[:, None] == jnp.arange(num_classes)[None, :]
    # A probability a rounding error above 1 is 1; NaN is to be seen.
    probs = jnp.exp(jnp.minimum(log_probs, 0.0))
    index = _bin_index(log_probs, num_bins=num_bins)

    def fill(b):
      inside = counted & (index == b)  # [B, K]
      return (
        accumulators.count(inside, axis=0),
        accumulators.count(inside & is_label, axis=0),
        jnp.sum(jnp.where(inside, probs, 0.0), axis=0),
      )

    # Bin by bin: [B, K, bins] would be the largest array of the whole step.
    filled = jax.lax.map(fill, jnp.arange(num_bins))
    num_examples, num_of_class, sums = (part.T for part in filled)
    return self.replace(
      num_examples=self.num_examples + num_examples,
      num_of_class=self.num_of_class + num_of_class,
      probability_sum=self.probability_sum.add(sums),
      num_unscorable=self.num_unscorable + accumulators.count(real & ~scorable),
    )

  def compute(self) -> float:
    """A fraction in [0, 1], lower is better; NaN if nothing was counted.

    Raises:
      ValueError: if a real row was no distribution or its label no class id.
    """
    calibration._check_all_scored(self)
    total = int(np.asarray(self.num_examples, np.int64).sum())  # N K
    if not total:
      return float('nan')
    gaps = np.asarray(self.num_of_class) - self.probability_sum.compute()
    return float(np.abs(gaps).sum() / total)

  def reliability(self) -> calibration.Reliability:
    """The bins behind the error, arrays [K, B] but for the edges, [B]."""
    calibration._check_all_scored(self)
    num_examples = np.asarray(self.num_examples, np.int64)
    edges = np.linspace(0.0, 1.0, num_examples.shape[1] + 1)
    divisor = np.where(num_examples, num_examples, np.nan)
    return calibration.Reliability(
      lower=edges[:-1],
      upper=edges[1:],
      num_examples=num_examples,
      confidence=self.probability_sum.compute() / divisor,
      accuracy=np.asarray(self.num_of_class) / divisor,
    )


def adaptive_calibration_error(
  log_probs: ArrayLike,
  labels: ArrayLike,
  *,
  correct: ArrayLike | None = None,
  num_bins: int = 15,
) -> float:
  """ECE of the top-1 prediction with bins of equal mass; lower is better.

  As `calibration.expected_calibration_error`, but bin m holds the m-th of
  num_bins parts of the examples by confidence; parts differ in size by at most
  one. Examples of the same confidence are ordered as they came: any other order
  has as much right, and ties do move the error a little.

  Args:
    log_probs: [N, K] log-probabilities, not probabilities.
    labels: [N] int class ids in [0, K).
    correct: [N], as in `calibration.expected_calibration_error`.
    num_bins: at most N.

  Returns:
    A fraction in [0, 1], float64; NaN if there was a NaN.

  Raises:
    ValueError: if shapes disagree, labels are not integers in [0, K), a row is
      no distribution, or num_bins is not in [1, N].

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> error = metrics.adaptive_calibration_error(log_probs, [0, 1], num_bins=1)
    >>> print(f'{error:.3f}')
    0.250
  """
  log_probs, labels = _check(log_probs, labels, num_bins=num_bins)
  if np.isnan(log_probs).any():
    return float('nan')
  if correct is None:
    correct = log_probs.argmax(axis=1) == labels
  confidence = np.exp(np.minimum(log_probs.max(axis=1), 0.0))
  return equal_mass_error(confidence, correct, num_bins=num_bins)


def adaptive_classwise_error(
  log_probs: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> float:
  """Adaptive calibration error of all classes (ACE); lower is better.

  Nixon et al. 2019, eq. 5: the mean over classes of `adaptive_calibration_error`
  of p_k and [label = k], with num_bins ranges of equal mass of each class. (The
  paper gives ranges the same weight, here each example: the same, but where
  num_bins does not divide N.)

  Args:
    log_probs: [N, K] log-probabilities, not probabilities.
    labels: [N] int class ids in [0, K).
    num_bins: at most N.

  Returns:
    A fraction in [0, 1], float64; NaN if there was a NaN.

  Raises:
    ValueError: as `adaptive_calibration_error`.

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> error = metrics.adaptive_classwise_error(log_probs, [0, 1], num_bins=1)
    >>> print(f'{error:.3f}')
    0.250
  """
  log_probs, labels = _check(log_probs, labels, num_bins=num_bins)
  if np.isnan(log_probs).any():
    return float('nan')
  errors = [
    equal_mass_error(
      np.exp(np.minimum(log_probs[:, k], 0.0)), labels == k, num_bins=num_bins
    )
    for k in range(log_probs.shape[1])
  ]
  return float(np.mean(errors))


def _bin_index(log_probs, *, num_bins):
  """Bin ((b-1)/B, b/B] of each probability, int32, 0-based; NaN: the first."""
  # By logarithms, as in calibration: edges do not depend on exp's rounding.
  edges = np.log(np.arange(1, num_bins) / num_bins).astype(np.float32)
  # side='left': an edge belongs to the bin that ends there.
  index = jnp.searchsorted(jnp.asarray(edges), log_probs, side='left')
  return jnp.where(jnp.isnan(log_probs), 0, index)


def _check(log_probs, labels, *, num_bins):
  checks.check_rows_and_labels(log_probs, labels)
  log_probs, labels = np.asarray(log_probs, np.float64), np.asarray(labels)
  num_examples, num_classes = log_probs.shape
  if not 1 <= num_bins <= num_examples:
    raise ValueError(
      'Bins of equal mass: num_bins must be in [1, num_examples = '
      f'{num_examples}]; got {num_bins}.'
    )
  excess = np.abs(np.exp(log_probs).sum(axis=1) - 1.0)
  bad = (excess > checks.SUM_TOLERANCE) | (labels < 0) | (labels >= num_classes)
  if bad.any():
    raise ValueError(
      f'{int(bad.sum())} of {num_examples} examples have probabilities that do '
      'not sum to 1, or a label that is not a class id in [0, num_classes). '
      'Pass log-probabilities, not logits or probabilities.'
    )
  return log_probs, labels


def equal_mass_error(
  confidence: ArrayLike, correct: ArrayLike, *, num_bins: int = 15
) -> float:
  """The error with bins of equal mass of any confidences; lower is better.

  Args:
    confidence: [N] probabilities of what was predicted.
    correct: [N] bool, whether it was right.
    num_bins: in [1, N].

  Returns:
    A fraction in [0, 1], float64.

  Raises:
    ValueError: if shapes disagree or num_bins is not in [1, N].
  """
  confidence = np.asarray(confidence, np.float64)
  correct = np.asarray(correct)
  if confidence.ndim != 1 or correct.shape != confidence.shape:
    raise ValueError(
      'Expected confidence and correct [num_examples]; got '
      f'{confidence.shape} and {correct.shape}.'
    )
  if not 1 <= num_bins <= len(confidence):
    raise ValueError(
      'Bins of equal mass: num_bins must be in [1, num_examples = '
      f'{len(confidence)}]; got {num_bins}.'
    )
  num_examples = len(confidence)
  order = np.argsort(confidence, kind='stable')
  gaps = (confidence - correct)[order]
  starts = np.arange(num_bins) * num_examples // num_bins
  return float(np.abs(np.add.reduceat(gaps, starts)).sum() / num_examples)
