"""Training curves: what the holdout said at every evaluation."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, looks
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, RunRecords, StudyRecords

_PANELS = (
  ('top1_accuracy', 'holdout accuracy (%)', display.percent(1)),
  ('nll', 'holdout NLL (nats)', 1.0),
)


def _curve(run: RunRecords, metric: str) -> np.ndarray:
  """[evaluations, 2] epochs and values."""
  return np.array(
    [(r['epoch'], r[metric]) for r in run.history if metric in r]
  ).reshape(-1, 2)


def draw(study: StudyRecords, group: str) -> Drawing:
  """A line a run, coloured by its objective."""
  runs = [run for run in study.runs_of(group) if run.history]
  if not runs:
    raise NotRun(
      'not run: these runs keep no holdout (num_holdout=0), or have not begun: '
      f'{study.rerun_command}'
    )
  runs.sort(key=lambda run: looks.order(run.key))
  figure = Figure(figsize=(13, 4.6), layout='constrained')
  panels = figure.subplots(1, len(_PANELS))
  for axes, (metric, label, scale) in zip(panels, _PANELS, strict=True):
    drawn = set()
    for run in runs:
      curve = _curve(run, metric)
      axes.plot(
        curve[:, 0],
        scale * curve[:, 1],
        color=study.look(run.key).color,
        marker='.' if len(curve) < 20 else None,
        linewidth=1,
        alpha=0.8,
        label=None if run.key in drawn else looks.label(run.key),
      )
      drawn.add(run.key)
    axes.set_xlabel('epoch')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
  lines.add_legend(figure, panels[0])
  return Drawing(figure, describe_sizes((run.key for run in runs), ()))
