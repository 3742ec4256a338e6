"""The pmapped train step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lossbench.models import Classifier
from lossbench.runtime import devices
from lossbench.train.mixup import mixup
from lossbench.train.schedules import ScheduleFn
from lossbench.train.state import (
  StepHparams,
  TrainState,
  averaging_decay,
  create_optimizer,
  decayed,
)

# (this device's batch, resident data or None, key, positions [b]) ->
# (normalised images [b, H, W, C], labels int32 [b])
InputFn = Callable[
  [dict[str, jax.Array], Any, jax.Array, jax.Array],
  tuple[jax.Array, jax.Array],
]
TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def step_key(seed: jax.Array, step: jax.Array) -> jax.Array:
  """The random key of one step: a function of (seed, step)."""
  return jax.random.fold_in(jax.random.key(seed), step)


def create_step_fn(
  backbone: nn.Module,
  *,
  num_classes: int,
  input_fn: InputFn,
  schedule_fn: ScheduleFn,
  decay_batch_norm: bool,
  accumulation_steps: int = 1,
  axis_name: str | None = devices.AXIS,
) -> TrainStep:
  """Builds the step of one device, alone or among those of an axis.

  Args:
    backbone: images -> endpoints.
    num_classes: K.
    input_fn: turns what the host sends into normalised images and labels.
    schedule_fn: step -> factor of the peak learning rate.
    decay_batch_norm: L2 on batch normalisation's parameters too.
    accumulation_steps: a device's batch is worked off in this many equal parts
      whose gradients are averaged, to save memory. Parts are what devices are:
      batch normalisation sees one at a time, each starts from the running
      statistics of the step before, and what they make of them is averaged.
    axis_name: whose devices share a global batch; None for a device that has a
      run of its own.

  Returns:
    (state, this device's batch, data or None, hparams) -> (state, metrics).
    Metrics are scalars averaged over the global batch: 'loss' and its addends
    'loss/<part>', 'top1_accuracy' (under mixup: of the heavier of two labels),
    'learning_rate', 'gradient_norm', 'parameter_norm', 'logit_norm' (mean
    ||l||_2 over examples).
  """

  def train_step(state, batch, data, hparams):
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    augment_key, mixup_key, dropout_key = jax.random.split(
      step_key(hparams.seed, state.step), 3
    )
    local_size = jax.tree.leaves(batch)[0].shape[0]
    # Augmentation follows the place in the global batch, whatever the number
    # of devices; dropout has a stream per device.
    positions = device * local_size + jnp.arange(local_size)
    images, labels = input_fn(batch, data, augment_key, positions)
    targets = jax.nn.one_hot(labels, num_classes)
    if hparams.mixup_alpha is not None:
      images, targets = mixup(
        images, targets, mixup_key, alpha=hparams.mixup_alpha
      )
    gradients, batch_stats, metrics = _accumulate(
      _create_gradient_fn(
        backbone, hparams.objective, num_classes, hparams.class_weights
      ),
      state,
      images,
      targets,
      key=jax.random.fold_in(dropout_key, device),
      num_parts=accumulation_steps,
    )
    if axis_name is not None:
      gradients, batch_stats, metrics = jax.lax.pmean(
        (gradients, batch_stats, metrics), axis_name
      )
    rate = hparams.learning_rate * schedule_fn(state.step)
    new_state = _apply_gradients(
      state,
      gradients,
      batch_stats,
      hparams=hparams,
      rate=rate,
      decay_batch_norm=decay_batch_norm,
    )
    metrics |= {
      'learning_rate': rate,
      'gradient_norm': optax.tree.norm(gradients),
      'parameter_norm': optax.tree.norm(new_state.params),
    }
    return new_state, metrics

  return train_step


def _in_turn(step_fn: TrainStep) -> TrainStep:
  """Step function that takes as many steps as are asked for, in one program.

  Their number is data, so that a step is the same program, to the last bit,
  however many are taken together and wherever a run was interrupted.
  """

  def steps_fn(state, batches, data, hparams, num_steps):
    def take(i, carry):
      state, metrics = carry
      batch = jax.tree.map(lambda x: x[i], batches)
      state, of_step = step_fn(state, batch, data, hparams)
      return state, jax.tree.map(lambda x, y: x.at[i].set(y), metrics, of_step)

    first = jax.tree.map(lambda x: x[0], batches)
    _, shapes = jax.eval_shape(step_fn, state, first, data, hparams)
    max_steps = jax.tree.leaves(batches)[0].shape[0]
    metrics = jax.tree.map(
      lambda x: jnp.zeros((max_steps, *x.shape), x.dtype), shapes
    )
    return jax.lax.fori_loop(0, num_steps, take, (state, metrics))

  return steps_fn


def create_train_step(
  backbone: nn.Module, *, several: bool = False, **options
) -> TrainStep:
  """Builds the pmapped step of the devices that `lossbench.runtime.devices` has.

  Of a single one it has no collectives.

  Args:
    backbone: images -> endpoints.
    several: whether a call takes several steps.
    **options: of `create_step_fn`, but for the axis.

  Returns:
    (state, batch, data, hparams) -> (state, metrics), with state, batch, data
    (or None) and metrics carrying a leading device axis, hparams the same
    everywhere. The state is donated. If `several`, batch and metrics have a
    second leading axis, of steps, and a fifth argument says how many of them to
    take; metrics of steps that are not taken are 0.
  """
  # XLA leaves an all-reduce of one device where it is.
  axis_name = devices.AXIS if devices.count() > 1 else None
  step_fn = create_step_fn(backbone, **options, axis_name=axis_name)
  return devices.pmap(
    _in_turn(step_fn) if several else step_fn,
    in_axes=(0, 0, 0, None, None) if several else (0, 0, 0, None),
    donate_argnums=0,
  )


def _create_gradient_fn(backbone, objective, num_classes, class_weights):
  """(params, batch_stats, images, targets, key) ->
  (gradients, batch_stats, metrics) of one device's batch, or a part of it."""
  model = Classifier(backbone, objective.output_layer(num_classes=num_classes))

  def loss_fn(params, batch_stats, images, targets, key):
    endpoints, updates = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )
    logits = endpoints['logits']
    terms = objective.loss_terms(
      logits, targets, params['output_layer']['kernel'], class_weights
    )
    terms = {name: jnp.mean(term) for name, term in terms.items()}
    loss = sum(terms.values())
    correct = jnp.argmax(logits, -1) == jnp.argmax(targets, -1)
    metrics = {
      'loss': loss,
      **{f'loss/{name}': term for name, term in terms.items()},
      'top1_accuracy': jnp.mean(correct),
      'logit_norm': jnp.mean(jnp.linalg.norm(logits, axis=-1)),
    }
    return loss, (updates.get('batch_stats', {}), metrics)

  def gradient_fn(*arguments):
    gradients, aux = jax.grad(loss_fn, has_aux=True)(*arguments)
    return gradients, *aux

  return gradient_fn


