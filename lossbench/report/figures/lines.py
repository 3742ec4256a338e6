"""Curves by layer or rank, one colour and marker an objective."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from lossbench.report import looks
from lossbench.report.looks import Key
from lossbench.report.records import NotRun, StudyRecords

# Of float32 averages of the same maps.
_SAME = 1e-5


def layer_values(
  study: StudyRecords, group: str, metric: str, *, training: bool = False
) -> tuple[tuple[str, ...], dict[Key, np.ndarray], list[Key], list[int]]:
  """A metric by layer.

  Args:
    study: the records.
    group: of runs.
    metric: of layers.
    training: of images that the runs were trained on, else of the test split.

  Returns:
    Layers; for each objective [seeds, layers]; and what `describe_sizes` takes,
    the key of each run and numbers of examples.

  Raises:
    NotRun: if no run of the group has it.
  """
  values: dict[Key, list[list[float]]] = {}
  keys, sizes = [], []
  endpoints: tuple[str, ...] = ()
  for key in study.keys(group):
    for run in study.runs_of(group, key):
      names = run.endpoints(metric, training=training)
      if not names:
        continue
      if endpoints and names != endpoints:
        continue  # another architecture
      endpoints = names
      found = [
        run.measured(metric, endpoint=name, training=training) for name in names
      ]
      values.setdefault(key, []).append(
        [np.nan if f.value is None else f.value for f in found]
      )
      keys.append(key)
      sizes += [f.n for f in found]
  if not values:
    raise NotRun(f'not run: {study.rerun_command}')
  arrays = {key: np.array(rows) for key, rows in values.items()}
  return endpoints, arrays, keys, sizes


def merge_equal_layers(
  endpoints: Sequence[str], values: dict[Key, np.ndarray]
) -> tuple[tuple[str, ...], dict[Key, np.ndarray]]:
  """Neighbouring layers with the same values in all runs as one.

  The features are the spatial average of the last block: what is measured of
  spatial averages is one number, and no confirmation of itself.
  """
  names, kept = [], []
  for place, name in enumerate(endpoints):
    if place and all(
      np.allclose(rows[:, place], rows[:, place - 1], rtol=0, atol=_SAME)
      for rows in values.values()
    ):
      names[-1] += f' =\n{name}'
      continue
    names.append(name)
    kept.append(place)
  return tuple(names), {key: rows[:, kept] for key, rows in values.items()}


def draw_layers(
  study: StudyRecords,
  axes: Axes,
  endpoints: Sequence[str],
  values: dict[Key, np.ndarray],
  *,
  scale: float = 1.0,
):
  """Means over seeds by layer, with error bars of one standard error."""
  x = np.arange(len(endpoints))
  for key, rows in values.items():
    look = study.look(key)
    axes.errorbar(
      x,
      scale * np.mean(rows, axis=0),
      yerr=scale * stats.sem(rows, axis=0) if len(rows) > 1 else None,
      color=look.color,
      marker=look.marker,
      markersize=5,
      linewidth=1.3,
      capsize=2,
      label=looks.label(key),
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
