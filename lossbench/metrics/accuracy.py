"""Top-k accuracy. Fractions in [0, 1]; higher is better."""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossbench.metrics import accumulators, checks


def known_labels(labels: ArrayLike, *, num_classes: int) -> jax.Array:
  """Which labels lie in [0, num_classes); bool, the shape of labels."""
  labels = jnp.asarray(labels).astype(jnp.int32)
  return (labels >= 0) & (labels < num_classes)


def score_of_label(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
  """scores[n, labels[n]], [N]; NaN where the label is not a class.

  Indexing would wrap a label of -1 to the last class and say nothing.
  """
  scores = jnp.asarray(scores)
  num_classes = scores.shape[1]
  known = known_labels(labels, num_classes=num_classes)
  safe = jnp.where(known, jnp.asarray(labels).astype(jnp.int32), 0)
  score = jnp.take_along_axis(scores, safe[:, None], axis=1)[:, 0]
  return jnp.where(known, score, jnp.nan)


def top_k_correct(logits: ArrayLike, labels: ArrayLike, *, k: int) -> jax.Array:
  """Whether the label is among the k classes with the highest logits.

  Ties go to the lower class id, as in argmax and jax.lax.top_k: so the top 1
  here is the prediction that every other measure uses (agreement, calibration,
  saved predictions), and constant logits get k/K on balanced classes, not 100%.

  A row with a NaN is wrong, and so is a label whose logit is -inf: a class that
  was ruled out is nobody's guess.

  Args:
    logits: [N, K] scores; log-probabilities will do, only the order counts.
    labels: [N] int class ids in [0, K).
    k: 1 <= k < K; static under jit.

  Returns:
    [N] float32: 1 = correct, 0 = wrong, NaN = the label is not in [0, K).

  Raises:
    ValueError: if shapes disagree, labels are not integers, or k is not in
      [1, K): with k = K everything is correct, and so nothing is measured.

  Example:
    >>> print(metrics.top_k_correct([[3.0, 2.0, 1.0]], [1], k=2))
    [1.]
  """
  checks.check_rows_and_labels(logits, labels)
  logits = jnp.asarray(logits)
  num_classes = logits.shape[1]
  if not 1 <= k < num_classes:
    raise ValueError(
      f'Top-{k} accuracy needs 1 <= k < number of classes = {num_classes}: '
      f'among {num_classes} classes the top {num_classes} are always right. '
      'Leave the metric out for this dataset.'
    )
  score = score_of_label(logits, labels)[:, None]  # [N, 1]
  earlier = (
    jnp.arange(num_classes)[None, :]
    < jnp.asarray(labels).astype(jnp.int32)[:, None]
  )  # [N, K]
  ahead = (logits > score) | ((logits == score) & earlier)
  rank = accumulators.count(ahead, axis=1)
  usable = (score[:, 0] > -jnp.inf) & ~jnp.any(jnp.isnan(logits), axis=1)
  correct = (usable & (rank < k)).astype(jnp.float32)
  known = known_labels(labels, num_classes=num_classes)
  return jnp.where(known, correct, jnp.nan)


def top1_accuracy(
  logits: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None
) -> jax.Array:
  """Share of examples whose highest logit is the label's; higher is better.

  Args:
    logits: [N, K] scores.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.

  Returns:
    Scalar float32, a fraction in [0, 1]; NaN if nothing is counted or a label
    is not in [0, K). Ties and NaN logits: see `top_k_correct`.

  Raises:
    ValueError: if shapes disagree or K < 2.

  Example:
    >>> float(metrics.top1_accuracy([[2.0, 1.0], [0.0, 3.0]], [0, 0]))
    0.5
  """
  return accumulators.masked_mean(top_k_correct(logits, labels, k=1), mask)


def top5_accuracy(
  logits: ArrayLike, labels: ArrayLike, *, mask: ArrayLike | None = None
) -> jax.Array:
  """Share of examples with the label among the top 5; higher is better.

  Args:
    logits: [N, K] scores.
    labels: [N] int class ids in [0, K).
    mask: [N], 1 = real, 0 = padding; None counts every row.

  Returns:
    As `top1_accuracy`.

  Raises:
    ValueError: if shapes disagree, or K <= 5, where the answer would be 1
      whatever the model.

  Example:
    >>> logits = np.arange(7.0)[None, :]
    >>> [float(metrics.top5_accuracy(logits, [label])) for label in (2, 1)]
    [1.0, 0.0]
  """
  return accumulators.masked_mean(top_k_correct(logits, labels, k=5), mask)


@flax.struct.dataclass
class Accuracy(accumulators.Accumulator):
  """Streaming top-k accuracy; exact, for it only counts.

  Attributes:
    num_correct: int32 [].
    num_examples: int32 [].
    num_bad_labels: int32 [], real rows whose label is not in [0, K).
    k: static; the label must be among the k highest logits.
  """

  num_correct: jax.Array
  num_examples: jax.Array
  num_bad_labels: jax.Array
  k: int = flax.struct.field(pytree_node=False)

  @classmethod
  def empty(cls, *, k: int = 1) -> Self:
    """No examples; k >= 1, and `update` wants more than k classes."""
    if k < 1:
      raise ValueError(f'k must be at least 1; got {k}.')
    return cls(
      num_correct=jnp.zeros((), jnp.int32),
      num_examples=jnp.zeros((), jnp.int32),
      num_bad_labels=jnp.zeros((), jnp.int32),
      k=k,
    )

  def update(
    self, logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None
  ) -> Self:
    """Counts logits [B, K], labels [B] where mask [B] is not 0."""
    correct = top_k_correct(logits, labels, k=self.k)
    real = accumulators.real_rows(mask, correct.shape[0])
    return self.replace(
      num_correct=self.num_correct + accumulators.count(real & (correct == 1)),
      num_examples=self.num_examples + accumulators.count(real),
      num_bad_labels=self.num_bad_labels
      + accumulators.count(real & jnp.isnan(correct)),
    )

  def compute(self) -> float:
    """A fraction in [0, 1], higher is better; NaN if nothing was counted.

    Raises:
      ValueError: if a real row had a label that is not in [0, K).
    """
    checks.check_known(int(self.num_bad_labels), int(self.num_examples))
    if not int(self.num_examples):
      return float('nan')
    return int(self.num_correct) / int(self.num_examples)
