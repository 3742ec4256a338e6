"""The output layer that an objective asks for: features [B, M] -> logits [B, K]."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossbench.objectives import losses

# The default would be TF32 on GPUs and bfloat16 on TPUs.
_FLOAT32 = jax.lax.Precision.HIGHEST


def dropout(features, key, *, keep_prob):
  """Inverted dropout x * xi / rho, xi ~ Bernoulli(rho), rho = keep_prob."""
  kept = jax.random.bernoulli(key, keep_prob, features.shape)
  return jnp.where(kept, features / keep_prob, 0.0)


class OutputLayer(nn.Module):
  """Linear or cosine output layer, always computed in float32.

  linear:  x W + b
  cosine:  cos(W_k, x) / temperature + b_k, eq. 7; the bias is not divided.
           With free features (x W_k/||W_k|| + b_k) / temperature.
  with background: l_k / ||(l_0, l)||_2 of linear logits, where l_0 is an output
           of no class.

  `temperature` and `keep_prob` may be traced, so that one compiled step serves
  every value of them.

  Attributes:
    num_classes: K.
    cosine: normalise features and kernel columns to unit length.
    free_features: of a cosine layer: leave the features their length, and
      divide the bias by the temperature too.
    background: normalise the logits together with one of no class, whose
      parameters lie under 'background'.
    use_bias: add b; the margin losses go without.
    bias_init: starting value of every bias.
    kernel_stddev: the kernel starts as N(0, kernel_stddev^2).
    temperature: tau > 0, used by the cosine layer only.
    keep_prob: share of features kept in training, None for no dropout; needs
      the 'dropout' random stream.
  """

  num_classes: int
  cosine: bool = False
  free_features: bool = False
  background: bool = False
  use_bias: bool = True
  bias_init: float = 0.0
  kernel_stddev: float = 0.01
  temperature: float | jax.Array = 1.0
  keep_prob: float | jax.Array | None = None

  @nn.compact
  def __call__(
    self, features: Float[Array, 'b m'], *, train: bool
  ) -> Float[Array, 'b k']:
    if features.ndim != 2:
      raise ValueError(
        'the output layer takes features [batch, num_features]; got '
        f'{tuple(features.shape)}'
      )
    features = features.astype(jnp.float32)
    if train and self.keep_prob is not None:
      key = self.make_rng('dropout')
      features = dropout(features, key, keep_prob=self.keep_prob)
    kernel = self.param(
      'kernel',
      nn.initializers.normal(self.kernel_stddev),
      (features.shape[-1], self.num_classes),
    )
    if self.cosine and self.free_features:
      kernel = losses.unit_norm(kernel, axis=0)
      logits = jnp.matmul(features, kernel, precision=_FLOAT32)
      return self._add_bias(logits) / self.temperature
    if self.cosine:
      features = losses.unit_norm(features, axis=-1)
      kernel = losses.unit_norm(kernel, axis=0)
      cosines = jnp.matmul(features, kernel, precision=_FLOAT32)
      logits = cosines / self.temperature
    else:
      logits = jnp.matmul(features, kernel, precision=_FLOAT32)
    logits = self._add_bias(logits)
    return self._normalize(features, logits) if self.background else logits

  def _add_bias(self, logits):
    if not self.use_bias:
      return logits
    bias = self.param(
      'bias', nn.initializers.constant(self.bias_init), (self.num_classes,)
    )
    return logits + bias[None, :]

  def _normalize(self, features, logits):
    background = nn.Dense(
      1,
      kernel_init=nn.initializers.normal(self.kernel_stddev),
      precision=_FLOAT32,
      name='background',
    )(features)
    joined = jnp.concatenate([background, logits], axis=-1)
    return losses.unit_norm(joined, axis=-1)[:, 1:]
