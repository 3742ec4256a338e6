"""Calibration: likelihood and expected calibration error.

Everything here takes log-probabilities [N, K], which each objective supplies
from its own probability map (softmax of what its loss sees, normalised
sigmoids). Log-probabilities rather than probabilities, because float32 has no
numbers between 1 - 6e-8 and 1, and none under 1e-45.

A row that is no distribution (its probabilities do not sum to 1 within 1e-2)
is not scored: logits or probabilities passed by mistake, or a log-softmax taken
in bfloat16 (off by up to 3%: cast the logits to float32 first), make plain
functions NaN and `compute` a ValueError.
"""

import dataclasses
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, accuracy, checks


def negative_log_likelihood(
  log_probs: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None
) -> jax.Array:
  """Mean of -log p(label), in nats; lower is better.

  Args:
    log_probs: [N, K] log-probabilities, not logits.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.

  Returns:
    Scalar float32 >= 0; inf if a label has probability 0; NaN if nothing is
    counted, a log-probability is NaN, a row is no distribution or a label is
    not in [0, K).

  Raises:
    ValueError: if shapes disagree or labels are not integers.

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> print(f'{metrics.negative_log_likelihood(log_probs, [0, 1]):.3f}')
    0.511
  """
  nll, scorable = _nll_per_example(log_probs, labels)
  return accumulators.masked_mean(jnp.where(scorable, nll, jnp.nan), mask)


def expected_calibration_error(
  log_probs: ArrayLike,
  labels: ArrayLike,
  *,
  mask: ArrayLike | None = None,
  correct: ArrayLike | None = None,
  num_bins: int = 15,
) -> jax.Array:
  r"""Expected calibration error of the top-1 prediction; lower is better.

  Eq. 3 of Guo et al. 2017 (arXiv:1706.04599), bins ((m-1)/M, m/M]:
    ECE = sum_m |B_m|/N * |acc(B_m) - conf(B_m)|
  Confidences are put in bins by their logarithm: a log-confidence equal to
  float32(log(m/M)) is on the edge, and in the bin that ends there, on every
  platform, whatever its exp rounds to. Confidence 1 is in the last bin; the
  first also takes in 0. Ties for the top 1 go to the lower class id.

  Rounding makes ties: of two saturated sigmoids, or of logits that differ in
  their last digits, tempered. Who has the logits says what is `correct` by them,
  so that calibration and accuracy are of the same predictions.

  Args:
    log_probs: [N, K] log-probabilities, not probabilities.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.
    correct: [N], 1 = the prediction is right, by `accuracy.top_k_correct` of
      the raw logits; None: by the log-probabilities.
    num_bins: M; static under jit.

  Returns:
    Scalar float32, a fraction in [0, 1]; NaN if nothing is counted, a
    log-probability is NaN, a row is no distribution or a label is not in
    [0, K).

  Raises:
    ValueError: if shapes disagree, labels are not integers or num_bins < 1.

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> print(f'{metrics.expected_calibration_error(log_probs, [0, 1]):.3f}')
    0.350
  """
  bins = ExpectedCalibrationError.empty(num_bins=num_bins)
  bins = bins.update(log_probs, labels, mask, correct=correct)
  gaps = jnp.abs(bins.num_correct - bins.confidence_sum.on_device())
  error = jnp.sum(gaps) / jnp.sum(bins.num_examples)
  return jnp.where(bins.num_unscorable > 0, jnp.nan, error)


