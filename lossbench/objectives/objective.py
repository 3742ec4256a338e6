"""The contract between an objective and the rest of lossbench."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossbench.objectives import losses, registry
from lossbench.objectives.heads import OutputLayer


def _stage_fn(stage: registry.Stage) -> Callable:
  return getattr(losses, stage) if isinstance(stage, str) else stage


@flax.struct.dataclass
class Objective:
  """What a model is trained for, from the output layer to the probabilities.

  In training the stages run in this order:

    features -> output layer (linear or cosine, dropout)    `output_layer`
             -> logits, normalised if asked                 `seen_logits`
             -> margin; smoothed targets; loss; penalties   `loss_terms`

  and in evaluation `log_probs` turns the same raw logits into
  log-probabilities, with no margin, dropout or smoothing.

  An objective is a pytree: its part names are static, its hyperparameters are
  leaves. Passed to a jitted function as an argument, one compilation serves
  all values of the hyperparameters.

  Attributes:
    parts: names of the registered parts, as written.
    hparams: part name -> hyperparameter name -> value.
    released: compute output layer and logits as the study's released code does,
      where that differs from the paper's formulas.
  """

  parts: tuple[str, ...] = flax.struct.field(pytree_node=False)
  hparams: registry.Hparams
  released: bool = flax.struct.field(pytree_node=False, default=False)

  @property
  def name(self) -> str:
    return '+'.join(self.parts)

  def _get_part(self, name: str) -> registry.Part:
    part = registry.get_part(name)
    return dataclasses.replace(part, **part.released) if self.released else part

  def _filling(self, stage: str):
    """Yields (stage function, hyperparameters, name) of parts that fill it."""
    for name in self.parts:
      filling = getattr(self._get_part(name), stage)
      if filling is not None:
        yield _stage_fn(filling), self.hparams[name], name

  @property
  def _loss_part(self) -> registry.Part:
    named = (registry.get_part(name) for name in self.parts)
    with_loss = [part for part in named if part.loss_fn is not None]
    # Regularisers, margins and normalisations alone stand on softmax.
    return with_loss[0] if with_loss else registry.get_part('softmax')

  def _head_hparam(self, flag: str, hparam: str, default):
    for name in self.parts:
      if getattr(registry.get_part(name), flag):
        return self.hparams[name][hparam]
    return default

  def output_layer(
    self, *, num_classes: int, kernel_stddev: float = 0.01
  ) -> OutputLayer:
    """The output layer's module, a map from features [B, M] to logits [B, K]."""
    parts = [self._get_part(name) for name in self.parts]
    return OutputLayer(
      num_classes=num_classes,
      cosine=any(part.cosine_head for part in parts),
      free_features=any(part.free_features for part in parts),
      background=any(part.background_head for part in parts),
      use_bias=not any(part.margin_fn for part in parts),
      bias_init=_stage_fn(self._loss_part.bias_init_fn)(num_classes),
      kernel_stddev=kernel_stddev,
      temperature=self._head_hparam('cosine_head', 'temperature', 1.0),
      keep_prob=self._head_hparam('dropout_head', 'keep_prob', None),
    )

  def seen_logits(self, logits: Float[Array, 'b k']) -> Float[Array, 'b k']:
    """The logits that the loss really sees: normalised and tempered."""
    for logits_fn, hparams, _ in self._filling('logits_fn'):
      logits = logits_fn(logits, **hparams)
    return logits

  def log_probs(self, logits: Float[Array, 'b k']) -> Float[Array, 'b k']:
    """Natural log of the class probabilities; rows sum to 1 after exp.

    Softmax of the logits that the loss sees, or the loss's own map (sigmoid:
    normalised over classes). For squared error it is a softmax of outputs that
    were never trained to be log-odds: say so where its calibration is shown.
    """
    return _stage_fn(self._loss_part.log_probs_fn)(self.seen_logits(logits))

  def log_probs_stages(self) -> list[tuple[str, dict[str, float]]]:
    """What `log_probs` does, for records: functions of `losses.py` in order.

    Returns:
      (name of the function, its hyperparameters).
    """
    stages = [
      (logits_fn.__name__, dict(hparams))
      for logits_fn, hparams, _ in self._filling('logits_fn')
    ]
    return [*stages, (_stage_fn(self._loss_part.log_probs_fn).__name__, {})]

  def loss_terms(
    self,
    logits: Float[Array, 'b k'],
    targets: Float[Array, 'b k'],
    kernel: Float[Array, 'm k'] | None = None,
    class_weights: Float[Array, ' k'] | None = None,
  ) -> dict[str, jax.Array]:
    """The addends of the training loss by name.

    Args:
      logits: [B, K] raw outputs of the output layer.
      targets: [B, K]; rows are distributions, one-hot or soft.
      kernel: [M, K] of the output layer; None leaves its penalty out.
      class_weights: [K], by which the loss of an example is multiplied, the one
        of its class or, of soft targets, their mean under them; penalties are
        not. None weighs all alike.

    Returns:
      Name -> [B] per-example terms, and [] for a penalty on the kernel. The
      first is the loss itself, under the name of the part it comes from.

    Raises:
      ValueError: if the shapes of logits and targets disagree.
    """
    losses.check_shapes(logits, targets)
    factor = self._loss_factor()
    seen = self.seen_logits(logits)
    loss_logits, loss_targets, loss_factor = seen, targets, factor
    for margin_fn, hparams, _ in self._filling('margin_fn'):
      loss_logits = margin_fn(loss_logits, targets, **hparams)
    for targets_fn, hparams, _ in self._filling('targets_fn'):
      loss_targets = targets_fn(loss_targets, **hparams)
    for scale_fn, hparams, _ in self._filling('scale_fn'):
      loss_factor = loss_factor * scale_fn(**hparams)
    loss_part = self._loss_part
    loss_hparams = self.hparams.get(loss_part.name, {})
    loss_fn = _stage_fn(loss_part.loss_fn)
    loss = loss_fn(loss_logits, loss_targets, **loss_hparams)
    if class_weights is not None:
      loss = jnp.sum(targets * class_weights[None], axis=-1) * loss
    terms = {loss_part.name: loss_factor * loss}
    for penalty_fn, hparams, name in self._filling('penalty_fn'):
      terms[name] = factor * penalty_fn(seen, **hparams)
    if kernel is not None:
      for penalty_fn, hparams, name in self._filling('kernel_penalty_fn'):
        terms[name] = factor * penalty_fn(kernel, **hparams)
    return terms

  def per_example_loss(
    self, logits: Float[Array, 'b k'], targets: Float[Array, 'b k']
  ) -> Float[Array, ' b']:
    """The training loss of every example, without the penalty on the kernel."""
    return sum(self.loss_terms(logits, targets).values())

  def _loss_factor(self):
    if not any(registry.get_part(p).scale_by_temperature for p in self.parts):
      return 1.0
    # At most one part has a temperature: the others are refused beside it.
    (temperature,) = (
      hparams['temperature']
      for hparams in self.hparams.values()
      if 'temperature' in hparams
    )
    return temperature


def create_objective(
  spec: str,
  hparams: registry.Hparams | None = None,
  *,
  released: bool = False,
) -> Objective:
  """Builds the objective that `spec` names.

  Args:
    spec: names of parts joined by '+', e.g. 'sigmoid+dropout'. Where no part
      brings a loss, it is softmax cross-entropy.
    hparams: part name -> hyperparameter name -> value, exactly those that the
      parts declare.
    released: see `Objective`.

  Returns:
    The objective.

  Raises:
    ValueError: if a part is unknown or named twice, the combination makes no
      mathematical sense, or a hyperparameter is missing, unknown or out of
      range.
  """
  hparams = registry.check_spec(spec, {} if hparams is None else hparams)
  return Objective(parts=tuple(hparams), hparams=hparams, released=released)
