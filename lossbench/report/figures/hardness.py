"""Figure E.1: angular visual hardness."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, statistics
from lossbench.report.figures import lines
from lossbench.report.figures.distances import density
from lossbench.report.records import NotRun, StudyRecords


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure E.1: densities over examples, and their means."""
  values = {}
  for key in study.keys(recipe):
    found = [
      value
      for run in study.runs_of(recipe, key)
      if (value := run.value('angular_visual_hardness')) is not None
    ]
    if found:
      values[key] = found
  if not values:
    raise NotRun(f'not run: {study.rerun_command}')
  figure = Figure(figsize=(13, 5.2), layout='constrained')
  left, axes = figure.subplots(1, 2)
  for key in values:
    curves = [
      run.curves
      for run in study.runs_of(recipe, key)
      if 'hardness' in run.curves
    ]
    if not curves:  # evaluated before there were any
      continue
    edges = curves[0]['hardness_edges']
    left.plot(
      (edges[:-1] + edges[1:]) / 2,
      density(sum(c['hardness'] for c in curves), edges),
      color=display.color(key),
      linewidth=1.3,
      label=display.label(key),
    )
  left.set_title('a: densities, seeds pooled', fontsize='medium')
  left.set_xlabel('angular visual hardness')
  left.set_ylabel('density')
  left.grid(alpha=0.3)
  for place, (key, found) in enumerate(values.items()):
    mean, error = statistics.mean_and_standard_error(found)
    axes.bar(
      place,
      mean,
      yerr=error,
      capsize=3,
      color=display.color(key),
      alpha=0.85,
      width=0.7,
    )
    spread = np.linspace(-0.15, 0.15, len(found)) if len(found) > 1 else [0]
    axes.scatter(
      place + np.array(spread),
      found,
      s=14,
      color='white',
      edgecolor='black',
      zorder=3,
      linewidth=0.7,
    )
  labels = [display.label(key) for key in values]
  axes.set_xticks(range(len(labels)), labels, rotation=30, ha='right')
  axes.set_ylabel('angular visual hardness')
  axes.grid(axis='y', alpha=0.3)
  axes.set_axisbelow(True)
  axes.set_title('b: means', fontsize='medium')
  if left.lines:
    lines.add_legend(figure, left)
  return figure
