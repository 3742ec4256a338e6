"""Doing what is missing of a study, in this process.

Runs that share a recipe and an objective share compiled programs, for seeds and
hyperparameters are arguments of them.
"""

import contextlib
import contextvars
import functools
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from lossbench.runs.directory import TRAINING
from lossbench.runs.stored import StoredCheckpoint
from lossbench.runtime import devices, storage
from lossbench.runtime.console import LOGGER
from lossbench.study.plan import (
  IMPORT,
  TRAIN,
  PlannedComparison,
  PlannedRun,
  Study,
)
from lossbench.study.states import (
  EVALUATE,
  EVALUATE_TRAINING,
  FINETUNE,
  TRANSFER,
  comparison_path,
  error_path,
  finished_runs,
  is_compared,
  read_state,
  resolve_config,
  write_error,
)
from lossbench.train.preemption import PreemptionNotice

# (stage, its newest line of log)
OnStatus = Callable[[str, str], None]

# Of the run that this thread is at.
_handlers: contextvars.ContextVar[tuple[logging.Handler, ...]] = (
  contextvars.ContextVar('handlers', default=())
)


class _ToRuns(logging.Handler):
  """Gives a record to the handlers of the run whose thread logs it.

  Args:
    others: handlers for what no run's thread logs.
  """

  def __init__(self, others: Sequence[logging.Handler]):
    super().__init__()
    self._others = others

  def emit(self, record):
    for handler in _handlers.get() or self._others:
      handler.handle(record)


@contextlib.contextmanager
def logged_by_runs() -> Iterator[None]:
  """Sends lossbench's log to where the run at hand wants it."""
  handlers, propagate = LOGGER.handlers, LOGGER.propagate
  level = LOGGER.level
  LOGGER.handlers, LOGGER.propagate = [_ToRuns(handlers)], False
  LOGGER.setLevel(logging.INFO)
  try:
    yield
  finally:
    LOGGER.handlers, LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


class _StatusHandler(logging.Handler):
  def __init__(self, on_line: Callable[[str], None]):
    super().__init__()
    self._on_line = on_line

  def emit(self, record):
    lines = record.getMessage().splitlines()
    self._on_line(lines[0] if lines else '')


@contextlib.contextmanager
def _logged_to(directory, on_line: Callable[[str], None]) -> Iterator[IO[str]]:
  """<directory>/log.txt, to which this thread's log goes.

  In a bucket, where it appears at the end, the log goes to stderr too.
  """
  with (
    storage.appended(directory / 'log.txt') as path,
    path.open('a') as file,
  ):
    handlers = [_log_handler(file), _StatusHandler(on_line)]
    if storage.is_remote(directory):
      handlers.append(_log_handler(sys.stderr, f'{directory} '))
    token = _handlers.set(tuple(handlers))
    try:
      yield file
    finally:
      _handlers.reset(token)


def _log_handler(file: IO[str], where: str = '') -> logging.Handler:
  handler = logging.StreamHandler(file)
  handler.setFormatter(
    logging.Formatter(f'%(asctime)s {where}%(message)s', '%Y-%m-%d %H:%M:%S')
  )
  return handler


def _train(
  study: Study,
  run: PlannedRun,
  *,
  alone: bool,
  notice: PreemptionNotice | None = None,
):
  from lossbench.train import loop

  only_one = devices.only(devices.local()[0])
  with only_one if alone else contextlib.nullcontext():
    loop.train(
      resolve_config(study, run),
      workdir=str(study.path(run)),
      allow=study.allow,
      notice=notice,
    )


def _import(study: Study, run: PlannedRun):
  from lossbench.interop.formats import get_format
  from lossbench.interop.importing import import_checkpoint

  import_checkpoint(
    get_format(run.source.format),
    run.source.path,
    workdir=str(study.path(run)),
    options=run.source.options,
    config=run.config,
  )


def _make(study: Study, run: PlannedRun, *, alone: bool):
  """Makes a run's checkpoint."""
  if run.source:
    _import(study, run)
  else:
    _train(study, run, alone=alone)


def _measure(study: Study, run: PlannedRun, stage: str):
  from lossbench.evaluation.checkpoint import evaluate_checkpoint
  from lossbench.probe.finetuning import Grid, finetune_checkpoint
  from lossbench.probe.transfer import transfer_checkpoint

  path = str(study.path(run))
  if stage == EVALUATE:
    evaluate_checkpoint(path, step=run.step, ood=run.ood, ood_sets=run.ood_sets)
  elif stage == EVALUATE_TRAINING:
    evaluate_checkpoint(
      path,
      step=run.step,
      split=TRAINING,
      num_train_examples=run.num_train_examples,
    )
  elif stage.startswith(FINETUNE):
    finetune_checkpoint(
      path,
      stage.removeprefix(f'{FINETUNE} '),
      step=run.step,
      grid=Grid(**run.finetune.grid),
    )
  else:
    [target] = [t for t in run.transfer if stage == f'{TRANSFER} {t}']
    transfer_checkpoint(path, target.dataset, split=target.split, step=run.step)


