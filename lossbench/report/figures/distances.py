"""Figure E.3: cosine distances within and between classes."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.metrics.density import smooth_density
from lossbench.report import looks
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import (
  Drawing,
  Split,
  describe_splits,
  measured_splits,
)
from lossbench.report.records import RunRecords, StudyRecords

_NUM_POINTS = 801
# Densities that the logarithmic panel shows, below the highest.
_DECADES = 5


def num_examples_of(curves) -> int:
  """The number of examples n of which there are P = n (n - 1) / 2 pairs."""
  pairs = curves['cosine_distance_within'].sum()
  pairs += curves['cosine_distance_between'].sum()
  return round((1 + np.sqrt(1 + 8 * float(pairs))) / 2)


def _curves(run: RunRecords, split: Split) -> dict[str, np.ndarray]:
  """Those of cosine distances; {} where there are none."""
  curves = run.training_curves if split.is_training else run.curves
  return curves if 'cosine_distance_edges' in curves else {}


def _draw_densities(study, panels, by_key):
  """Linear above and logarithmic below."""
  highest = 0.0
  for key, curves in by_key.items():
    edges = curves[0]['cosine_distance_edges']
    points = np.linspace(edges[0], edges[-1], _NUM_POINTS)
    for name, style in (('within', '-'), ('between', '--')):
      density = smooth_density(
        sum(c[f'cosine_distance_{name}'] for c in curves),
        edges,
        points,
        # Of one seed: all of them see the same examples.
        num_examples=num_examples_of(curves[0]),
      )
      highest = max(highest, float(np.nan_to_num(density).max()))
      for axes in panels:
        axes.plot(
          points,
          density,
          style,
          color=study.look(key).color,
          linewidth=1.3,
          label=looks.label(key) if name == 'within' else None,
        )
  panels[0].set_ylim(bottom=0)
  panels[1].set_yscale('log')
  panels[1].set_ylim(highest * 10.0**-_DECADES, highest * 2)
  panels[1].set_xlabel('cosine distance')
  for axes in panels:
    axes.set_ylabel('density')
    axes.grid(alpha=0.3)


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure E.3: smooth densities, a column of panels for each split."""
  splits = measured_splits(
    study, group, lambda run, split: bool(_curves(run, split))
  )
  figure = Figure(figsize=(3 + 6 * len(splits), 7), layout='constrained')
  grid = figure.subplots(2, len(splits), sharex=True, squeeze=False)
  found = []
  for panels, split in zip(grid.T, splits, strict=True):
    runs = [run for run in study.runs_of(group) if _curves(run, split)]
    by_key = {}
    for run in sorted(runs, key=lambda run: looks.order(run.key)):
      by_key.setdefault(run.key, []).append(_curves(run, split))
    _draw_densities(study, panels, by_key)
    panels[0].set_title(
      f'{split.title}\nsolid: same class, dashed: different classes',
      fontsize='medium',
    )
    sizes = [num_examples_of(_curves(run, split)) for run in runs]
    found.append((split, [run.key for run in runs], sizes))
  lines.add_legend(figure, grid[0, -1])
  return Drawing(figure, describe_splits(study, group, found))
