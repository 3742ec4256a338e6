"""Pure functions of logits and targets: losses, penalties, probability maps.

Shapes: `logits` and `targets` are [B, K] float arrays; every row of `targets`
is a distribution over the K classes (one-hot, or soft under mixup). Losses and
penalties return one value per example, [B], in nats where a probability is
behind them. Hyperparameters are keyword-only and may be traced. The formulas
are those of section 2 of the paper (PAPER, section 1, in our restatement).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Logits = Float[Array, 'b k']
Targets = Float[Array, 'b k']
PerExample = Float[Array, 'b']

# The floor under squared norms of tf.nn.l2_normalize, which the authors used.
_SQUARED_NORM_FLOOR = 1e-12


def check_shapes(logits, targets):
  """Raises ValueError unless both are [B, K], with the same B and K."""
  if logits.ndim != 2 or logits.shape != targets.shape:
    raise ValueError(
      'logits and targets must both be [batch, num_classes]; got '
      f'{tuple(logits.shape)} and {tuple(targets.shape)}. Labels become '
      'targets by jax.nn.one_hot(labels, num_classes).'
    )


def log_softmax(logits: Logits) -> Logits:
  """Log of the softmax, to full relative precision in both tails.

  log p_k = (l_k - l_a) - log1p(sum_{j != a} exp(l_j - l_a)), a = argmax l.
  The usual logsumexp rounds the last term to multiples of 6e-8, so the loss of
  a confidently right example, and its gradient, would have no correct digits.
  """
  top = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1, keepdims=True))
  others = jnp.arange(logits.shape[-1])[None, :] != top
  shifted = logits - jnp.take_along_axis(logits, top, axis=-1)
  # Zero already where k = a; said so, the gradient needs no 1 - 1 to find out.
  shifted = jnp.where(others, shifted, 0.0)
  odds = jnp.sum(jnp.where(others, jnp.exp(shifted), 0.0), -1, keepdims=True)
  return shifted - jnp.log1p(odds)


def normalized_sigmoid_log_probs(logits: Logits) -> Logits:
  """Log of sigmoid(l_k) / sum_j sigmoid(l_j): Table B.3's map for sigmoid."""
  return log_softmax(jax.nn.log_sigmoid(logits))


def softmax(logits: Logits, targets: Targets) -> PerExample:
  r"""Softmax cross-entropy, eq. 1: -\sum_k t_k l_k + logsumexp(l)."""
  check_shapes(logits, targets)
  return -jnp.sum(targets * log_softmax(logits), axis=-1)


def softmax_of_cosines(
  logits: Logits, targets: Targets, *, temperature: float
) -> PerExample:
  """`softmax` of logits that the output layer has divided by `temperature`."""
  del temperature
  return softmax(logits, targets)


def sigmoid(logits: Logits, targets: Targets) -> PerExample:
  r"""Sigmoid cross-entropy, eq. 8: -\sum_k t_k l_k + \sum_k softplus(l_k).

  Summed over classes, not averaged. Written as a sum of non-negative terms,
  t_k softplus(-l_k) + (1 - t_k) softplus(l_k), which cannot cancel.
  """
  check_shapes(logits, targets)
  right = targets * jax.nn.softplus(-logits)
  wrong = (1.0 - targets) * jax.nn.softplus(logits)
  return jnp.sum(right + wrong, axis=-1)


def squared_error(
  logits: Logits,
  targets: Targets,
  *,
  kappa: float = 1.0,
  target_logit: float = 1.0,
  scale: float = 1.0,
) -> PerExample:
  r"""Squared error of Hui & Belkin (2020, arXiv:2006.07322), eq. 10.

    scale/K \sum_k [kappa t_k (l_k - M)^2 + (1 - t_k) l_k^2]

  kappa = M = scale = 1 is the mean squared error between logits and one-hot
  targets.

  Args:
    logits: [B, K].
    targets: [B, K].
    kappa: weight of the right class, > 0.
    target_logit: M, the value that the right class's logit is drawn to, > 0.
    scale: factor on the whole loss, > 0 (the released code uses 10).

  Returns:
    [B], non-negative.
  """
  check_shapes(logits, targets)
  right = kappa * targets * (logits - target_logit) ** 2
  wrong = (1.0 - targets) * logits**2
  return scale * jnp.mean(right + wrong, axis=-1)


