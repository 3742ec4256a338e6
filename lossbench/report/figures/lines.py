"""Curves by layer or rank, one colour and marker an objective."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.records import NotRun, StudyRecords


def layer_values(
  study: StudyRecords, recipe: str, metric: str
) -> tuple[tuple[str, ...], dict[tuple[str, str], np.ndarray]]:
  """Layers, and for each objective [seeds, layers] of a metric.

  Raises:
    NotRun: if no run of the group has it.
  """
  values: dict[tuple[str, str], list[list[float]]] = {}
  endpoints: tuple[str, ...] = ()
  for key in study.keys(recipe):
    for run in study.runs_of(recipe, key):
      names = run.endpoints(metric)
      if not names:
        continue
      if endpoints and names != endpoints:
        continue  # another architecture
      endpoints = names
      found = [run.value(metric, endpoint=name) for name in names]
      values.setdefault(key, []).append(
        [np.nan if value is None else value for value in found]
      )
  if not values:
    raise NotRun(f'not run: {study.rerun_command}')
  return endpoints, {key: np.array(rows) for key, rows in values.items()}


def draw_layers(
  axes: Axes,
  endpoints: Sequence[str],
  values: dict[tuple[str, str], np.ndarray],
  *,
  scale: float = 1.0,
):
  """Means over seeds by layer, with error bars of one standard error."""
  x = np.arange(len(endpoints))
  for key, rows in values.items():
    error = None
    if len(rows) > 1:
      error = scale * np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
    axes.errorbar(
      x,
      scale * np.mean(rows, axis=0),
      yerr=error,
      color=display.color(key),
      marker=display.marker(key),
      markersize=5,
      linewidth=1.3,
      capsize=2,
      label=display.label(key),
    )
  many = len(endpoints) > 8
  axes.set_xticks(x, endpoints, rotation=90 if many else 0)
  axes.set_xlabel('layer')
  axes.grid(axis='y', alpha=0.3)


def add_legend(figure: Figure, axes: Axes):
  """One legend beside the axes, where it covers nothing."""
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='outside right upper', fontsize='small', frameon=False
  )
