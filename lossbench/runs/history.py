"""Evaluations of runs on their holdouts, and the epoch they say to stop at."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lossbench.runs import records
from lossbench.runs.directory import RunDirectory, differing_fields, read_json

_METRIC = 'top1_accuracy'

History = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class BestEpoch:
  """An epoch and its metric's mean over runs.

  Attributes:
    epoch: passes over the training split, possibly a fraction.
    step: optimiser steps.
    mean: over the runs.
    standard_error: of the mean (ddof=1); None of a single run.
    num_runs: that were averaged.
  """

  epoch: float
  step: int
  mean: float
  standard_error: float | None
  num_runs: int


def epoch_candidates(
  histories: Sequence[History], *, metric: str = _METRIC
) -> list[BestEpoch]:
  """Every evaluation that all runs have, in order, averaged over the runs.

  Args:
    histories: one per run: records with 'step', 'epoch' and the metric.
    metric: to average.

  Raises:
    ValueError: if there are no runs, or one has no evaluations, or none is
      common to all, or their epochs are not of the same number of steps, or a
      record lacks the metric.
  """
  num_runs = len(histories)
  if not num_runs:
    raise ValueError('There are no runs. Name at least one run directory.')
  values: dict[tuple[int, float], list[float]] = {}
  steps_per_epoch = set()
  for number, history in enumerate(histories, start=1):
    if not history:
      raise ValueError(
        f'Run {number} of {num_runs} has no evaluations on a holdout. Train it '
        'with --config.num_holdout > 0, or leave it out.'
      )
    for record in history:
      step, epoch, value = record['step'], record['epoch'], record.get(metric)
      if value is None or not math.isfinite(value):
        raise ValueError(
          f'Run {number} of {num_runs} has no finite {metric!r} at step {step}: '
          f'{value}. Leave it out.'
        )
      steps_per_epoch.add(round(step / epoch))
      values.setdefault((step, epoch), []).append(value)
  if len(steps_per_epoch) > 1:
    raise ValueError(
      'The epochs of the runs have different numbers of steps: '
      f'{", ".join(map(str, sorted(steps_per_epoch)))}. Give runs of one '
      'configuration.'
    )
  # Not above: it takes long, and help and mistakes wait for nothing.
  from scipy import stats

  candidates = [
    BestEpoch(
      epoch=epoch,
      step=step,
      mean=statistics.fmean(found),
      standard_error=float(stats.sem(found)) if num_runs > 1 else None,
      num_runs=num_runs,
    )
    for (step, epoch), found in sorted(values.items())
    if len(found) == num_runs
  ]
  if not candidates:
    raise ValueError(
      f'No evaluation is common to all {num_runs} runs. Give runs with the '
      'same --config.eval_every_epochs.'
    )
  return candidates


def best_epoch(
  histories: Sequence[History], *, metric: str = _METRIC
) -> BestEpoch:
  """The epoch of the best mean over runs; of equal ones the earliest.

  Args:
    histories: one per run: records with 'step', 'epoch' and the metric. Only
      evaluations that all runs have count.
    metric: of `lossbench.runs.records`, which knows whether more is better.

  Raises:
    ValueError: see `epoch_candidates`; or if no direction of the metric is
      better, or it is unknown.
  """
  direction = records.get_measure(metric).direction
  if direction == records.NEUTRAL:
    raise ValueError(f'Neither more nor less of {metric!r} is better.')
  candidates = epoch_candidates(histories, metric=metric)
  pick = max if direction == records.HIGHER else min
  best = pick(candidate.mean for candidate in candidates)
  # Means that are equal as fractions may differ in the last bit; means of
  # unequal counts differ by 1 / (examples * runs) at least.
  return next(
    candidate
    for candidate in candidates
    if math.isclose(candidate.mean, best, rel_tol=1e-9, abs_tol=1e-12)
  )


def read_history(run: RunDirectory) -> list[dict[str, float]]:
  """A run's evaluations on its holdout, in order.

  Raises:
    FileNotFoundError: if it has not been evaluated.
    ValueError: if the file is damaged.
  """
  path = run.history_path
  if not path.exists():
    raise FileNotFoundError(
      f'{run.path} has no history.json: it was trained without a holdout, or '
      'has not come to its first evaluation. Train it with '
      '--config.num_holdout > 0, or leave it out.'
    )
  remedy = (
    "Run this run's command again, which writes it anew from the newest "
    'checkpoint, or leave this run out.'
  )
  history = read_json(path, remedy=remedy)
  if not (isinstance(history, list) and all(map(_is_evaluation, history))):
    raise ValueError(
      f'{path} is damaged: it is not a list of records with step and epoch. '
      f'{remedy}'
    )
  return history


def _is_evaluation(record: Any) -> bool:
  return (
    isinstance(record, dict)
    and all(isinstance(value, int | float) for value in record.values())
    and record.get('step', 0) > 0
    and record.get('epoch', 0) > 0
  )


def check_one_configuration(runs: Sequence[RunDirectory]):
  """Raises ValueError unless the runs differ in their seeds and in nothing else.

  Operational fields, which change no number, may differ.
  """
  configs = [run.read_config() for run in runs]
  path_of_seed = {}
  for run, config in zip(runs, configs, strict=True):
    differing = [
      f'{name}: {old!r} there, {new!r} here'
      for name, old, new in differing_fields(configs[0], config)
      if name != 'seed'
    ]
    if differing:
      raise ValueError(
        f'{run.path} and {runs[0].path} are runs of different configurations. '
        f'Differing fields: {"; ".join(differing)}. Give runs that differ in '
        'their seeds only.'
      )
    if config.seed in path_of_seed:
      raise ValueError(
        f'{run.path} and {path_of_seed[config.seed]} have the same seed '
        f'{config.seed}, so they are one run twice. Leave one out.'
      )
    path_of_seed[config.seed] = run.path
