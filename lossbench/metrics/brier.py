"""The Brier score: squared error of the whole predicted distribution.

Takes log-probabilities [N, K], as `calibration` does, and treats rows that are
no distribution and labels that are no class as it does.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, accuracy, calibration


def brier_score(
  log_probs: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None
) -> jax.Array:
  """Mean of sum_k (p_k - [k = label])^2; lower is better.

  Brier 1950 (Monthly Weather Review 78), in its original, K-class form: for two
  classes it is twice the mean of (p - y)^2.

  Args:
    log_probs: [N, K] log-probabilities, not logits.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.

  Returns:
    Scalar float32 in [0, 2]; (K - 1) / K for uniform predictions. NaN if
    nothing is counted, a log-probability is NaN, a row is no distribution or a
    label is not in [0, K).

  Raises:
    ValueError: if shapes disagree or labels are not integers.

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> print(f'{metrics.brier_score(log_probs, [0, 1]):.3f}')
    0.370
  """
  score, scorable = _per_example(log_probs, labels)
  return accumulators.masked_mean(jnp.where(scorable, score, jnp.nan), mask)


@flax.struct.dataclass
class BrierScore(accumulators.Accumulator):
  """Streaming `brier_score`.

  Attributes:
    score_sum: compensated float32 [].
    num_examples: int32 [].
    num_unscorable: int32 [], real rows that are no distribution or whose label
      is not in [0, K).
  """

  score_sum: accumulators.CompensatedSum
  num_examples: jax.Array
  num_unscorable: jax.Array

  @classmethod
  def empty(cls) -> Self:
    """No examples."""
    return cls(
      score_sum=accumulators.CompensatedSum.empty(),
      num_examples=jnp.zeros((), jnp.int32),
      num_unscorable=jnp.zeros((), jnp.int32),
    )

  def update(
    self, log_probs: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts log_probs [B, K], labels [B] where mask [B] is not 0."""
    score, scorable = _per_example(log_probs, labels)
    real = accumulators.real_rows(mask, score.shape[0])
    return self.replace(
      score_sum=self.score_sum.add_rows(jnp.where(real & scorable, score, 0.0)),
      num_examples=self.num_examples + accumulators.count(real),
      num_unscorable=self.num_unscorable + accumulators.count(real & ~scorable),
    )

  def compute(self) -> float:
    """The score in [0, 2], lower is better; NaN of a NaN or of nothing.

    Raises:
      ValueError: if a real row was no distribution or its label no class id.
    """
    calibration._check_all_scored(self)
    if not int(self.num_examples):
      return float('nan')
    return float(self.score_sum.compute() / int(self.num_examples))


def _per_example(log_probs, labels):
  scorable = calibration._scorable(log_probs, labels)
  log_probs = jnp.asarray(log_probs, jnp.float32)
  is_label = (
    jnp.asarray(labels).astype(jnp.int32)[:, None]
    == jnp.arange(np.shape(log_probs)[1])[None, :]
  )
  # 1 - p from the logarithm: float32 probabilities next to 1 have no digits.
  miss = -jnp.expm1(accuracy.score_of_label(log_probs, labels))
  others = jnp.where(is_label, 0.0, jnp.exp(log_probs))
  score = jnp.minimum(miss**2 + jnp.sum(others**2, axis=1), 2.0)
  broken = jnp.any(jnp.isnan(log_probs), axis=1)
  return jnp.where(broken, jnp.nan, score), scorable
