"""Figure E.2: singular values of features, output kernel, class centroids."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.figures import lines
from lossbench.report.records import NotRun, StudyRecords

_PANELS = (
  ('activation', 'a: penultimate features'),
  ('kernel', 'b: kernel of the output layer'),
  ('centroid', 'c: class centroids'),
)


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure E.2: relative to the largest, mean over seeds."""
  figure = Figure(figsize=(14, 4.4), layout='constrained')
  panels = figure.subplots(1, 3)
  drawn = False
  for axes, (name, title) in zip(panels, _PANELS, strict=True):
    for key in study.keys(recipe):
      spectra = [
        run.curves[f'{name}_singular_values']
        for run in study.runs_of(recipe, key)
        if f'{name}_singular_values' in run.curves
      ]
      if not spectra:
        continue
      drawn = True
      mean = np.mean([s / s[0] for s in spectra], axis=0)
      # The last one of centred centroids is zero but for rounding.
      mean = np.where(mean > 1e-7, mean, np.nan)
      axes.plot(
        np.arange(1, len(mean) + 1),
        mean,
        color=display.color(key),
        marker=display.marker(key),
        markevery=max(1, len(mean) // 10),
        markersize=4,
        linewidth=1.3,
        label=display.label(key),
      )
    axes.set_yscale('log')
    axes.set_title(title, fontsize='medium')
    axes.set_xlabel('rank')
    axes.grid(alpha=0.3)
  if not drawn:
    raise NotRun(f'not run: {study.rerun_command}')
  panels[0].set_ylabel('singular value / largest')
  lines.add_legend(figure, panels[0])
  return figure
