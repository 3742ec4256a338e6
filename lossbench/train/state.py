"""What training carries from step to step, and the optimiser that moves it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lossbench.objectives import Objective

PyTree = Any


@flax.struct.dataclass
class TrainState:
  """Everything that a checkpoint holds.

  Attributes:
    step: int32 [], optimiser steps taken.
    params: parameters, 'backbone' and 'output_layer'.
    batch_stats: running moments of batch normalisation.
    opt_state: of optax.
    ema: exponential moving averages {'params', 'batch_stats'}, or None.
  """

  step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree
  ema: PyTree | None

  @property
  def eval_variables(self) -> dict[str, PyTree]:
    """The variables that evaluation uses: the averages where they are kept."""
    if self.ema is not None:
      return self.ema
    return {'params': self.params, 'batch_stats': self.batch_stats}


@flax.struct.dataclass
class StepHparams:
  """Numbers of a run that are data of the compiled step, not constants in it.

  Attributes:
    objective: with its own hyperparameters.
    learning_rate: peak of the schedule.
    momentum: of Nesterov's SGD, in [0, 1).
    weight_decay: coefficient of L2; its gradient is weight_decay * w.
    ema_decay: of the moving averages, in [0, 1); unused where none are kept.
    ema_ramp: see `averaging_decay`.
    seed: uint32 [], of all randomness on the devices.
    mixup_alpha: both parameters of mixup's Beta distribution; None for none.
    class_weights: [K], what the loss of each class counts for; None for the
      same.
  """

  objective: Objective
  learning_rate: float
  momentum: float
  weight_decay: float
  ema_decay: float
  seed: jax.Array
  mixup_alpha: float | None = None
  ema_ramp: bool = True
  class_weights: jax.Array | None = None


def decayed(params: PyTree, *, batch_norm: bool) -> PyTree:
  """Which parameters L2 applies to: kernels, and batch norm's own if asked.

  Biases of convolutions and of the output layer are never decayed.

  Returns:
    A pytree of bool like `params`.
  """

  def is_decayed(path, _):
    names = [key.key for key in path]
    is_kernel = names[-1] == 'kernel'
    # Only batch normalisation has a 'scale', and its bias is the scale's twin.
    siblings = params
    for name in names[:-1]:
      siblings = siblings[name]
    return is_kernel or (batch_norm and 'scale' in siblings)

  return jax.tree_util.tree_map_with_path(is_decayed, params)


def create_optimizer(
  hparams: StepHparams, *, rate: jax.Array, mask: PyTree
) -> optax.GradientTransformation:
  """SGD with Nesterov momentum on loss + weight_decay/2 ||w||^2.

  The L2 term is part of the gradient (not decoupled), as in the paper. Values
  may be traced: the transformation is rebuilt inside the step, its state has
  the same structure for all of them.
  """
  return optax.chain(
    optax.add_decayed_weights(hparams.weight_decay, mask=mask),
    optax.sgd(rate, momentum=hparams.momentum, nesterov=True),
  )


def averaging_decay(
  step: jax.Array, *, decay: float | jax.Array, ramp: bool | jax.Array
) -> jax.Array:
  """Decay of the moving averages at a step: min(decay, (1 + n) / (10 + n)).

  The ramp of both public Google Inception trainers (TensorFlow's
  ExponentialMovingAverage with num_updates), so that random initial weights
  leave at once. Of a constant 0.9999, 37 % of them would be left after 10,000
  steps; of the ramp, 10 % after one and 0.001 % after ten.

  Args:
    step: n, optimiser steps taken before this one.
    decay: its limit, in [0, 1).
    ramp: False for a constant `decay`.

  Returns:
    Scalar float32.
  """
  ramped = (1 + step) / (10 + step)
  return jnp.where(ramp, jnp.minimum(decay, ramped), decay)


def create_state(
  variables: dict[str, PyTree],
  *,
  hparams: StepHparams,
  mask: PyTree,
  keep_ema: bool,
) -> TrainState:
  """The state before the first step; averages start at the initial values."""
  params = variables['params']
  batch_stats = variables.get('batch_stats', {})
  optimizer = create_optimizer(hparams, rate=0.0, mask=mask)
  ema = None
  if keep_ema:
    ema = jax.tree.map(
      jnp.array, {'params': params, 'batch_stats': batch_stats}
    )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    ema=ema,
  )
