"""Figures 1 and D.1: which predictions models share."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.figures import matrices
from lossbench.report.figures.drawing import Drawing, describe_comparison
from lossbench.report.records import StudyRecords

# Of fewer examples a share says next to nothing: its standard error is above a
# tenth.
MIN_BOTH_WRONG = 20


def draw_same_top1(study: StudyRecords, group: str) -> Drawing:
  """Figure 1: the same top-1 prediction, and the tree it makes."""
  comparison = study.comparison(group)
  record, keys = comparison.record, comparison.keys
  height = max(5.0, 0.17 * len(keys) + 1)
  figure = Figure(figsize=(13, height), layout='constrained')
  left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
  matrices.draw_seed_matrix(
    figure,
    left,
    display.percent(matrices.matrix(record['agreement']['same_top1'])),
    keys,
    title='a: same top-1 prediction',
    bar_label='% of examples',
  )
  matrices.draw_tree(
    study, right, record['clustering']['linkage'], keys, title='b: clustering'
  )
  return Drawing(figure, describe_comparison(comparison))


def draw_right_and_wrong(study: StudyRecords, group: str) -> Drawing:
  """Figure D.1: both right or both wrong; the same where both are wrong."""
  comparison = study.comparison(group)
  found = {
    name: matrices.matrix(values)
    for name, values in comparison.record['agreement'].items()
  }
  counts = found['num_both_wrong']
  same = np.where(
    counts < MIN_BOTH_WRONG, np.nan, found['same_when_both_wrong']
  )
  figure = Figure(figsize=(18, 5.6), layout='constrained')
  panels = figure.subplots(1, 3)
  for axes, values, title, bar_label in (
    (
      panels[0],
      display.percent(found['both_right_or_wrong']),
      'a: both right or both wrong',
      '% of examples',
    ),
    (
      panels[1],
      display.percent(same),
      'b: same prediction where both are wrong',
      '% of examples both get wrong',
    ),
    (panels[2], counts, 'c: examples both get wrong', 'examples'),
  ):
    matrices.draw_seed_matrix(
      figure, axes, values, comparison.keys, title=title, bar_label=bar_label
    )
  pairs = counts[np.triu_indices(len(counts), k=1)]
  few = int(np.sum(pairs < MIN_BOTH_WRONG))
  sizes = describe_comparison(comparison)
  return Drawing(
    figure,
    f'{sizes}; {few:,} of {len(pairs):,} pairs get fewer than {MIN_BOTH_WRONG} '
    'wrong together and are blank in b',
  )
