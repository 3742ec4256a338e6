"""Figure 5: transfer against relearning the source task, and temperature."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, looks, statistics
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.looks import Key
from lossbench.report.records import NotRun, RunRecords, StudyRecords
from lossbench.report.tables.columns import relearning_notes
from lossbench.report.temperatures import sweeps


def _accuracies(run: RunRecords) -> tuple[float, float] | None:
  """Mean over the transfer targets, and the relearned source task's."""
  relearned, others = [], []
  for target in run.transfer:
    found = run.transferred(target.name)
    own = target.dataset == run.dataset
    (relearned if own else others).append(found and found.value)
  if not others or not relearned or None in (*others, *relearned):
    return None
  return float(np.mean(others)), float(np.mean(relearned))


def _points(
  study: StudyRecords, group: str, keys: Iterable[Key]
) -> dict[Key, list[tuple[float, float]]]:
  """Key -> (transfer, relearning) of each seed that has both."""
  points = {}
  for key in keys:
    pairs = [_accuracies(run) for run in study.runs_of(group, key)]
    pairs = [pair for pair in pairs if pair]
    if pairs:
      points[key] = pairs
  return points


def _draw_points(study, axes, points):
  for key, pairs in points.items():
    (transfer, y_error), (relearned, x_error) = (
      statistics.mean_and_standard_error([pair[i] for pair in pairs])
      for i in (0, 1)
    )
    look = study.look(key)
    axes.errorbar(
      display.percent(relearned),
      display.percent(transfer),
      xerr=display.percent(x_error or 0),
      yerr=display.percent(y_error or 0),
      color=look.color,
      marker=look.marker,
      linestyle='none',
      capsize=2,
      label=looks.label(key),
    )


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure 5a: one point an objective; with temperatures 5b, joined by a line."""
  of_group = [s for s in sweeps(study) if group in s.groups]
  drawn = [s for s in of_group if s.group == group]
  if of_group and not drawn:
    raise NotRun(f'not run by itself: drawn with {of_group[0].group}')
  swept = [key for sweep in of_group for key in sweep.keys.values()]
  points = _points(
    study, group, [key for key in study.keys(group) if key not in swept]
  )
  curves = [_points(s.study, group, s.keys.values()) for s in drawn]
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
    means = display.percent(
      np.array([np.mean(pairs, axis=0) for pairs in curve.values()])
    )
    if len(means):
      axes.plot(means[:, 1], means[:, 0], color='#BBBBBB', zorder=0)
  _draw_points(study, axes, points)
  axes.set_xlabel('accuracy of the relearned source task (%)')
  axes.set_ylabel('mean transfer accuracy (%)')
  axes.grid(alpha=0.3)
  lines.add_legend(figure, axes)
  keys = [key for key, pairs in points.items() for _ in pairs]
  notes = [describe_sizes(keys, ())]
  for name in dict.fromkeys([group, *(g for s in drawn for g in s.groups)]):
    notes += relearning_notes(study, name)
  return Drawing(figure, '; '.join(notes))
