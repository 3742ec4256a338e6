"""Reliability diagrams, which the paper's ECE summarises."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import looks
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, StudyRecords


def _pool(curves) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Examples, mean confidence and accuracy [bins] of all seeds together."""
  counts = np.array([c['reliability_num_examples'] for c in curves], float)
  total = counts.sum(axis=0)

  def average(name):
    values = np.array([c[f'reliability_{name}'] for c in curves])
    sums = np.sum(np.nan_to_num(values) * counts, axis=0)
    return np.where(total > 0, sums / np.maximum(total, 1), np.nan)

  return total, average('confidence'), average('accuracy')


def draw(study: StudyRecords, group: str) -> Drawing:
  """One small diagram an objective, all of its seeds pooled."""
  found = [
    run
    for run in study.runs_of(group)
    if 'reliability_num_examples' in run.curves
  ]
  if not found:
    raise NotRun(f'not run: {study.rerun_command}')
  keys = sorted({run.key for run in found}, key=looks.order)
  columns = min(5, len(keys))
  rows = -(-len(keys) // columns)
  figure = Figure(figsize=(2.7 * columns, 2.9 * rows), layout='constrained')
  grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
  for axes in grid.ravel()[len(keys) :]:
    axes.set_axis_off()
  for axes, key in zip(grid.ravel(), keys, strict=False):
    total, confidence, accuracy = _pool(
      [run.curves for run in found if run.key == key]
    )
    color = study.look(key).color
    axes.plot([0, 1], [0, 1], color='#999999', linewidth=1)
    axes.scatter(
      confidence,
      accuracy,
      s=8 + 140 * total / max(total.sum(), 1),
      color=color,
      alpha=0.8,
    )
    axes.plot(confidence, accuracy, color=color, linewidth=0.8)
    axes.set_title(looks.label(key), fontsize='small')
  figure.supxlabel('confidence', fontsize='medium')
  figure.supylabel('accuracy', fontsize='medium')
  sizes = [int(run.curves['reliability_num_examples'].sum()) for run in found]
  return Drawing(
    figure,
    describe_sizes((run.key for run in found), sizes, what='test examples'),
  )
