"""What of a study is done, read from its run directories alone."""

import dataclasses
import pathlib

import ml_collections

from lossbench.early_stopping import best_epoch, read_history
from lossbench.runs.directory import (
  RunDirectory,
  differing_fields,
  read_json,
  write_json,
)
from lossbench.study.plan import PlannedComparison, PlannedRun, Study, Transfer

TRAIN, EVALUATE, TRANSFER = 'train', 'evaluate', 'transfer'


@dataclasses.dataclass(frozen=True)
class RunState:
  """Where a run stands.

  Attributes:
    missing: names of the stages that are still to be done, in order.
    step: optimiser steps that a checkpoint holds.
    num_steps: that the run takes; None before it has begun.
    error: 'stage: error' of the last attempt if it failed, or ''.
    waits_for: a group that must be trained first, or ''.
  """

  missing: tuple[str, ...]
  step: int
  num_steps: int | None
  error: str = ''
  waits_for: str = ''

  @property
  def done(self) -> bool:
    """Whether nothing is missing."""
    return not self.missing

  def describe(self) -> str:
    """A few words for a table."""
    if self.error:
      return f'failed: {self.error}'
    if self.done:
      return 'done'
    if self.waits_for:
      return f'waits for {self.waits_for}'
    if self.missing[0] != TRAIN:
      return f'to {self.missing[0]}'
    if self.step and self.num_steps:
      return f'trained {self.step / self.num_steps:.0%}'
    return 'waiting'


def error_path(directory: pathlib.Path) -> pathlib.Path:
  """Where the error of the last attempt lies."""
  return directory / 'error.json'


def write_error(directory: pathlib.Path, stage: str, error: str):
  """Records that a stage failed."""
  directory.mkdir(parents=True, exist_ok=True)
  write_json(error_path(directory), {'stage': stage, 'error': error})


def _read_error(directory: pathlib.Path) -> str:
  try:
    record = read_json(error_path(directory))
    return f'{record["stage"]}: {record["error"]}'
  except FileNotFoundError:
    return ''
  except (ValueError, KeyError):
    return 'an attempt failed; its error.json is damaged'


def _read(path: pathlib.Path) -> dict:
  """A JSON record; {} if it is missing or damaged, and so to be made again."""
  try:
    return read_json(path)
  except (FileNotFoundError, ValueError):
    return {}


def transfer_directory(run: RunDirectory, target: Transfer) -> pathlib.Path:
  """Where `lossbench.transfer` writes."""
  if target.split is None:
    return run.path / 'eval' / f'transfer-{target.dataset}'
  return run.eval_path(f'transfer-{target.dataset}', target.split)


def resolve_config(
  study: Study, run: PlannedRun
) -> ml_collections.ConfigDict | None:
  """A run's final configuration; None while its stop epoch is not known."""
  if not run.stop_epoch_from:
    return run.config
  sources = study.runs_of(run.stop_epoch_from, run.objective)
  histories = []
  for source in sources:
    if TRAIN in read_state(study, source).missing:
      return None
    histories.append(read_history(RunDirectory(study.path(source))))
  config = run.config.copy_and_resolve_references()
  # Rounded to steps, the last epoch may lie behind num_epochs.
  config.stop_epoch = min(best_epoch(histories).epoch, config.num_epochs)
  return config


def final_configs(
  study: Study,
) -> dict[str, ml_collections.ConfigDict | None]:
  """Run -> its final configuration; None while it cannot be known."""
  found = {}
  for run in study.runs:
    try:
      found[run.name] = resolve_config(study, run)
    except ValueError:  # of a damaged history, which its run will report
      found[run.name] = None
  return found


def check_runs(study: Study):
  """Raises ValueError if a run in the directory has another configuration."""
  for run in study.runs:
    directory = RunDirectory(study.path(run))
    stored = _read(directory.config_path)
    if not stored:
      continue
    differing = [
      f'{name}: {old!r} there, {new!r} in the study'
      for name, old, new in differing_fields(
        ml_collections.ConfigDict(stored), run.config
      )
      if not (name == 'stop_epoch' and run.stop_epoch_from)
    ]
    if differing:
      raise ValueError(
        f'{directory.path} is a run of another configuration: '
        f'{"; ".join(differing)}. Choose another --workdir, or delete the runs '
        'that are to be made anew.'
      )


def read_state(study: Study, run: PlannedRun) -> RunState:
  """Where a run stands."""
  directory = RunDirectory(study.path(run))
  missing = []
  num_steps, step = _num_steps(directory), directory.last_step
  if num_steps is None or step < num_steps:
    missing.append(TRAIN)
  evaluation = _read(directory.evaluation_path)
  # A checkpoint that was evaluated before the run was over does not count.
  evaluated = (
    not missing
    and evaluation.get('last_step') == step
    and evaluation.get('ood') in (True, run.ood)
    and _read(_own_metrics_path(directory, run))
  )
  if run.evaluate and not evaluated:
    missing.append(EVALUATE)
  for target in run.transfer:
    path = transfer_directory(directory, target) / 'metrics.json'
    if not evaluated or _read(path).get('step') != evaluation['step']:
      missing.append(f'{TRANSFER} {target}')
  waits_for = ''
  if TRAIN in missing and run.stop_epoch_from:
    sources = study.runs_of(run.stop_epoch_from, run.objective)
    if any(TRAIN in read_state(study, source).missing for source in sources):
      waits_for = run.stop_epoch_from
  error = _read_error(directory.path) if missing else ''
  return RunState(tuple(missing), step, num_steps, error, waits_for)


def _num_steps(directory: RunDirectory) -> int | None:
  try:
    return directory.num_steps
  except ValueError:  # a damaged run.json is written again
    return None


def _own_metrics_path(directory: RunDirectory, run: PlannedRun):
  own = directory.eval_path(run.config.dataset, run.test_split)
  return own / 'metrics.json'


def comparison_path(study: Study, name: str) -> pathlib.Path:
  """The directory of a comparison."""
  return study.workdir / 'comparisons' / name


def finished_runs(
  study: Study, comparison: PlannedComparison
) -> list[PlannedRun]:
  """The runs of a comparison whose evaluation is there."""
  return [
    run
    for run in study.runs
    if run.name in comparison.runs
    and not {TRAIN, EVALUATE} & set(read_state(study, run).missing)
  ]


def is_compared(study: Study, comparison: PlannedComparison) -> bool:
  """Whether a comparison of exactly the finished runs is there."""
  found = _read(comparison_path(study, comparison.name) / 'comparison.json')
  # The end of the path alone: a study may be moved, or spelt another way.
  names = [
    run.get('path', '').rpartition('/runs/')[2] for run in found.get('runs', [])
  ]
  expected = finished_runs(study, comparison)
  return (
    len(names) > 1
    and names == [run.name for run in expected]
    and ('cka' in found or not comparison.cka)
  )
