"""Figure E.3: cosine distances within and between classes."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.figures import lines
from lossbench.report.records import NotRun, StudyRecords


def density(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Counts [bins] as a density over edges [bins + 1]; it integrates to 1."""
  return counts / max(counts.sum(), 1) / np.diff(edges)


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure E.3: densities, linear above and logarithmic below."""
  figure = Figure(figsize=(10, 7), layout='constrained')
  panels = figure.subplots(2, 1, sharex=True)
  drawn = False
  for key in study.keys(recipe):
    curves = [
      run.curves
      for run in study.runs_of(recipe, key)
      if 'cosine_distance_edges' in run.curves
    ]
    if not curves:
      continue
    drawn = True
    edges = curves[0]['cosine_distance_edges']
    centres = (edges[:-1] + edges[1:]) / 2
    for name, style in (('within', '-'), ('between', '--')):
      counts = sum(c[f'cosine_distance_{name}'] for c in curves)
      values = density(counts, edges)
      for axes in panels:
        axes.plot(
          centres,
          np.where(values > 0, values, np.nan),
          style,
          color=display.color(key),
          linewidth=1.3,
          label=display.label(key) if name == 'within' else None,
        )
  if not drawn:
    raise NotRun(f'not run: {study.rerun_command}')
  panels[0].set_title(
    'solid: same class, dashed: different classes', fontsize='medium'
  )
  panels[1].set_yscale('log')
  panels[1].set_xlabel('cosine distance')
  for axes in panels:
    axes.set_ylabel('density')
    axes.grid(alpha=0.3)
  lines.add_legend(figure, panels[0])
  return figure
