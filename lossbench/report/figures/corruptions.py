"""Accuracy under each corruption, by severity."""

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from lossbench.report import corruptions, display, looks
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, StudyRecords

_PANELS_A_ROW = 4


def _draw_panel(study, group, axes, members):
  severities = [member.severity for member in members]
  for key in study.keys(group):
    rows = corruptions.curves(study.runs_of(group, key), members)
    rows = display.percent(1) * rows[~np.isnan(rows).all(axis=1)]
    if not len(rows):
      continue
    look = study.look(key)
    axes.errorbar(
      severities,
      np.mean(rows, axis=0),
      yerr=stats.sem(rows, axis=0) if len(rows) > 1 else None,
      color=look.color,
      marker=look.marker,
      markersize=4,
      linewidth=1.2,
      capsize=2,
      label=looks.label(key),
    )
  axes.set_xticks(severities)
  axes.grid(alpha=0.3)


def draw(study: StudyRecords, group: str) -> Drawing:
  """A panel for each corruption, a line for each objective."""
  members = corruptions.members(study, group)
  if not members:
    raise NotRun(
      'not run: no corruptions of this data set were measured: '
      f'{study.rerun_command}'
    )
  panels = {
    f'{family}: {corruption}': of_corruption
    for family, of_family in corruptions.by(members, 'family').items()
    for corruption, of_corruption in corruptions.by(
      of_family, 'corruption'
    ).items()
    # What was not prepared has no panel.
    if np.isfinite(
      corruptions.curves(study.runs_of(group), of_corruption)
    ).any()
  }
  num_rows = -(-len(panels) // _PANELS_A_ROW)
  figure = Figure(figsize=(16, 1 + 3.2 * num_rows), layout='constrained')
  grid = figure.subplots(num_rows, _PANELS_A_ROW, squeeze=False)
  for axes in grid.ravel():
    axes.set_axis_off()  # until it is drawn
  for axes, (title, of_corruption) in zip(
    grid.ravel(), panels.items(), strict=False
  ):
    axes.set_axis_on()
    axes.set_title(title, fontsize='small')
    _draw_panel(study, group, axes, of_corruption)
  for axes in grid[:, 0]:
    axes.set_ylabel('top-1 (%)')
  for axes in grid[-1]:
    axes.set_xlabel('severity')
  lines.add_legend(figure, grid[0, 0])
  runs = [
    run
    for run in study.runs_of(group)
    if any(corruptions.accuracy(run, m) is not None for m in members)
  ]
  return Drawing(figure, describe_sizes((run.key for run in runs), ()))