@flax.struct.dataclass
class NegativeLogLikelihood(accumulators.Accumulator):
  """Streaming mean of -log p(label), in nats; lower is better.

  Attributes:
    nll_sum: compensated float32 [].
    num_examples: int32 [].
    num_unscorable: int32 [], real rows that are no distribution or whose label
      is not in [0, K).
  """

  nll_sum: accumulators.CompensatedSum
  num_examples: jax.Array
  num_unscorable: jax.Array

  @classmethod
  def empty(cls) -> Self:
    """No examples."""
    return cls(
      nll_sum=accumulators.CompensatedSum.empty(),
      num_examples=jnp.zeros((), jnp.int32),
      num_unscorable=jnp.zeros((), jnp.int32),
    )

  def update(
    self, log_probs: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts log_probs [B, K], labels [B] where mask [B] is not 0."""
    nll, scorable = _nll_per_example(log_probs, labels)
    real = accumulators.real_rows(mask, nll.shape[0])
    return self.replace(
      nll_sum=self.nll_sum.add_rows(jnp.where(real & scorable, nll, 0.0)),
      num_examples=self.num_examples + accumulators.count(real),
      num_unscorable=self.num_unscorable + accumulators.count(real & ~scorable),
    )

  def compute(self) -> float:
    """Nats >= 0; inf if a label had probability 0; NaN if there was a NaN.

    Also NaN if nothing was counted.

    Raises:
      ValueError: if a real row was no distribution or its label no class id.
    """
    _check_all_scored(self)
    if not int(self.num_examples):
      return float('nan')
    return float(self.nll_sum.compute() / int(self.num_examples))


@dataclasses.dataclass(frozen=True)
class Reliability:
  """A reliability diagram: what each bin of top-1 confidence holds.

  All [M], NumPy; the means of an empty bin are NaN.

  Attributes:
    lower: the bin's lower edge, excluded.
    upper: its upper edge, included.
    num_examples: int64.
    confidence: mean confidence, a fraction.
    accuracy: share of correct predictions, a fraction.
  """

  lower: np.ndarray
  upper: np.ndarray
  num_examples: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


@flax.struct.dataclass
class ExpectedCalibrationError(accumulators.Accumulator):
  """Streaming `expected_calibration_error`, with its reliability diagram.

  Attributes:
    num_examples: int32 [M], by bin of top-1 confidence.
    num_correct: int32 [M].
    confidence_sum: compensated float32 [M].
    num_unscorable: int32 [], real rows that are no distribution or whose label
      is not in [0, K); they are in no bin.
  """

  num_examples: jax.Array
  num_correct: jax.Array
  confidence_sum: accumulators.CompensatedSum
  num_unscorable: jax.Array

  @classmethod
  def empty(cls, *, num_bins: int = 15) -> Self:
    """No examples in M = num_bins bins."""
    if num_bins < 1:
      raise ValueError(f'num_bins must be at least 1; got {num_bins}.')
    return cls(
      num_examples=jnp.zeros(num_bins, jnp.int32),
      num_correct=jnp.zeros(num_bins, jnp.int32),
      confidence_sum=accumulators.CompensatedSum.empty((num_bins,)),
      num_unscorable=jnp.zeros((), jnp.int32),
    )

  def update(
    self,
    log_probs: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None,
    *,
    correct: ArrayLike | None = None,
  ) -> Self:
    """Counts log_probs [B, K], labels [B] where mask [B] is not 0.

    Args:
      log_probs: [B, K].
      labels: [B].
      mask: [B].
      correct: [B], see `expected_calibration_error`.

    Raises:
      ValueError: if shapes disagree or labels are not integers.
    """
    scorable = _scorable(log_probs, labels)
    log_probs = jnp.asarray(log_probs, jnp.float32)
    labels = jnp.asarray(labels).astype(jnp.int32)
    real = accumulators.real_rows(mask, labels.shape[0])
    log_confidence = jnp.max(log_probs, axis=1)
    if correct is None:
      correct = jnp.argmax(log_probs, axis=1) == labels
    elif np.shape(correct) != labels.shape:
      raise ValueError(
        f'correct must be [{len(labels)}], one value per example; got '
        f'{np.shape(correct)}.'
      )
    # NaN, of a label that is no class, is in no bin.
    correct = jnp.asarray(correct) == 1
    in_bin = _in_bin(log_confidence, num_bins=self.num_examples.shape[0])
    counted = in_bin & (real & scorable)[:, None]  # [B, M]
    # A confidence a rounding error above 1 is 1.
    confidence = jnp.minimum(jnp.exp(log_confidence), 1.0)[:, None]
    return self.replace(
      num_examples=self.num_examples + accumulators.count(counted, axis=0),
      num_correct=self.num_correct
      + accumulators.count(counted & correct[:, None], axis=0),
      confidence_sum=self.confidence_sum.add_rows(
        jnp.where(counted, confidence, 0.0)
      ),
      num_unscorable=self.num_unscorable + accumulators.count(real & ~scorable),
    )

  def compute(self) -> float:
    """A fraction in [0, 1], lower is better; NaN if nothing was counted.

    Raises:
      ValueError: if a real row was no distribution or its label no class id.
    """
    _check_all_scored(self)
    num_examples = int(np.asarray(self.num_examples, np.int64).sum())
    if not num_examples:
      return float('nan')
    gaps = np.asarray(self.num_correct) - self.confidence_sum.compute()
    return float(np.abs(gaps).sum() / num_examples)

  def reliability(self) -> Reliability:
    """The bins behind the error; raises as `compute` does."""
    _check_all_scored(self)
    num_examples = np.asarray(self.num_examples, np.int64)
    edges = np.linspace(0.0, 1.0, len(num_examples) + 1)
    divisor = np.where(num_examples, num_examples, np.nan)
    return Reliability(
      lower=edges[:-1],
      upper=edges[1:],
      num_examples=num_examples,
      confidence=self.confidence_sum.compute() / divisor,
      accuracy=np.asarray(self.num_correct) / divisor,
    )


def _scorable(log_probs, labels):
  """[N] bool: the row is a distribution (or NaN) and its label a class."""
  checks.check_rows_and_labels(log_probs, labels)
  log_probs = jnp.asarray(log_probs, jnp.float32)
  excess = jnp.abs(jnp.sum(jnp.exp(log_probs), axis=1) - 1.0)
  # Not "excess <= tolerance": a NaN row is scored, and its score is NaN, so
  # that evaluating a diverged model reports NaN and does not stop the run.
  distribution = ~(excess > checks.SUM_TOLERANCE)
  known = accuracy.known_labels(labels, num_classes=log_probs.shape[1])
  return distribution & known


def _nll_per_example(log_probs, labels):
  scorable = _scorable(log_probs, labels)
  log_probs = jnp.asarray(log_probs, jnp.float32)
  nll = -accuracy.score_of_label(log_probs, labels)
  broken = jnp.any(jnp.isnan(log_probs), axis=1)
  return jnp.where(broken, jnp.nan, nll), scorable


def _in_bin(log_confidence, *, num_bins):
  """[N, M] bool: the bin ((m-1)/M, m/M] of each confidence; NaN: the first."""
  inner_edges = np.log(np.arange(1, num_bins) / num_bins).astype(np.float32)
  above = log_confidence[:, None] > inner_edges[None, :]
  index = accumulators.count(above, axis=1)
  return index[:, None] == jnp.arange(num_bins)[None, :]


def _check_all_scored(accumulator):
  num_bad = int(accumulator.num_unscorable)
  if num_bad:
    raise ValueError(
      f'{type(accumulator).__name__}: {num_bad} examples have probabilities '
      'that do not sum to 1, or a label that is not a class id in '
      '[0, num_classes). It takes log-probabilities (Objective.log_probs), '
      'in float32, not logits or probabilities.'
    )
