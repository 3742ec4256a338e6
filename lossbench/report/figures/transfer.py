"""Figure 5: transfer against relearning the source task, and temperature."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, statistics
from lossbench.report.figures import lines
from lossbench.report.records import NotRun, StudyRecords


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


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure 5a: one point an objective; with temperatures 5b, joined by a line."""
  points = {}
  for key in study.keys(recipe):
    pairs = [_accuracies(run) for run in study.runs_of(recipe, key)]
    pairs = [pair for pair in pairs if None not in pair]
    if pairs:
      points[key] = [
        statistics.mean_and_standard_error([pair[i] for pair in pairs])
        for i in (0, 1)
      ]
  if not points:
    raise NotRun(
      'not run: this needs a transfer and the relearned source task of a group'
      f' (transfer=(...) in {study.config})'
    )
  figure = Figure(figsize=(8.5, 4.8), layout='constrained')
  axes = figure.subplots()
  if all(key[1].startswith('temperature=') for key in points):
    axes.plot(
      [p[1][0] * 100 for p in points.values()],
      [p[0][0] * 100 for p in points.values()],
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
