"""Figure 3: how similar representations are."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import looks
from lossbench.report.figures import matrices
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.records import NotRun, StudyRecords

_MAX_LAYERS = 6  # of part b, spread over the depth
_LAYERS_A_ROW = 2
_KINDS = (
  ('linear_cka', 'spatial averages'),
  ('minibatch_cka', 'whole feature maps'),
)


def between_objectives(values: np.ndarray, keys, seeds, order) -> np.ndarray:
  """Means over pairs of runs of different seeds, on the diagonal and beside it.

  Runs of one seed start from the same weights, which alone makes early layers
  alike whatever the objective.

  Args:
    values: [A, A] of A runs.
    keys: of each run.
    seeds: of each run.
    order: the O distinct keys.

  Returns:
    [O, O]; NaN where there is no such pair.
  """
  result = np.full((len(order), len(order)), np.nan)
  for i, a in enumerate(order):
    for j, b in enumerate(order):
      pairs = [
        values[m, n]
        for m, key_m in enumerate(keys)
        for n, key_n in enumerate(keys)
        if key_m == a and key_n == b and seeds[m] != seeds[n]
      ]
      if pairs:
        result[i, j] = np.mean(pairs)
  return result


def _shown_layers(num_layers: int) -> list[int]:
  """Layers spread over the depth, at most so many, the last one among them."""
  count = min(_MAX_LAYERS, num_layers)
  places = np.linspace(0, num_layers - 1, count).round()
  return list(dict.fromkeys(places.astype(int).tolist()))


def _draw_layers(figure, panels, first, key):
  for axes, (name, title) in zip(panels, _KINDS, strict=False):
    matrices.draw_matrix(
      figure,
      axes,
      matrices.matrix(first[name]),
      first['endpoints'],
      title=f'a: {looks.label(key)}, two seeds:\n{title}',
      bar_label='CKA',
      limits=(0, 1),
    )


def _draw_objectives(figure, panels, parts, layer, comparison):
  """One layer: spatial averages and whole maps side by side, on one scale."""
  keys, seeds = comparison.keys, comparison.seeds
  order = sorted(set(keys), key=looks.order)
  found = [
    between_objectives(matrices.matrix(parts[name][layer]), keys, seeds, order)
    for name, _ in _KINDS
  ]
  finite = np.concatenate([values[np.isfinite(values)] for values in found])
  limits = (float(finite.min()) if len(finite) else None, 1)
  for axes, values, (_, title) in zip(panels, found, _KINDS, strict=True):
    matrices.draw_matrix(
      figure,
      axes,
      values,
      [looks.label(key) for key in order],
      title=f'b: {parts["endpoints"][layer]}\n{title}',
      bar_label='CKA',
      limits=limits,
    )


def draw(study: StudyRecords, group: str) -> Drawing:
  """Figure 3: layers of two initialisations; objectives at a layer."""
  comparison = study.comparison(group)
  parts = comparison.record.get('cka', {})
  if 'corresponding' not in parts or 'layers' not in parts:
    notes = comparison.record.get('notes')  # of scores: what files lack
    raise NotRun(
      ' '.join(notes or [])
      or f'not run (layers): {study.comparison_commands[group]}'
    )
  keys = comparison.keys
  shown = _shown_layers(len(parts['corresponding']['endpoints']))
  rows = 1 + -(-len(shown) // _LAYERS_A_ROW)
  figure = Figure(figsize=(20, 5 * rows), layout='constrained')
  grid = figure.subplots(rows, 2 * _LAYERS_A_ROW, squeeze=False)
  for axes in grid.ravel():
    axes.set_axis_off()  # until it is drawn
  first = parts['layers']
  _draw_layers(figure, grid[0], first, keys[first['runs'][0]])
  # Layer by layer, each with its pair of panels.
  pairs = grid[1:].reshape(-1, 2)
  for panels, layer in zip(pairs, shown, strict=False):
    _draw_objectives(figure, panels, parts['corresponding'], layer, comparison)
  sizes = describe_sizes(keys, [parts['num_examples']])
  return Drawing(
    figure,
    f'{sizes}, feature maps in minibatches of {parts["minibatch_size"]}',
  )