def _measure_whole(study: Study, run: PlannedRun, stage: str, alone: bool):
  """Measures; a checkpoint that is found damaged is made again before."""
  from lossbench.runs.checkpoints import DamagedCheckpointError

  try:
    _measure(study, run, stage)
  except DamagedCheckpointError as error:
    LOGGER.warning('%s Making it again.', error)
    _make(study, run, alone=alone)
    _measure(study, run, stage)


def _check_done(study: Study, run: PlannedRun, stage: str):
  """Raises RuntimeError where a stage left no record: never the same again."""
  state = read_state(study, run)
  if stage in state.missing:
    raise RuntimeError(
      f'it ended without an error, but {study.path(run)} has no record of it '
      f'for {_describe(state.wanted)}'
    )


def _describe(wanted: StoredCheckpoint | None) -> str:
  if wanted is None:
    return 'a whole checkpoint'
  return f'step {wanted.step} (checkpoint {wanted.fingerprint})'


def do_run(
  study: Study, run: PlannedRun, on_status: OnStatus, *, alone: bool = False
) -> str:
  """Does all missing stages of a run; returns '' or the error.

  Errors are written into the run's directory and end this run only.

  Args:
    study: of the run.
    run: to be done.
    on_status: told what happens.
    alone: whether it trains on one device; measurements take all.
  """
  for stage in read_state(study, run).missing:
    # What seemed to be of no checkpoint may have lacked a whole run.json only.
    if stage not in read_state(study, run).missing:
      continue
    if stage == TRAIN:
      error = train_run(study, run, on_status, alone=alone)
    elif stage == IMPORT:
      error = _do_stage(
        study, run, stage, on_status, lambda study, run, *_: _import(study, run)
      )
    else:
      measure = functools.partial(_measure_printing, alone=alone)
      error = _do_stage(study, run, stage, on_status, measure)
    if error:
      return error
  error_path(study.path(run)).unlink(missing_ok=True)
  return ''


def train_run(
  study: Study,
  run: PlannedRun,
  on_status: OnStatus,
  *,
  alone: bool = False,
  notice: PreemptionNotice | None = None,
) -> str:
  """Does the first stage of a run, on this thread's devices; as `do_run`."""

  def train(study, run, *_):
    _train(study, run, alone=alone, notice=notice)

  return _do_stage(study, run, TRAIN, on_status, train)


def _measure_printing(study, run, stage, file, *, alone):
  # Of all threads, and so not where several runs are trained.
  with contextlib.redirect_stdout(file):
    _measure_whole(study, run, stage, alone)


def _do_stage(study, run, stage, on_status: OnStatus, do_fn) -> str:
  path = study.path(run)
  on_status(stage, '')
  with _logged_to(path, lambda line: on_status(stage, line)) as file:
    try:
      do_fn(study, run, stage, file)
      _check_done(study, run, stage)
    except Exception as error:
      # Whatever went wrong with this run, the others can go on.
      return _failed(path, stage, error, file)
  return ''


def do_comparison(
  study: Study, comparison: PlannedComparison, on_status: OnStatus
) -> str:
  """Compares the finished runs of a group; returns '' or the error."""
  from lossbench.comparison.runs import compare_runs

  runs = finished_runs(study, comparison)
  if len(runs) < 2 or is_compared(study, comparison):
    return ''
  path = comparison_path(study, comparison.name)
  on_status('compare', '')
  with (
    _logged_to(path, lambda line: on_status('compare', line)) as file,
    contextlib.redirect_stdout(file),
  ):
    try:
      compare_runs(
        [str(study.path(run)) for run in runs],
        output=str(path),
        root=str(study.workdir / 'runs'),
        step=comparison.step,
        with_cka=comparison.cka,
      )
      if not is_compared(study, comparison):
        raise RuntimeError(
          f'it ended without an error, but {path} has no record of the '
          f'checkpoints that are wanted of these {len(runs)} runs'
        )
    except Exception as error:  # see `do_run`
      return _failed(path, 'compare', error, file)
  error_path(path).unlink(missing_ok=True)
  return ''


def _failed(path, stage, error: Exception, file: IO[str]) -> str:
  message = storage.reason_of_bucket(error)
  if message:
    message = f'a bucket did not do what was asked: {message}'
  else:
    message = ' '.join(str(error).split()) or type(error).__name__
    # An error of ours says all there is to say; of others the place matters.
    if not isinstance(error, ValueError | OSError | FloatingPointError):
      message = f'{type(error).__name__}: {message}'
  traceback.print_exception(error, file=file)
  write_error(path, stage, message)
  return f'{stage}: {message}'
