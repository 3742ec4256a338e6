"""Figure E.1: angular visual hardness."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, statistics
from lossbench.report.records import NotRun, StudyRecords


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure E.1: mean over examples, one bar an objective, one dot a seed."""
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
  figure = Figure(figsize=(8.5, 4.5), layout='constrained')
  axes = figure.subplots()
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
  return figure
