"""Figure E.3: cosine distances within and between classes."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.metrics.density import smooth_density
from lossbench.report import looks
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, StudyRecords

_NUM_POINTS = 801
# Densities that the logarithmic panel shows, below the highest.
_DECADES = 5


def num_examples_of(curves) -> int:
  """The number of examples n of which there are P = n (n - 1) / 2 pairs."""
  pairs = curves['cosine_distance_within'].sum()
  pairs += curves['cosine_distance_between'].sum()
  return round((1 + np.sqrt(1 + 8 * float(pairs))) / 2)


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure E.3: smooth densities, linear above and logarithmic below."""
  found = [
    run for run in study.runs_of(group) if 'cosine_distance_edges' in run.curves
  ]
  if not found:
    raise NotRun(f'not run: {study.rerun_command}')
  figure = Figure(figsize=(10, 7), layout='constrained')
  panels = figure.subplots(2, 1, sharex=True)
  highest = 0.0
  for key in sorted({run.key for run in found}, key=looks.order):
    curves = [run.curves for run in found if run.key == key]
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
  panels[0].set_title(
    'solid: same class, dashed: different classes', fontsize='medium'
  )
  panels[0].set_ylim(bottom=0)
  panels[1].set_yscale('log')
  panels[1].set_ylim(highest * 10.0**-_DECADES, highest * 2)
  panels[1].set_xlabel('cosine distance')
  for axes in panels:
    axes.set_ylabel('density')
    axes.grid(alpha=0.3)
  lines.add_legend(figure, panels[0])
  return Drawing(
    figure,
    describe_sizes(
      (run.key for run in found), [num_examples_of(run.curves) for run in found]
    ),
  )