def focal(
  logits: Logits, targets: Targets, *, gamma: float = 2.0
) -> PerExample:
  r"""Focal loss (Lin et al. 2017, arXiv:1708.02002, eq. 4), softmax form.

  -\sum_k t_k (1 - p_k)^gamma log p_k;   gamma = 0 is `softmax`.
  """
  check_shapes(logits, targets)
  log_probs = log_softmax(logits)
  # The floor keeps the gradient of (1 - p)^gamma finite where p rounds to 1.
  tiny = jnp.finfo(log_probs.dtype).tiny
  log_miss = jnp.log(jnp.maximum(-jnp.expm1(log_probs), tiny))
  return -jnp.sum(targets * jnp.exp(gamma * log_miss) * log_probs, axis=-1)


def poly1(
  logits: Logits, targets: Targets, *, epsilon: float = 1.0
) -> PerExample:
  r"""Poly-1 cross-entropy (Leng et al. 2022, arXiv:2204.12511, eq. 5).

    -\sum_k t_k log p_k + epsilon \sum_k t_k (1 - p_k);
  epsilon = 0 is `softmax`.
  """
  check_shapes(logits, targets)
  log_probs = log_softmax(logits)
  miss = -jnp.expm1(log_probs)
  return jnp.sum(targets * (epsilon * miss - log_probs), axis=-1)


def smooth_targets(targets: Targets, *, alpha: float) -> Targets:
  """(1 - alpha) t + alpha/K, the targets of label smoothing (eq. 2)."""
  return (1.0 - alpha) * targets + alpha / targets.shape[-1]


def label_smoothing_scale(*, alpha: float) -> float:
  """1/(1 - alpha): the right logit's gradient keeps its unsmoothed scale."""
  return 1.0 / (1.0 - alpha)


def logit_penalty(logits: Logits, *, beta: float) -> PerExample:
  """beta ||l||^2, eq. 5. The released code halves the norm: beta is half its."""
  return beta * jnp.sum(logits**2, axis=-1)


def kernel_l2(
  kernel: Float[Array, 'm k'], *, lambda_final: float
) -> Float[Array, '']:
  """lambda_final/2 ||W||^2, whose gradient is lambda_final W."""
  return 0.5 * lambda_final * jnp.sum(kernel**2)


def unit_norm(x: Float[Array, '...'], *, axis: int) -> Float[Array, '...']:
  """x / ||x||_2 along `axis`; the zero vector stays zero, with finite gradient."""
  squared_norm = jnp.sum(x**2, axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared_norm, _SQUARED_NORM_FLOOR))


def normalize_logits(logits: Logits, *, temperature: float) -> Logits:
  """l / (tau ||l||_2), eq. 6: what logit normalization's softmax sees."""
  return unit_norm(logits, axis=-1) / temperature


def temper_logits(logits: Logits, *, temperature: float) -> Logits:
  """l / tau, of logits that the output layer has normalised."""
  return logits / temperature


def additive_margin(
  logits: Logits, targets: Targets, *, temperature: float, margin: float
) -> Logits:
  """CosFace (Wang et al. 2018, arXiv:1801.09414): cos - m for the right class.

  `logits` are cosines over the temperature. Soft targets take their share of
  the margin.
  """
  return logits - targets * (margin / temperature)


def additive_angular_margin(
  logits: Logits, targets: Targets, *, temperature: float, margin: float
) -> Logits:
  """ArcFace (Deng et al. 2019, arXiv:1801.07698): cos(angle + m), right class.

  Beyond angle = pi - m, where cos(angle + m) would rise again, the straight
  line cos(angle) - m sin(m) goes on falling, as in the authors' code. Soft
  targets interpolate between the logit with and without the margin.
  """
  # arccos has an infinite slope at +-1, so stay one float32 step inside.
  limit = 1.0 - jnp.finfo(jnp.float32).eps
  cosine = jnp.clip(logits * temperature, -limit, limit)
  sine = jnp.sqrt(1.0 - cosine**2)
  shifted = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
  line = cosine - margin * jnp.sin(margin)
  with_margin = jnp.where(cosine > -jnp.cos(margin), shifted, line)
  return logits + targets * (with_margin - cosine) / temperature


def zero_bias(num_classes: int) -> float:
  """0 whatever the number of classes: softmax outputs start near 1/K."""
  del num_classes
  return 0.0


def uniform_bias(num_classes: int) -> float:
  """-log K: sigmoid outputs start near 1/K (section 2 of the paper)."""
  return -math.log(num_classes)
