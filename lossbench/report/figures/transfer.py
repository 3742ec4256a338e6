"""Figure 5: transfer against relearning the source task, and temperature."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, statistics
from lossbench.report.figures import lines
from lossbench.report.records import NotRun, StudyRecords
from lossbench.report.tables import Key
from lossbench.report.temperatures import sweeps


def _accuracies(run) -> tuple[float | None, float | None]:
  """Mean over the transfer targets, and the relearned source task's."""
  relearned, others = None, []
  for target in run.transfer:
    value = run.transfer_value(target)
    if target.partition(':')[0] == run.dataset:
      relearned = value
    else:
      others.append(value)
  if not others or None in others:
    return None, relearned
  return float(np.mean(others)), relearned


def _points(study: StudyRecords, recipe: str, keys: Iterable[Key]) -> dict:
  """Key -> (mean, standard error) of transfer and of relearning."""
  points = {}
  for key in keys:
    pairs = [_accuracies(run) for run in study.runs_of(recipe, key)]
    pairs = [pair for pair in pairs if None not in pair]
    if pairs:
      points[key] = [
        statistics.mean_and_standard_error([pair[i] for pair in pairs])
        for i in (0, 1)
      ]
  return points


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure 5a: one point an objective; with temperatures 5b, joined by a line."""
  of_group = [s for s in sweeps(study) if recipe in s.recipes]
  drawn = [s for s in of_group if s.recipe == recipe]
  if of_group and not drawn:
    raise NotRun(f'not run by itself: drawn with {of_group[0].recipe}')
  swept = [key for sweep in of_group for key in sweep.keys.values()]
  points = _points(
    study, recipe, [key for key in study.keys(recipe) if key not in swept]
  )
  curves = [_points(s.study, recipe, s.keys.values()) for s in drawn]
  for curve in curves:
    points |= curve
  if not points:
    raise NotRun(
      'not run: this needs a transfer and the relearned source task of a group'
      f' (transfer=(...) in {study.config})'
    )
  figure = Figure(figsize=(8.5, 4.8), layout='constrained')
  axes = figure.subplots()
  for curve in curves:
    axes.plot(
      [display.percent(relearned[0]) for _, relearned in curve.values()],
      [display.percent(transfer[0]) for transfer, _ in curve.values()],
      color='#BBBBBB',
      zorder=0,
    )
  for key, (transfer, relearned) in points.items():
    axes.errorbar(
      display.percent(relearned[0]),
      display.percent(transfer[0]),
      xerr=display.percent(relearned[1] or 0),
      yerr=display.percent(transfer[1] or 0),
      color=display.color(key),
      marker=display.marker(key),
      linestyle='none',
      capsize=2,
      label=display.label(key),
    )
  axes.set_xlabel('accuracy of the relearned source task (%)')
  axes.set_ylabel('mean transfer accuracy (%)')
  axes.grid(alpha=0.3)
  lines.add_legend(figure, axes)
  return figure
