"""When a run does what."""

import dataclasses

import ml_collections

# Compilation and the first batches are not what a profile is asked for.
FIRST_PROFILED_STEP = 10
# Steps are counted in int32 on the devices.
_MAX_STEPS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Plan:
  """Steps at which a run does things.

  Attributes:
    steps_per_epoch: optimiser steps in one pass over the training split.
    num_steps: that the run takes; fewer than its schedule spans if it stops
      early.
    eval_every: steps between evaluations on the holdout; 0 without a holdout.
    checkpoint_every: steps between checkpoints that are not evaluations, or 0.
    keep_every: steps between checkpoints that are never deleted, or 0.
    keep_last: how many of the newest checkpoints are kept.
    log_every: steps between log lines.
    check_every: steps between comparisons of the devices' states that are not
      saved, or 0.
    num_profiled: steps that are profiled.
  """

  steps_per_epoch: int
  num_steps: int
  eval_every: int
  checkpoint_every: int
  keep_every: int
  keep_last: int
  log_every: int
  check_every: int
  num_profiled: int

  def _due(self, step: int, every: int) -> bool:
    return step == self.num_steps or (every > 0 and step % every == 0)

  def should_log(self, step: int) -> bool:
    return self._due(step, self.log_every)

  def should_evaluate(self, step: int) -> bool:
    return self.eval_every > 0 and self._due(step, self.eval_every)

  def should_stop(self, step: int) -> bool:
    """Whether the host has something to do after this step."""
    return (
      self.should_log(step)
      or self.should_save(step)
      or self.should_check_replicas(step)
    )

  def should_check_replicas(self, step: int) -> bool:
    return self._due(step, self.check_every)

  def should_save(self, step: int) -> bool:
    return (
      self.should_evaluate(step)
      or self._due(step, self.checkpoint_every)
      or self._due(step, self.keep_every)
    )


def build_plan(config: ml_collections.ConfigDict, *, num_examples: int) -> Plan:
  """Turns epochs into steps.

  Raises:
    ValueError: if there are too few examples for one, or too many steps, or
      too few to profile, or a warm-up of none.
  """
  steps_per_epoch = num_examples // config.batch_size
  if steps_per_epoch == 0:
    raise ValueError(
      f'--config.batch_size={config.batch_size} is more than the '
      f'{num_examples} training examples. Lower it.'
    )

  def to_steps(num_epochs):
    # Zero means never and stays; anything else is a step at least.
    return max(1, round(num_epochs * steps_per_epoch)) if num_epochs else 0

  num_steps = to_steps(config.stop_epoch or config.num_epochs)
  if num_steps > _MAX_STEPS:
    raise ValueError(
      f'--config.num_epochs={config.num_epochs} are {num_steps} steps of '
      f'--config.batch_size={config.batch_size}, more than the {_MAX_STEPS} '
      'that can be counted. Give fewer epochs.'
    )
  if config.profile_steps and (
    num_steps < FIRST_PROFILED_STEP + config.profile_steps
  ):
    raise ValueError(
      f'--config.profile_steps={config.profile_steps} begin after step '
      f'{FIRST_PROFILED_STEP}, but the run takes {num_steps}. Lower it, or give '
      'more --config.num_epochs.'
    )
  if config.warmup_epochs and not round(config.warmup_epochs * steps_per_epoch):
    raise ValueError(
      f'--config.warmup_epochs={config.warmup_epochs} is less than half a step, '
      f'of {steps_per_epoch} an epoch, and would be ignored. Give 0 for no '
      'warm-up, or more.'
    )
  return Plan(
    steps_per_epoch=steps_per_epoch,
    num_steps=num_steps,
    eval_every=to_steps(config.eval_every_epochs) if config.num_holdout else 0,
    checkpoint_every=config.checkpoint_every_steps,
    keep_every=to_steps(config.keep_every_epochs),
    keep_last=config.keep_checkpoints,
    log_every=config.log_every_steps,
    check_every=config.replica_check_every_steps,
    num_profiled=config.profile_steps,
  )
