"""What is done of a run's state while the next steps are taken.

After a step that is to be evaluated, saved or compared, the devices are given that
work, in this order, before they are given the next step, which takes the state's
memory; nothing is waited for. The host dispatches more steps, while a thread
fetches the state and computes its checksums, and only then asks what came of it,
writes and saves. So the devices stand still for none of it, and it is of that step
alone, to the last bit.
"""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from clu import metric_writers

from lossbench.evaluation.loop import Evaluator, Pass
from lossbench.runs.checkpoints import (
  Checkpointer,
  History,
  HostState,
  to_host,
)
from lossbench.runs.directory import RunDirectory, write_json
from lossbench.runtime import devices
from lossbench.runtime.console import LOGGER
from lossbench.train.log import TrainLog
from lossbench.train.plan import Plan
from lossbench.train.replicas import start_check
from lossbench.train.state import TrainState

# Dispatches after which many processes finish. More of them would hide more of the
# host's work, and put a save off.
_AHEAD = 16


class _Begun(NamedTuple):
  """What the devices were given after a step."""

  step: int
  check_fn: Callable[[], None]
  pass_fn: Callable[[], Pass] | None
  fetched: concurrent.futures.Future | None  # see `_fetch`; of what is saved


def _fetch(metrics: Any, copy: TrainState) -> tuple[float, HostState]:
  """A copy of a state on the host.

  Args:
    metrics: of the step.
    copy: the last of what the devices were given after it.

  Returns:
    Seconds that the devices took from the one to the other, and the copy.
  """
  jax.block_until_ready(metrics)
  began = time.monotonic()
  jax.block_until_ready(copy)
  return time.monotonic() - began, to_host(copy)


class Upkeep:
  """Compares, evaluates and saves states; use it as a context manager.

  One step at a time: what was begun is finished before another begins. All
  processes begin and finish after the same steps, for some of it they do together.
  Where an error ends the context, what was begun before it is saved.

  Args:
    plan: of the run.
    directory: of the run.
    evaluator: on the holdout; None without one.
    checkpointer: of the run.
    history: of the evaluations so far; grows.
    log: of the steps.
    writer: of TensorBoard's scalars.
  """

  def __init__(
    self,
    plan: Plan,
    directory: RunDirectory,
    *,
    evaluator: Evaluator | None,
    checkpointer: Checkpointer,
    history: History,
    log: TrainLog,
    writer: metric_writers.MetricWriter,
  ):
    self._plan = plan
    self._directory = directory
    self._evaluator = evaluator
    self._checkpointer = checkpointer
    self._history = history
    self._log = log
    self._writer = writer
    self._begun: _Begun | None = None
    self._dispatches = 0
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)

  def __enter__(self):
    return self

  def __exit__(self, kind, *exc_info):
    try:
      # Of many processes the others may not have met the error.
      if jax.process_count() == 1 and kind and issubclass(kind, Exception):
        self.finish()
    finally:
      self._thread.shutdown(wait=False)

  def begin(self, state: TrainState, metrics: Any, *, step: int, save: bool):
    """Gives the devices what is to be done of a state, which is donated next.

    Args:
      state: with a leading device axis.
      metrics: of the step, known when the state is.
      step: that was taken last.
      save: whether to save it, and evaluate it if that is due, or only compare
        the devices' copies.
    """
    self.finish()
    check_fn = start_check(state, step=step)
    pass_fn = fetched = None
    if save:
      if self._evaluator and self._plan.should_evaluate(step):
        pass_fn = self._evaluator.start(state.eval_variables)
      fetched = self._thread.submit(_fetch, metrics, devices.copy_first(state))
    self._begun = _Begun(step, check_fn, pass_fn, fetched)
    self._dispatches = 0

  def count_dispatch(self):
    """Steps were dispatched; finishes what was begun if it is time for it."""
    self._dispatches += 1
    if self._begun is None:
      return
    fetched = self._begun.fetched
    if fetched is not None and jax.process_count() == 1:
      due = fetched.done()
    else:  # processes finish together, and one may have fetched before another
      due = self._dispatches >= _AHEAD
    if due:
      self.finish()

  def finish(self):
    """Waits for what was begun, and keeps it; nothing if nothing was.

    Raises:
      FloatingPointError: if the loss had stopped being finite.
      Disagreement: if devices held different states.
      OSError: if a checkpoint could not be written.
    """
    begun, self._begun = self._begun, None
    if begun is None:
      return
    self._log.check_finite(begun.step)
    begun.check_fn()
    if begun.pass_fn:
      self._record(begun.step, begun.pass_fn())
    if begun.fetched is not None:
      secs, state = begun.fetched.result()
      self._log.exclude(secs)
      self._checkpointer.save(state, history=self._history)

  def _record(self, step: int, found: Pass):
    """Tells all who want to know of an evaluation."""
    metrics = {
      name: value.compute() for name, value in found.accumulators.items()
    }
    epoch = step / self._plan.steps_per_epoch
    self._history.append({'step': step, 'epoch': epoch, **metrics})
    self._writer.write_scalars(
      step, {f'holdout/{name}': value for name, value in metrics.items()}
    )
    LOGGER.info(
      'step %d  holdout accuracy %.4f  nll %.4f',
      step,
      metrics['top1_accuracy'],
      metrics['nll'],
    )
    if jax.process_index() == 0:
      write_json(self._directory.history_path, self._history)
