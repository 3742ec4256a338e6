"""Calibration: likelihood, expected calibration error, temperature scaling.

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
from scipy import optimize

from lossbench.metrics import accumulators, accuracy, checks
from lossbench.objectives.losses import log_softmax


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
  """
  bins = ExpectedCalibrationError.empty(num_bins=num_bins)
  bins = bins.update(log_probs, labels, mask, correct=correct)
  gaps = jnp.abs(bins.num_correct - bins.confidence_sum.on_device())
  error = jnp.sum(gaps) / jnp.sum(bins.num_examples)
  return jnp.where(bins.num_unscorable > 0, jnp.nan, error)


def temper(log_probs: ArrayLike, temperature: ArrayLike) -> jax.Array:
  """log_softmax(log_probs / T): p^(1/T), normalised.

  With log_probs = log_softmax(logits) this is log_softmax(logits / T), the
  temperature scaling of Guo et al. 2017. For any other probability map (the
  normalised sigmoid) it tempers the normalised distribution, and not the
  logits before the map: one definition for all objectives (Table B.3).
  Accuracy is unchanged, for the order of the classes is, but for ties that
  rounding makes: take it from the logits.

  Args:
    log_probs: [N, K] log-probabilities; logits of a softmax will do too. -inf
      (probability 0) stays -inf.
    temperature: T > 0, a scalar; > 1 softens, < 1 sharpens, 1 changes nothing.
      May be traced.

  Returns:
    [N, K] float32 log-probabilities, precise to the last digit also where a
    class has almost all the probability.

  Raises:
    ValueError: if shapes are wrong, or T is a number on the host and not in
      (0, inf).
  """
  if np.ndim(log_probs) != 2 or np.ndim(temperature) != 0:
    raise ValueError(
      'Expected log_probs [num_examples, num_classes] and a scalar '
      f'temperature; got {np.shape(log_probs)} and {np.shape(temperature)}.'
    )
  if not isinstance(temperature, jax.Array):
    _check_temperatures(temperature=temperature)
  return _tempered(jnp.asarray(log_probs, jnp.float32), 1.0 / temperature)


def fit_temperature(
  log_probs: ArrayLike,
  labels: ArrayLike,
  *,
  mask: ArrayLike | None = None,
  bounds: tuple[float, float] = (1e-2, 1e2),
  chunk_size: int = 4096,
) -> float:
  """The temperature that minimises the NLL of `temper(log_probs, T)`.

  The mean NLL is convex in b = 1/T, with derivative
    d NLL / d b = mean_n (E_{p_b}[z_n] - z_n,label),   z = log_probs,
  so its root is bracketed by the bounds and found in log T by Brent's method,
  which cannot diverge or step to a negative T, as gradient steps on T can.

  Fit on held-out data that trained nothing, and apply to the test set.

  Args:
    log_probs: [N, K], host or device; logits of a softmax will do too. -inf is
      allowed for wrong classes: their probability is 0 at every T.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.
    bounds: lowest and highest T.
    chunk_size: rows evaluated at a time; device memory is a few times
      chunk_size * K floats. The last chunk is padded, so that the program
      compiles once.

  Returns:
    T within bounds, to about 1e-6 relative. A bound, if the optimum is at or
    beyond it: the lower where every prediction is right (the NLL falls for
    ever as T -> 0), the higher where predictions are worse than uniform. Where
    T changes nothing (uniform or one-hot rows) the T in bounds nearest to 1.

  Raises:
    ValueError: if shapes disagree, there are no examples, a log-probability is
      NaN or +inf, a label is not in [0, K) or has log-probability -inf (the
      NLL is then infinite at every T), or bounds or chunk_size make no sense.
  """
  checks.check_rows_and_labels(log_probs, labels)
  lowest, highest = bounds
  _check_temperatures(lowest=lowest, highest=highest)
  if not lowest < highest or chunk_size < 1:
    raise ValueError(
      'Expected bounds (lowest, highest) in increasing order and chunk_size '
      f'>= 1; got {bounds} and {chunk_size}.'
    )
  log_probs, labels = np.asarray(log_probs, np.float32), np.asarray(labels)
  real = np.asarray(accumulators.real_rows(mask, labels.shape[0]))
  if not real.all():
    log_probs, labels = log_probs[real], labels[real]
  chunks = _chunks(log_probs, labels, chunk_size=chunk_size)
  for chunk in chunks:
    _check_values(*chunk, num_classes=log_probs.shape[1])

  def slope(log_temperature: float) -> float:
    inverse = np.float32(np.exp(-log_temperature))
    total = 0.0
    for rows, row_labels in chunks:
      short = chunk_size - len(row_labels)
      slopes = _slope_per_example(
        np.pad(rows, ((0, short), (0, 0))),
        np.pad(row_labels, (0, short)).astype(np.int32),
        inverse,
      )
      slopes = np.asarray(slopes)[: len(row_labels)]
      total += float(slopes.sum(dtype=np.float64))
    return total / len(labels)

  # A convex function's slope in 1/T grows from the highest T to the lowest.
  cold, hot = slope(np.log(lowest)), slope(np.log(highest))
  if cold == 0 and hot == 0:
    return float(np.clip(1.0, lowest, highest))
  if cold <= 0:
    return float(lowest)
  if hot >= 0:
    return float(highest)
  root = optimize.brentq(slope, np.log(lowest), np.log(highest), xtol=1e-8)
  return float(np.clip(np.exp(root), lowest, highest))


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


def _tempered(log_probs, inverse_temperature):
  # Subtract, then scale. The other way round XLA contracts the product and the
  # difference in log_softmax to a fused multiply-add, and the top is not 0.
  shifted = log_probs - jnp.max(log_probs, axis=1, keepdims=True)
  return log_softmax(shifted * inverse_temperature)


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


def _check_temperatures(**temperatures):
  for name, value in temperatures.items():
    if not 0 < value < np.inf:
      raise ValueError(f'{name} must be a temperature in (0, inf); got {value}')


def _chunks(log_probs, labels, *, chunk_size):
  if not len(labels):
    raise ValueError('There are no examples to fit a temperature to.')
  return [
    (log_probs[i : i + chunk_size], labels[i : i + chunk_size])
    for i in range(0, len(labels), chunk_size)
  ]


def _check_values(rows, labels, *, num_classes):
  if np.isnan(rows).any() or np.isposinf(rows).any():
    raise ValueError('log_probs has NaN or +inf entries: did the run diverge?')
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
      f'labels must be class ids in [0, {num_classes}); they span '
      f'[{labels.min()}, {labels.max()}].'
    )
  if np.isneginf(np.take_along_axis(rows, labels[:, None], axis=1)).any():
    raise ValueError(
      'A label has log-probability -inf: the NLL is infinite at every '
      'temperature.'
    )


@jax.jit
def _slope_per_example(log_probs, labels, inverse_temperature):
  """d NLL_n / d (1/T) = sum_k p_k (z_k - z_label), [N]."""
  probs = jnp.exp(_tempered(log_probs, inverse_temperature))
  label_score = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
  # Differences to the label's score do not cancel when p_label is close to 1;
  # an impossible class (-inf) has p = 0 and no say.
  gaps = jnp.where(log_probs > -jnp.inf, log_probs - label_score, 0.0)
  return jnp.sum(probs * gaps, axis=1)
