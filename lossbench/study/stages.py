"""Doing what is missing of a study, in this process.

Runs that share a recipe and an objective share compiled programs, for seeds and
hyperparameters are arguments of them.
"""

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator

from lossbench.runs.stored import StoredCheckpoint
from lossbench.runtime.console import LOGGER
from lossbench.study.plan import PlannedComparison, PlannedRun, Study
from lossbench.study.states import (
  EVALUATE,
  TRAIN,
  TRANSFER,
  comparison_path,
  error_path,
  finished_runs,
  is_compared,
  read_state,
  resolve_config,
  write_error,
)

# (stage, its newest line of log)
OnStatus = Callable[[str, str], None]


class _StatusHandler(logging.Handler):
  def __init__(self, on_line: Callable[[str], None]):
    super().__init__()
    self._on_line = on_line

  def emit(self, record):
    lines = record.getMessage().splitlines()
    self._on_line(lines[0] if lines else '')


@contextlib.contextmanager
def _logged_to(directory, on_line: Callable[[str], None]) -> Iterator[None]:
  """Sends lossbench's log and tables to <directory>/log.txt."""
  directory.mkdir(parents=True, exist_ok=True)
  handlers, propagate = LOGGER.handlers, LOGGER.propagate
  level = LOGGER.level
  with (directory / 'log.txt').open('a') as file:
    to_file = logging.StreamHandler(file)
    to_file.setFormatter(
      logging.Formatter('%(asctime)s %(message)s', '%Y-%m-%d %H:%M:%S')
    )
    LOGGER.handlers = [to_file, _StatusHandler(on_line)]
    LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)
    try:
      with contextlib.redirect_stdout(file):
        yield
    finally:
      LOGGER.handlers, LOGGER.propagate = handlers, propagate
      LOGGER.setLevel(level)


def _train(study: Study, run: PlannedRun):
  from lossbench.train import loop

  loop.train(
    resolve_config(study, run),
    workdir=str(study.path(run)),
    allow=study.allow,
  )


def _measure(study: Study, run: PlannedRun, stage: str):
  from lossbench.evaluation.checkpoint import evaluate_checkpoint
  from lossbench.probe.transfer import transfer_checkpoint

  path = str(study.path(run))
  if stage == EVALUATE:
    evaluate_checkpoint(path, step=run.step, ood=run.ood)
  else:
    [target] = [t for t in run.transfer if stage == f'{TRANSFER} {t}']
    transfer_checkpoint(path, target.dataset, split=target.split, step=run.step)


def _do_stage(study: Study, run: PlannedRun, stage: str):
  from lossbench.runs.checkpoints import DamagedCheckpointError

  if stage == TRAIN:
    _train(study, run)
    return
  try:
    _measure(study, run, stage)
  except DamagedCheckpointError as error:
    LOGGER.warning('%s Training again.', error)
    _train(study, run)  # makes it again
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


def do_run(study: Study, run: PlannedRun, on_status: OnStatus) -> str:
  """Does all missing stages of a run; returns '' or the error.

  Errors are written into the run's directory and end this run only.
  """
  path = study.path(run)
  for stage in read_state(study, run).missing:
    # What seemed to be of no checkpoint may have lacked a whole run.json only.
    if stage not in read_state(study, run).missing:
      continue

    def on_line(line, stage=stage):
      on_status(stage, line)

    on_status(stage, '')
    with _logged_to(path, on_line):
      try:
        _do_stage(study, run, stage)
        _check_done(study, run, stage)
      except Exception as error:
        # Whatever went wrong with this run, the others can go on.
        return _failed(path, stage, error)
  error_path(path).unlink(missing_ok=True)
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
  with _logged_to(path, lambda line: on_status('compare', line)):
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
      return _failed(path, 'compare', error)
  error_path(path).unlink(missing_ok=True)
  return ''


def _failed(path, stage, error: Exception) -> str:
  message = ' '.join(str(error).split()) or type(error).__name__
  # An error of ours says all there is to say; of others the place matters.
  if not isinstance(error, ValueError | OSError | FloatingPointError):
    message = f'{type(error).__name__}: {message}'
  traceback.print_exception(error, file=sys.stdout)  # into log.txt
  write_error(path, stage, message)
  return f'{stage}: {message}'
