"""Heat maps of models against models, which several figures are made of."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster import hierarchy

from lossbench.report import looks
from lossbench.report.looks import Key
from lossbench.report.records import StudyRecords

_MAX_ANNOTATED = 12  # cells a side whose numbers can still be read


def matrix(values) -> np.ndarray:
  """JSON's lists to float64; null to NaN."""
  return np.array(
    [[np.nan if v is None else v for v in row] for row in values], float
  )


def _draw_image(figure, axes, values, *, title, bar_label, limits):
  image = axes.imshow(values, cmap='viridis', vmin=limits[0], vmax=limits[1])
  axes.set_axis_on()
  axes.set_title(title, fontsize='medium')
  if np.isfinite(values).any():
    figure.colorbar(image, ax=axes, label=bar_label, shrink=0.8)
  else:
    axes.text(
      0.5, 0.5, 'no value', ha='center', va='center', transform=axes.transAxes
    )
  return image


def draw_matrix(
  figure: Figure,
  axes: Axes,
  values: np.ndarray,
  labels: Sequence[str],
  *,
  title: str,
  bar_label: str = '',
  limits: tuple[float | None, float | None] = (None, None),
  scale: float = 1.0,
):
  """A heat map with its colour bar; numbers in the cells where they fit."""
  values = scale * values
  image = _draw_image(
    figure, axes, values, title=title, bar_label=bar_label, limits=limits
  )
  size = 'small' if len(labels) <= 16 else 'xx-small'
  axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
  axes.set_yticks(range(len(labels)), labels, fontsize=size)
  if max(values.shape) > _MAX_ANNOTATED:
    return
  low, high = image.get_clim()
  for (row, column), value in np.ndenumerate(values):
    if np.isfinite(value):
      light = value < (low + high) / 2
      axes.text(
        column,
        row,
        f'{value:.1f}' if scale == 100 else f'{value:.2f}',
        ha='center',
        va='center',
        fontsize='xx-small',
        color='white' if light else 'black',
      )


def draw_seed_matrix(
  figure: Figure,
  axes: Axes,
  values: np.ndarray,
  keys: Sequence[Key],
  *,
  title: str,
  bar_label: str,
):
  """A heat map of all runs, grouped by objective.

  The diagonal, where a model meets itself, is left blank.
  """
  order = sorted(range(len(keys)), key=lambda i: looks.order(keys[i]))
  values = values[np.ix_(order, order)].copy()
  np.fill_diagonal(values, np.nan)
  _draw_image(
    figure,
    axes,
    values,
    title=title,
    bar_label=bar_label,
    limits=(None, None),
  )
  groups: dict[Key, list[int]] = {}
  for place, index in enumerate(order):
    groups.setdefault(keys[index], []).append(place)
  centres = [np.mean(places) for places in groups.values()]
  labels = [looks.label(key) for key in groups]
  axes.set_xticks(centres, labels, rotation=90, fontsize='small')
  axes.set_yticks(centres, labels, fontsize='small')
  axes.tick_params(length=0)
  for places in list(groups.values())[1:]:
    for line in (axes.axhline, axes.axvline):
      line(places[0] - 0.5, color='white', linewidth=0.8)


def draw_tree(
  study: StudyRecords, axes: Axes, linkage, keys: Sequence[Key], *, title: str
):
  """A dendrogram whose leaves have the colours of their objectives."""
  hierarchy.dendrogram(
    matrix(linkage),
    labels=[looks.label(key) for key in keys],
    orientation='left',
    ax=axes,
    color_threshold=0,
    above_threshold_color='#555555',
    leaf_font_size=8 if len(keys) <= 40 else 5,
  )
  color_of = {looks.label(key): study.look(key).color for key in keys}
  for tick in axes.get_ymajorticklabels():
    tick.set_color(color_of[tick.get_text()])
  for side in ('top', 'right', 'left'):
    axes.spines[side].set_visible(False)
  axes.set_xlabel('share of examples with another top-1')
  axes.set_title(title, fontsize='medium')
