"""Figure E.2: singular values of features, output kernel, class centroids."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, looks
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import (
  Drawing,
  Split,
  describe_splits,
  measured_splits,
)
from lossbench.report.records import RunRecords, StudyRecords

# Panel, title, and the least ratio to the largest value that is no rounding:
# activations are known by their second moments in float32, half the digits.
_PANELS = (
  ('activation', 'penultimate features', 3e-4),
  ('centroid', 'class centroids', 1e-7),
  ('kernel', 'kernel of the output layer', 1e-7),
)


def _curves(run: RunRecords, split: Split) -> dict[str, np.ndarray]:
  curves = run.training_curves if split.is_training else run.curves
  names = [f'{name}_singular_values' for name, *_ in _PANELS]
  return {name: curves[name] for name in names if name in curves}


def _dead_units(runs: list[RunRecords], split: Split) -> str:
  """'dead units: Softmax 12.5 %, ...' of runs that were asked for them."""
  by_key = {}
  for run in runs:
    found = run.measured('dead_unit_fraction', training=split.is_training)
    if found and found.value is not None:
      by_key.setdefault(run.key, []).append(found.value)
  texts = [
    f'{looks.label(key)} {display.percent(np.mean(by_key[key])):.1f} %'
    for key in sorted(by_key, key=looks.order)
  ]
  where = split.title
  return f'dead units on {where} (mean): {", ".join(texts)}' if texts else ''


def _draw_panel(study, axes, spectra, least):
  """Relative to the largest, mean over seeds."""
  for key, of_seeds in spectra.items():
    mean = np.mean([values / values[0] for values in of_seeds], axis=0)
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
  axes.set_xlabel('rank')
  axes.grid(alpha=0.3)


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure E.2: a row of panels for each split; the kernel is of neither."""
  splits = measured_splits(
    study, group, lambda run, split: bool(_curves(run, split))
  )
  figure = Figure(figsize=(14, 4.4 * len(splits)), layout='constrained')
  grid = figure.subplots(len(splits), len(_PANELS), squeeze=False)
  found = []
  for row, split in zip(grid, splits, strict=True):
    runs = [run for run in study.runs_of(group) if _curves(run, split)]
    for axes, (name, title, least) in zip(row, _PANELS, strict=True):
      if name == 'kernel' and split is not splits[0]:
        axes.set_axis_off()
        continue
      spectra = {}
      for run in sorted(runs, key=lambda run: looks.order(run.key)):
        values = _curves(run, split).get(f'{name}_singular_values')
        if values is not None:
          spectra.setdefault(run.key, []).append(values)
      _draw_panel(study, axes, spectra, least)
      where = '' if name == 'kernel' else f', {split.title}'
      axes.set_title(f'{title}{where}', fontsize='medium')
    row[0].set_ylabel('singular value / largest')
    ratios = [
      run.measured('participation_ratio', training=split.is_training)
      for run in runs
    ]
    found.append((split, [r.key for r in runs], [r.n for r in ratios if r]))
  lines.add_legend(figure, grid[0, -1])
  dead = [
    _dead_units([r for r in study.runs_of(group) if _curves(r, split)], split)
    for split in splits
  ]
  sizes = describe_splits(study, group, found)
  return Drawing(figure, '; '.join(filter(None, [sizes, *dead])))
