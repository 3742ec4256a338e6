"""A tuning as files, as a picture and on the terminal."""

import dataclasses
import itertools
from collections.abc import Sequence

import rich.console
import rich.table

from lossbench.runs.directory import write_json
from lossbench.runtime.storage import Path, write_whole
from lossbench.tuning import search
from lossbench.tuning.ranges import override_line
from lossbench.tuning.worker import Tuning

_NUM_RANKED = 10
_MAX_COLUMNS = 3  # of panels of a picture
_RED = '#d62728'


def write_results(
  root: Path,
  dimensions: Sequence[search.Dimension],
  tuning: Tuning,
  *,
  command: str,
):
  """Writes tuning.json and tuning.png."""
  best = search.values(dimensions, tuning.trials[0].point)
  write_json(
    root / 'tuning.json',
    {
      'command': command,
      'overrides': override_line(best),
      # Beyond these better values may lie; empty if the best lies inside.
      'edges': [dataclasses.asdict(edge) for edge in tuning.edges],
      'num_ties': tuning.num_ties,
      'trials': [
        {
          'values': search.values(dimensions, trial.point),
          'holdout_accuracy': trial.accuracy,
          'standard_error': trial.standard_error,
          'divergence': trial.divergence,
        }
        for trial in tuning.trials
      ],
    },
  )
  draw_grid(root / 'tuning.png', dimensions, tuning)


def remarks(tuning: Tuning) -> list[str]:
  """What to know before the best point is trusted, one sentence each."""
  found = []
  num_diverged = sum(bool(trial.divergence) for trial in tuning.trials)
  if num_diverged:
    found.append(f'{num_diverged} points diverged.')
  if tuning.num_ties:
    found.append(
      f'{tuning.num_ties} other points of the fine grid are as good; the best '
      'is the one nearest its centre.'
    )
  for edge in tuning.edges:
    found.append(
      f'On an edge: better values of {edge.field} may lie beyond {edge.value:g}, '
      f'the {edge.end} tried; {edge.reason}.'
    )
  return found


def print_ranking(
  dimensions: Sequence[search.Dimension],
  tuning: Tuning,
  output: rich.console.Console,
):
  """Prints the best trials, remarks, and the overrides of the winner."""
  trials = tuning.trials
  table = rich.table.Table(
    title=f'{len(trials)} trials, the best by holdout accuracy',
    title_justify='left',
  )
  for dimension in dimensions:
    table.add_column(
      dimension.field.removeprefix('objective.'), justify='right'
    )
  table.add_column('holdout accuracy', justify='right')
  for trial in trials[:_NUM_RANKED]:
    accuracy = f'diverged: {trial.divergence[:50]}'
    if not trial.divergence:
      accuracy = f'{trial.accuracy:.4f}'
      if trial.standard_error is not None:
        accuracy += f' ± {trial.standard_error:.4f}'
    values = search.values(dimensions, trial.point)
    table.add_row(*[f'{value:.4g}' for value in values.values()], accuracy)
  output.print(table)
  for line in remarks(tuning):
    output.print(line, highlight=False, soft_wrap=True)
  output.print('Reproduce the best with:', highlight=False)
  best = search.values(dimensions, trials[0].point)
  output.print(override_line(best), highlight=False, soft_wrap=True)


def draw_grid(
  path: Path,
  dimensions: Sequence[search.Dimension],
  tuning: Tuning,
):
  """Draws the accuracy over every pair of searched dimensions, as PNG.

  Of points that differ in the other dimensions only the best is seen. Colours
  resolve the better half of the points.
  """
  # Not above: who only reads results need not wait for it.
  import numpy as np
  from matplotlib.colors import Normalize
  from matplotlib.figure import Figure

  searched = [
    i
    for i in range(len(dimensions))
    if len({trial.point[i] for trial in tuning.trials}) > 1
  ]
  pairs = list(itertools.combinations(searched, 2))
  if not pairs:  # of one dimension, or of none
    figure = Figure(figsize=(5.6, 4.6), layout='constrained')
    _draw_line(figure.subplots(), dimensions, (searched or [0])[0], tuning)
  else:
    num_columns = min(_MAX_COLUMNS, len(pairs))
    num_rows = -(-len(pairs) // num_columns)
    size = (5 * num_columns + 1, 4.6 * num_rows)
    figure = Figure(figsize=size, layout='constrained')
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    shown = [100 * t.accuracy for t in tuning.trials if not t.divergence]
    norm = Normalize(np.median(shown), max(shown))
    for axes, (i, j) in zip(panels, pairs, strict=False):
      image = _draw_pair(axes, dimensions, i, j, tuning, norm)
    for axes in panels[len(pairs) :]:
      axes.set_axis_off()
    figure.colorbar(
      image, ax=panels, label='holdout accuracy (%)', extend='min'
    )
  figure.suptitle('circle: chosen; ×: diverged', fontsize='medium')
  write_whole(path, lambda file: figure.savefig(file, dpi=110, format='png'))


def _draw_pair(axes, dimensions, i, j, tuning, norm):
  """Squares in two dimensions; the scatter plot that has the colours."""
  # The best on top.
  finite = sorted(
    (t for t in tuning.trials if not t.divergence), key=lambda t: t.accuracy
  )
  values = [search.values(dimensions, t.point) for t in finite]
  x, y = dimensions[i].field, dimensions[j].field
  image = axes.scatter(
    [v[x] for v in values],
    [v[y] for v in values],
    c=[100 * t.accuracy for t in finite],
    s=220,
    marker='s',
    cmap='viridis',
    norm=norm,
  )
  diverged = [
    search.values(dimensions, t.point) for t in tuning.trials if t.divergence
  ]
  axes.scatter(
    [v[x] for v in diverged],
    [v[y] for v in diverged],
    marker='x',
    color=_RED,
    zorder=0,
  )
  best = search.values(dimensions, tuning.trials[0].point)
  _circle(axes, best[x], best[y])
  _label(axes, 'x', dimensions[i])
  _label(axes, 'y', dimensions[j])
  axes.margins(0.12)
  return image


def _draw_line(axes, dimensions, i, tuning):
  """Accuracy and standard error over one dimension."""
  finite = sorted(
    (t for t in tuning.trials if not t.divergence), key=lambda t: t.point[i]
  )
  axes.errorbar(
    [dimensions[i].value(t.point[i]) for t in finite],
    [100 * t.accuracy for t in finite],
    yerr=[100 * (t.standard_error or 0) for t in finite],
    marker='s',
    capsize=3,
  )
  best = tuning.trials[0]
  _circle(axes, dimensions[i].value(best.point[i]), 100 * best.accuracy)
  _label(axes, 'x', dimensions[i])
  for trial in tuning.trials:
    if trial.divergence:
      value = dimensions[i].value(trial.point[i])
      axes.axvline(value, color=_RED, linestyle=':')
      axes.plot(
        value,
        0.03,
        marker='x',
        color=_RED,
        transform=axes.get_xaxis_transform(),
      )
  axes.set_ylabel('holdout accuracy (%)')


def _circle(axes, x: float, y: float):
  axes.scatter(
    x, y, s=420, facecolor='none', edgecolor=_RED, linewidth=2, zorder=3
  )


def _label(axes, side: str, dimension: search.Dimension):
  if dimension.log:
    getattr(axes, f'set_{side}scale')('log')
  name = dimension.field.removeprefix('objective.')
  getattr(axes, f'set_{side}label')(name)
