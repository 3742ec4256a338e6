"""Figure E.2: singular values of features, output kernel, class centroids."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, looks
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, RunRecords, StudyRecords

# Panel, title, and the least ratio to the largest value that is no rounding:
# activations are known by their second moments in float32, half the digits.
_PANELS = (
  ('activation', 'a: penultimate features', 3e-4),
  ('kernel', 'b: kernel of the output layer', 1e-7),
  ('centroid', 'c: class centroids', 1e-7),
)


def _dead_units(runs: list[RunRecords]) -> str:
  """'dead units: Softmax 12.5 %, ...' of runs that were asked for them."""
  by_key = {}
  for run in runs:
    value = run.value('dead_unit_fraction')
    if value is not None:
      by_key.setdefault(run.key, []).append(value)
  texts = [
    f'{looks.label(key)} {display.percent(np.mean(by_key[key])):.1f} %'
    for key in sorted(by_key, key=looks.order)
  ]
  return f'dead units in a (mean): {", ".join(texts)}' if texts else ''


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure E.2: relative to the largest, mean over seeds."""
  figure = Figure(figsize=(14, 4.4), layout='constrained')
  panels = figure.subplots(1, 3)
  runs = [
    run
    for run in study.runs_of(group)
    if any(f'{name}_singular_values' in run.curves for name, *_ in _PANELS)
  ]
  if not runs:
    raise NotRun(f'not run: {study.rerun_command}')
  for axes, (name, title, least) in zip(panels, _PANELS, strict=True):
    for key in sorted({run.key for run in runs}, key=looks.order):
      spectra = [
        run.curves[f'{name}_singular_values']
        for run in runs
        if run.key == key and f'{name}_singular_values' in run.curves
      ]
      if not spectra:
        continue
      mean = np.mean([s / s[0] for s in spectra], axis=0)
      look = study.look(key)
      axes.plot(
        np.arange(1, len(mean) + 1),
        np.where(mean > least, mean, np.nan),
        color=look.color,
        marker=look.marker,
        markevery=max(1, len(mean) // 10),
        markersize=4,
        linewidth=1.3,
        label=looks.label(key),
      )
    axes.set_yscale('log')
    axes.set_title(title, fontsize='medium')
    axes.set_xlabel('rank')
    axes.grid(alpha=0.3)
  panels[0].set_ylabel('singular value / largest')
  lines.add_legend(figure, panels[1])
  measured = [run.measured('participation_ratio') for run in runs]
  sizes = describe_sizes(
    (run.key for run in runs),
    [found.n for found in measured if found],
    what='test examples',
  )
  dead = _dead_units(runs)
  return Drawing(figure, f'{sizes}; {dead}' if dead else sizes)
