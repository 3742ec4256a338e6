"""A tuning as files, as a picture and on the terminal."""

import pathlib
from collections.abc import Sequence

import rich.console
import rich.table

from lossbench.runs.directory import (
  write_json,
)
from lossbench.tuning import search
from lossbench.tuning.ranges import override_line
from lossbench.tuning.trials import Trial

_NUM_RANKED = 10


def write_results(
  root: pathlib.Path,
  dimensions: Sequence[search.Dimension],
  trials: Sequence[Trial],
  *,
  command: str,
):
  """Writes tuning.json and tuning.png."""
  write_json(
    root / 'tuning.json',
    {
      'command': command,
      'overrides': override_line(search.values(dimensions, trials[0].point)),
      'trials': [
        {
          'values': search.values(dimensions, trial.point),
          'holdout_accuracy': trial.accuracy,
          'standard_error': trial.standard_error,
          'error': trial.error,
        }
        for trial in trials
      ],
    },
  )
  draw_grid(root / 'tuning.png', dimensions, trials)


def draw_grid(path: pathlib.Path, dimensions, trials: Sequence[Trial]):
  """Accuracy over every pair of searched dimensions, the best over the others."""
  import itertools

  import numpy as np
  from matplotlib.figure import Figure

  searched = [
    i
    for i in range(len(dimensions))
    if len({trial.point[i] for trial in trials}) > 1
  ]
  pairs = list(itertools.combinations(searched, 2))
  pairs = pairs or [(i, i) for i in searched] or [(0, 0)]
  figure = Figure(figsize=(5.6 * len(pairs), 4.6), layout='constrained')
  panels = figure.subplots(1, len(pairs), squeeze=False)[0]
  shown = [100 * t.accuracy for t in trials if not t.error]
  low, high = (min(shown), max(shown)) if shown else (0, 100)
  for axes, (i, j) in zip(panels, pairs, strict=True):
    x, y = (
      np.array([d.value(t.point[k]) for t in trials])
      for k, d in ((i, dimensions[i]), (j, dimensions[j]))
    )
    order = np.argsort([t.accuracy for t in trials])  # the best on top
    failed = np.array([bool(t.error) for t in trials])[order]
    values = np.array([100 * t.accuracy for t in trials])[order]
    x, y = x[order], y[order]
    image = axes.scatter(
      x[~failed],
      y[~failed],
      c=values[~failed],
      s=220,
      marker='s',
      cmap='viridis',
      vmin=low,
      vmax=high,
    )
    axes.scatter(x[failed], y[failed], marker='x', color='#a40000', zorder=0)
    best = trials[0].point
    axes.scatter(
      dimensions[i].value(best[i]),
      dimensions[j].value(best[j]),
      marker='o',
      s=420,
      facecolor='none',
      edgecolor='#d62728',
      linewidth=2,
    )
    for axis, k in (('x', i), ('y', j)):
      if dimensions[k].log:
        getattr(axes, f'set_{axis}scale')('log')
      getattr(axes, f'set_{axis}label')(dimensions[k].field)
    axes.margins(0.12)
    figure.colorbar(image, ax=axes, label='holdout accuracy (%)')
  figure.suptitle('circle: chosen; ×: failed', fontsize='medium')
  figure.savefig(path, dpi=110)


def print_ranking(
  dimensions: Sequence[search.Dimension],
  trials: Sequence[Trial],
  output: rich.console.Console,
):
  """Prints the best trials and the overrides of the winner."""
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
    error = trial.standard_error
    accuracy = f'{trial.accuracy:.4f}'
    if error is not None:
      accuracy += f' ± {error:.4f}'
    values = search.values(dimensions, trial.point)
    table.add_row(
      *[f'{value:.4g}' for value in values.values()],
      trial.error[:60] if trial.error else accuracy,
    )
  output.print(table)
  num_failed = sum(bool(trial.error) for trial in trials)
  if num_failed:
    output.print(f'{num_failed} trials failed or diverged.')
  output.print('Reproduce the best with:', highlight=False)
  winner = search.values(dimensions, trials[0].point)
  output.print(override_line(winner), highlight=False, soft_wrap=True)
