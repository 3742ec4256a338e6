"""Figure E.1: angular visual hardness."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import looks, statistics
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, StudyRecords


def density(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
  """Counts [bins] as a density over edges [bins + 1]; it integrates to 1."""
  return counts / max(counts.sum(), 1) / np.diff(edges)


def _draw_densities(study, axes, runs):
  for key in sorted({run.key for run in runs}, key=looks.order):
    curves = [run.curves for run in runs if run.key == key]
    edges = curves[0]['hardness_edges']
    axes.plot(
      (edges[:-1] + edges[1:]) / 2,
      density(sum(c['hardness'] for c in curves), edges),
      color=study.look(key).color,
      linewidth=1.3,
      label=looks.label(key),
    )
  axes.set_title('a: densities, seeds pooled', fontsize='medium')
  axes.set_xlabel('angular visual hardness')
  axes.set_ylabel('density')
  axes.grid(alpha=0.3)


def _draw_means(study, axes, values):
  for place, (key, found) in enumerate(values.items()):
    mean, error = statistics.mean_and_standard_error(found)
    axes.bar(
      place,
      mean,
      yerr=error,
      capsize=3,
      color=study.look(key).color,
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
  labels = [looks.label(key) for key in values]
  axes.set_xticks(range(len(labels)), labels, rotation=30, ha='right')
  axes.set_ylabel('angular visual hardness')
  axes.grid(axis='y', alpha=0.3)
  axes.set_axisbelow(True)
  axes.set_title('b: means', fontsize='medium')


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure E.1: densities over examples, and their means."""
  measured = [
    (run.key, found)
    for run in study.runs_of(group)
    if (found := run.measured('angular_visual_hardness'))
    and found.value is not None
  ]
  if not measured:
    raise NotRun(f'not run: {study.rerun_command}')
  values = {}
  for key, found in sorted(measured, key=lambda pair: looks.order(pair[0])):
    values.setdefault(key, []).append(found.value)
  # Runs that were evaluated before there were densities have none.
  sampled = [run for run in study.runs_of(group) if 'hardness' in run.curves]
  figure = Figure(figsize=(13, 5.2), layout='constrained')
  left, right = figure.subplots(1, 2)
  _draw_densities(study, left, sampled)
  _draw_means(study, right, values)
  sizes = describe_sizes(
    (key for key, _ in measured), (found.n for _, found in measured)
  )
  if sampled:
    lines.add_legend(figure, left)
    counts = [int(run.curves['hardness'].sum()) for run in sampled]
    sizes += f' (densities: {max(counts):,})'
  return Drawing(figure, sizes)
