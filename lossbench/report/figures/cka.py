"""Figure 3: how similar representations are."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.figures import matrices
from lossbench.report.records import NotRun, StudyRecords

_MAX_PANELS = 6  # layers of part b, spread over the depth


def _between_objectives(values: np.ndarray, keys, order) -> np.ndarray:
  """Means over pairs of runs; a run is never compared with itself."""
  result = np.full((len(order), len(order)), np.nan)
  for i, a in enumerate(order):
    for j, b in enumerate(order):
      pairs = [
        values[m, n]
        for m, key_m in enumerate(keys)
        for n, key_n in enumerate(keys)
        if key_m == a and key_n == b and m != n
      ]
      if pairs:
        result[i, j] = np.mean(pairs)
  return result


def draw(study: StudyRecords, recipe: str) -> Figure:
  """Figure 3: layers of two initialisations; objectives at a layer."""
  comparison = study.comparison(recipe)
  parts = comparison.get('cka', {})
  if 'corresponding' not in parts or 'layers' not in parts:
    raise NotRun(f'not run (layers): {study.comparison_commands[recipe]}')
  keys = matrices.comparison_keys(study, comparison)
  order = sorted(set(keys), key=display.order)
  labels = [display.label(key) for key in order]
  endpoints = parts['corresponding']['endpoints']
  shown = np.unique(
    np.linspace(0, len(endpoints) - 1, min(_MAX_PANELS, len(endpoints)))
    .round()
    .astype(int)
  )
  figure = Figure(figsize=(13, 4.2 + 4.3 * ((len(shown) + 2) // 3)))
  figure.set_layout_engine('constrained')
  rows = 1 + (len(shown) + 2) // 3
  grid = figure.subplots(rows, 3, squeeze=False)
  first = parts['layers']
  key = keys[first['runs'][0]]
  for axes, name, title in (
    (grid[0, 0], 'linear_cka', 'linear CKA of spatial averages'),
    (grid[0, 1], 'minibatch_cka', 'minibatch CKA of feature maps'),
  ):
    matrices.draw_matrix(
      figure,
      axes,
      matrices.matrix(first[name]),
      first['endpoints'],
      title=f'a: {display.label(key)}, two seeds:\n{title}',
      bar_label='CKA',
      limits=(0, 1),
    )
  grid[0, 2].set_axis_off()
  cells = grid[1:].ravel()
  for axes, layer in zip(cells, shown, strict=False):
    values = matrices.matrix(parts['corresponding']['linear_cka'][layer])
    matrices.draw_matrix(
      figure,
      axes,
      _between_objectives(values, keys, order),
      labels,
      title=f'b: {endpoints[layer]}, linear CKA',
      bar_label='CKA',
      limits=(None, 1),
    )
  for axes in cells[len(shown) :]:
    axes.set_axis_off()
  return figure
