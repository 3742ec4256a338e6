"""Learning-rate schedules as factors of the peak learning rate.

A schedule maps the step (int32, may be traced) to a factor in [0, 1]; the peak
itself stays data of the compiled step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

ScheduleFn = Callable[[jax.Array], jax.Array]


def _constant(*, decay_steps, steps_per_epoch, decay_per_epoch):
  del decay_steps, steps_per_epoch, decay_per_epoch
  return optax.constant_schedule(1.0)


def _cosine(*, decay_steps, steps_per_epoch, decay_per_epoch):
  """Half a cosine from 1 to 0 without restarts (Loshchilov & Hutter 2017)."""
  del steps_per_epoch, decay_per_epoch

  # Not optax's: it rounds pi * step first, so runs would get other bits.
  def decay_fn(step):
    share = jnp.clip(step / decay_steps, 0.0, 1.0)
    return 0.5 * (1.0 + jnp.cos(jnp.pi * share))

  return decay_fn


def _exponential(*, decay_steps, steps_per_epoch, decay_per_epoch):
  """decay_per_epoch^e, where e counts whole epochs (appendix A.1)."""
  del decay_steps
  return optax.exponential_decay(
    1.0, steps_per_epoch, decay_per_epoch, staircase=True
  )


_DECAYS = {
  'constant': _constant,
  'cosine': _cosine,
  'exponential': _exponential,
}


def create_schedule(
  name: str,
  *,
  num_epochs: float,
  steps_per_epoch: int,
  warmup_epochs: float = 0.0,
  decay_per_epoch: float = 1.0,
) -> ScheduleFn:
  """Builds a schedule: linear warm-up to 1, then the named decay.

  Args:
    name: 'constant', 'cosine' or 'exponential'.
    num_epochs: of the whole run, warm-up included; the cosine ends there.
    steps_per_epoch: optimiser steps in one epoch.
    warmup_epochs: epochs of linear growth from 0; the decay starts after them.
    decay_per_epoch: of the exponential schedule, in (0, 1].

  Returns:
    step -> factor.

  Raises:
    ValueError: if the name is unknown or a value is out of range.
  """
  if name not in _DECAYS:
    raise ValueError(f'Unknown schedule {name!r}. Known: {", ".join(_DECAYS)}.')
  if not 0 <= warmup_epochs < num_epochs:
    raise ValueError(
      f'warmup_epochs must be in [0, num_epochs={num_epochs}); got '
      f'{warmup_epochs}.'
    )
  if not 0 < decay_per_epoch <= 1:
    raise ValueError(
      f'decay_per_epoch must be in (0, 1]; got {decay_per_epoch}.'
    )
  warmup_steps = round(warmup_epochs * steps_per_epoch)
  # At least one: a fraction of an epoch may round to none.
  decay_steps = max(1, round(num_epochs * steps_per_epoch) - warmup_steps)

  decay_fn = _DECAYS[name](
    decay_steps=decay_steps,
    steps_per_epoch=steps_per_epoch,
    decay_per_epoch=decay_per_epoch,
  )

  # Not optax.linear_schedule, whose 1 - (1 - x) has few digits near 0.
  def warmup_fn(step):
    return jnp.asarray(step) / max(warmup_steps, 1)

  return optax.join_schedules([warmup_fn, decay_fn], [warmup_steps])
