"""Temperature scaling of any probability map, and the temperature of lowest NLL.

Takes log-probabilities [N, K], as `calibration` does.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from lossbench.metrics import accumulators, checks
from lossbench.objectives.losses import log_softmax


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

  Example:
    >>> print(np.exp(metrics.temper(np.log([[0.9, 0.1]]), 2.0)).round(3))
    [[0.75 0.25]]
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

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    >>> print(f'{metrics.fit_temperature(log_probs, [0, 0, 0, 1]):.3f}')
    2.000
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
    return _slope_sum(chunks, inverse, chunk_size=chunk_size) / len(labels)

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


def _tempered(log_probs, inverse_temperature):
  # Subtract, then scale. The other way round XLA contracts the product and the
  # difference in log_softmax to a fused multiply-add, and the top is not 0.
  shifted = log_probs - jnp.max(log_probs, axis=1, keepdims=True)
  return log_softmax(shifted * inverse_temperature)


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


def _slope_sum(chunks, inverse, *, chunk_size) -> float:
  total = 0.0
  for rows, labels in chunks:
    short = chunk_size - len(labels)
    slopes = _slope_per_example(
      np.pad(rows, ((0, short), (0, 0))),
      np.pad(labels, (0, short)).astype(np.int32),
      inverse,
    )
    total += float(np.asarray(slopes)[: len(labels)].sum(dtype=np.float64))
  return total


@jax.jit
def _slope_per_example(log_probs, labels, inverse_temperature):
  """d NLL_n / d (1/T) = sum_k p_k (z_k - z_label), [N]."""
  probs = jnp.exp(_tempered(log_probs, inverse_temperature))
  label_score = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
  # Differences to the label's score do not cancel when p_label is close to 1;
  # an impossible class (-inf) has p = 0 and no say.
  gaps = jnp.where(log_probs > -jnp.inf, log_probs - label_score, 0.0)
  return jnp.sum(probs * gaps, axis=1)
