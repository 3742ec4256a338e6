"""What of a study is done, read from its run directories alone.

A study wants of every run the measurements of one checkpoint, computed in the
run's own compute_dtype. A record of another one, by step or by fingerprint, or in
another dtype is as good as none; records of version 0.1, which have neither
fingerprint nor dtype, are told by their step.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from lossbench.runs.directory import (
  TRAINING,
  RunDirectory,
  differing_fields,
  read_json,
  write_json,
)
from lossbench.runs.history import best_epoch, read_history
from lossbench.runs.stored import StoredCheckpoint, find_checkpoint
from lossbench.study.configuration import apply_override
from lossbench.study.plan import (
  IMPORT,
  TRAIN,
  PlannedComparison,
  PlannedRun,
  Study,
  get_field,
)

EVALUATE, TRANSFER = 'evaluate', 'transfer'
EVALUATE_TRAINING, FINETUNE = 'evaluate training', 'finetune'


@dataclasses.dataclass(frozen=True)
class RunState:
  """Where a run stands.

  Attributes:
    missing: names of the stages that are still to be done, in order.
    step: optimiser steps that a checkpoint holds.
    num_steps: that the run takes; None before it has begun.
    error: 'stage: error' of the last attempt if it failed, or ''.
    waits_for: a group that must be trained first, or ''.
    wanted: the checkpoint to measure; None before the run is trained, or where
      it is damaged.
  """

  missing: tuple[str, ...]
  step: int
  num_steps: int | None
  error: str = ''
  waits_for: str = ''
  wanted: StoredCheckpoint | None = None

  @property
  def lacks_checkpoint(self) -> bool:
    """Whether the run is still to be trained or imported."""
    return bool({TRAIN, IMPORT} & set(self.missing))

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
    if not self.lacks_checkpoint:
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


def resolve_config(
  study: Study, run: PlannedRun
) -> ml_collections.ConfigDict | None:
  """A run's final configuration; None while its stop epoch is not known."""
  if not run.stop_epoch_from:
    return run.config
  best = {}
  for variant, sources in study.sources(run).items():
    histories = []
    for source in sources:
      if read_state(study, source).lacks_checkpoint:
        return None
      histories.append(read_history(RunDirectory(study.path(source))))
    best[variant] = best_epoch(histories)
  # Of equal variants the first, as they are listed.
  chosen = max(best, key=lambda variant: best[variant].mean)
  [source, *_] = study.sources(run)[chosen]
  config = run.config.copy_and_resolve_references()
  for field in source.varied:
    apply_override(config, f'{field}={get_field(source.config, field)}')
  # Rounded to steps, the last epoch may lie behind num_epochs.
  config.stop_epoch = min(best[chosen].epoch, config.num_epochs)
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
    try:
      stored = directory.read_config()
    except (FileNotFoundError, ValueError):  # missing or damaged: made again
      continue
    if directory.is_bare_claim():
      continue
    decided = set(study.chosen_fields(run))
    if run.stop_epoch_from:
      decided.add('stop_epoch')
    differing = [
      f'{name}: {old!r} there, {new!r} in the study'
      for name, old, new in differing_fields(stored, run.config)
      if name not in decided
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
  # Without the record of the last one nobody knows which is the best.
  trained = (
    num_steps is not None
    and step >= num_steps
    and find_checkpoint(directory, 'last') is not None
  )
  # The best so far of a run that is not over is not what is wanted.
  wanted = find_checkpoint(directory, run.step) if trained else None
  if not trained or _lacks_history(directory, run):
    missing.append(run.first_stage)
  if run.evaluate and not _is_evaluated(directory, run, wanted):
    missing.append(EVALUATE)
  if run.measures_training and not _is_evaluated_on_training(
    directory, run, wanted
  ):
    missing.append(EVALUATE_TRAINING)
  for target in run.transfer:
    path = directory.transfer_path(target.dataset, target.split)
    path = path / 'metrics.json'
    record = _read(path)
    # Before there were nearest neighbours they were not measured.
    if not (_is_of(record, run, wanted) and _has(record, 'num_neighbours')):
      missing.append(f'{TRANSFER} {target}')
  for dataset in run.finetune.datasets:
    record = _read(directory.finetune_path(dataset) / 'metrics.json')
    wants = record.get('grid') == run.finetune.grid
    if not (_is_of(record, run, wanted) and wants):
      missing.append(f'{FINETUNE} {dataset}')
  waits_for = ''
  if TRAIN in missing and run.stop_epoch_from:
    sources = study.runs_of(run.stop_epoch_from, run.objective)
    if any(read_state(study, source).lacks_checkpoint for source in sources):
      waits_for = run.stop_epoch_from
  error = _read_error(directory.path) if missing else ''
  return RunState(tuple(missing), step, num_steps, error, waits_for, wanted)


def _is_of(
  record: Mapping[str, Any], run: PlannedRun, wanted: StoredCheckpoint | None
) -> bool:
  """Whether a record, {} where there is none, is what is wanted of a run."""
  dtype = run.config.compute_dtype
  return (
    wanted is not None
    and record.get('step') == wanted.step
    and record.get('checkpoint', wanted.fingerprint) == wanted.fingerprint
    and record.get('compute_dtype', dtype) == dtype
  )


def _has(record: Mapping[str, Any], metric: str) -> bool:
  return any(m['name'] == metric for m in record.get('metrics', ()))


def _is_evaluated(directory, run: PlannedRun, wanted) -> bool:
  evaluation = _read(directory.evaluation_path)
  own = directory.eval_path(run.config.dataset, run.test_split)
  return (
    _is_of(evaluation, run, wanted)
    and evaluation.get('ood') in (True, run.ood)
    and set(run.ood_sets) <= set(evaluation.get('ood_sets', ()))
    # Which `lossbench.evaluate --split` writes alone.
    and _is_of(_read(own / 'metrics.json'), run, wanted)
  )


def _is_evaluated_on_training(directory, run: PlannedRun, wanted) -> bool:
  path = directory.eval_path(run.config.dataset, TRAINING)
  record = _read(path / 'metrics.json')
  return (
    _is_of(record, run, wanted)
    and record.get('num_wanted') == run.num_train_examples
  )


def wanted_checkpoints(study: Study) -> dict[str, StoredCheckpoint | None]:
  """Run -> the checkpoint to measure; None while it cannot be known."""
  return {run.name: read_state(study, run).wanted for run in study.runs}


def _num_steps(directory: RunDirectory) -> int | None:
  try:
    return directory.num_steps
  except ValueError:  # a damaged run.json is written again
    return None


def _lacks_history(directory: RunDirectory, run: PlannedRun) -> bool:
  """Whether training has to write it anew, from its last checkpoint."""
  try:
    read_history(directory)
  except FileNotFoundError:
    return bool(run.config.num_holdout)
  except ValueError:
    return True
  return False


def comparison_path(study: Study, name: str) -> pathlib.Path:
  """The directory of a comparison."""
  return study.workdir / 'comparisons' / name


def finished_runs(
  study: Study, comparison: PlannedComparison
) -> list[PlannedRun]:
  """The runs of a comparison whose evaluation is there."""
  found = []
  for run in study.runs:
    if run.name in comparison.runs:
      state = read_state(study, run)
      if not (state.lacks_checkpoint or EVALUATE in state.missing):
        found.append(run)
  return found


def is_compared(study: Study, comparison: PlannedComparison) -> bool:
  """Whether a comparison of exactly the finished runs is there.

  Of what is wanted of them: their checkpoints, on their own test split.
  """
  found = _read(comparison_path(study, comparison.name) / 'comparison.json')
  compared = found.get('runs', [])
  expected = finished_runs(study, comparison)
  return (
    len(compared) == len(expected) > 1
    and found.get('dataset') == expected[0].config.dataset
    and found.get('split') == expected[0].test_split
    and ('cka' in found or not comparison.cka)
    and all(
      # In comparisons of version 0.1 names tell no runs apart: made again.
      record.get('name') == run.name
      and _is_of(record, run, read_state(study, run).wanted)
      for record, run in zip(compared, expected, strict=True)
    )
  )