def _accumulate(gradient_fn, state, images, targets, *, key, num_parts):
  """Averages gradients, statistics and metrics over the parts of a batch."""
  if num_parts == 1:
    return gradient_fn(state.params, state.batch_stats, images, targets, key)

  def part_fn(part):
    index, images, targets = part
    return gradient_fn(
      state.params,
      state.batch_stats,
      images,
      targets,
      jax.random.fold_in(key, index),
    )

  def split(x):
    return x.reshape(num_parts, -1, *x.shape[1:])

  def add_part(total, part):
    return jax.tree.map(jnp.add, total, part_fn(part)), None

  parts = (jnp.arange(num_parts), split(images), split(targets))
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part_fn, first)
  )
  total, _ = jax.lax.scan(add_part, zeros, parts)
  return jax.tree.map(lambda x: x / num_parts, total)


def _apply_gradients(
  state: TrainState,
  gradients,
  batch_stats,
  *,
  hparams: StepHparams,
  rate: jax.Array,
  decay_batch_norm: bool,
) -> TrainState:
  mask = decayed(state.params, batch_norm=decay_batch_norm)
  optimizer = create_optimizer(hparams, rate=rate, mask=mask)
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  ema = state.ema
  if ema is not None:
    decay = averaging_decay(
      state.step, decay=hparams.ema_decay, ramp=hparams.ema_ramp
    )
    ema = optax.incremental_update(
      {'params': params, 'batch_stats': batch_stats}, ema, 1 - decay
    )
  return state.replace(
    step=state.step + 1,
    params=params,
    batch_stats=batch_stats,
    opt_state=opt_state,
    ema=ema,
  )
