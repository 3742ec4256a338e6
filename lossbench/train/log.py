"""What a run says while it trains: log lines and TensorBoard scalars."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from clu import metric_writers

from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import Progress
from lossbench.train.plan import Plan

PyTree = Any


class TrainLog:
  """Keeps metrics on the devices until a line is due.

  Every step's loss is looked at, so that the first non-finite one is found
  whatever the interval between lines.

  Args:
    writer: of TensorBoard's scalars.
    progress: of the steps.
    objective: its name; it and the learning rate stand in the error of a step
      that went wrong.
    learning_rate: of the configuration.
    batch_size: global.
    plan: of the run.
  """

  def __init__(
    self,
    writer: metric_writers.MetricWriter,
    progress: Progress,
    *,
    objective: str,
    learning_rate: float,
    batch_size: int,
    plan: Plan,
  ):
    self._writer = writer
    self._progress = progress
    self._objective = objective
    self._learning_rate = learning_rate
    self._batch_size = batch_size
    self._plan = plan
    self._pending: list[tuple[range, Mapping[str, jax.Array]]] = []
    self._excluded_secs = 0.0

  def append(self, steps: range, metrics: Mapping[str, jax.Array]):
    """Takes the metrics of steps, [devices] or [devices, steps or more]."""
    self._pending.append((steps, metrics))

  def exclude(self, secs: float):
    """Leaves the time of something else out of images per second."""
    self._excluded_secs += secs

  def check_finite(self, last_step: int | None = None):
    """Raises FloatingPointError at the first step that went wrong.

    Looks at steps since the last line, those up to `last_step` or all.

    The norm of the parameters is looked at beside the loss, for a step with a
    finite loss can leave parameters that are not, and a checkpoint of them
    would be of no use.
    """
    watched = ('loss', 'parameter_norm')
    for step, row in self._rows(watched, last_step):
      for name in watched:
        if not np.isfinite(row[name]):
          raise FloatingPointError(
            f'The {name} is {row[name]} at step {step} with objective '
            f'{self._objective!r} and learning rate '
            f'{self._learning_rate:g}. The last good checkpoint is '
            'kept. Lower --config.learning_rate or lengthen '
            '--config.warmup_epochs, in a new --workdir.'
          )

  def _rows(
    self, names: Sequence[str], last_step: int | None = None
  ) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, its metrics) of what is pending, of calls up to a step or all."""
    pending = [
      (steps, metrics)
      for steps, metrics in self._pending
      if last_step is None or steps[-1] <= last_step
    ]
    fetched = _fetch([{name: m[name] for name in names} for _, m in pending])
    for (steps, _), values in zip(pending, fetched, strict=True):
      for place, step in enumerate(steps):
        yield step, {name: float(values[name][place]) for name in names}

  def flush(self) -> float:
    """Writes the means since the last line, and the line."""
    self.check_finite()
    steps, rows = zip(*self._rows(tuple(self._pending[0][1])), strict=True)
    means = {
      name: float(np.mean([row[name] for row in rows])) for name in rows[0]
    }
    # Of a rate that follows a schedule the current value says more.
    means['learning_rate'] = rows[-1]['learning_rate']
    rate, position = self._progress.tick(
      steps[-1], excluded_secs=self._excluded_secs
    )
    images_per_sec = rate * self._batch_size
    self._writer.write_scalars(
      steps[-1],
      {
        **{f'train/{name}': value for name, value in means.items()},
        'train/images_per_sec': images_per_sec,
        'train/epoch': steps[-1] / self._plan.steps_per_epoch,
      },
    )
    LOGGER.info(
      'step %s  loss %.4f  accuracy %.4f  %.0f images/s',
      position,
      means['loss'],
      means['top1_accuracy'],
      images_per_sec,
    )
    self._pending.clear()
    self._excluded_secs = 0.0
    return rate


def _fetch(pending: list[PyTree]) -> list[PyTree]:
  """The first device's copies of pmapped values, in one transfer."""
  # Indexing a pmapped array would dispatch a gather; this takes the buffer.
  copies = jax.tree.map(lambda value: value.addressable_data(0), pending)
  return jax.tree.map(np.ravel, jax.device_get(copies))
