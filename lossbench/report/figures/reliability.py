"""Reliability diagrams, which the paper's ECE summarises."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.records import NotRun, StudyRecords


def draw(study: StudyRecords, recipe: str) -> Figure:
  """One small diagram an objective, all of its seeds pooled."""
  pooled = {}
  for key in study.keys(recipe):
    curves = [
      run.curves
      for run in study.runs_of(recipe, key)
      if 'reliability_num_examples' in run.curves
    ]
    if curves:
      counts = np.array([c['reliability_num_examples'] for c in curves], float)
      total = counts.sum(axis=0)

      def average(name, curves=curves, counts=counts, total=total):
        values = np.array([c[f'reliability_{name}'] for c in curves])
        sums = np.sum(np.nan_to_num(values) * counts, axis=0)
        return np.where(total > 0, sums / np.maximum(total, 1), np.nan)

      pooled[key] = total, average('confidence'), average('accuracy')
  if not pooled:
    raise NotRun(f'not run: {study.rerun_command}')
  columns = min(5, len(pooled))
  rows = -(-len(pooled) // columns)
  figure = Figure(figsize=(2.7 * columns, 2.9 * rows), layout='constrained')
  grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
  for axes, (key, (total, confidence, accuracy)) in zip(
    grid.ravel(), pooled.items(), strict=False
  ):
    axes.plot([0, 1], [0, 1], color='#999999', linewidth=1)
    axes.scatter(
      confidence,
      accuracy,
      s=8 + 140 * total / total.sum(),
      color=display.color(key),
      alpha=0.8,
    )
    axes.plot(confidence, accuracy, color=display.color(key), linewidth=0.8)
    axes.set_title(display.label(key), fontsize='small')
  for axes in grid.ravel()[len(pooled) :]:
    axes.set_axis_off()
  figure.supxlabel('confidence', fontsize='medium')
  figure.supylabel('accuracy', fontsize='medium')
  return figure
