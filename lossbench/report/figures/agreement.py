"""Figures 1 and D.1: which predictions models share."""

from matplotlib.figure import Figure

from lossbench.report.figures import matrices
from lossbench.report.records import StudyRecords


def draw_same_top1(study: StudyRecords, recipe: str) -> Figure:
  """Figure 1: the same top-1 prediction, and the tree it makes."""
  comparison = study.comparison(recipe)
  keys = matrices.comparison_keys(study, comparison)
  height = max(5.0, 0.17 * len(keys) + 1)
  figure = Figure(figsize=(13, height), layout='constrained')
  left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
  matrices.draw_seed_matrix(
    figure,
    left,
    matrices.matrix(comparison['agreement']['same_top1']),
    keys,
    title='a: same top-1 prediction',
    bar_label='% of examples',
  )
  matrices.draw_tree(
    right, comparison['clustering']['linkage'], keys, title='b: clustering'
  )
  return figure


def draw_right_and_wrong(study: StudyRecords, recipe: str) -> Figure:
  """Figure D.1: both right or both wrong; the same where both are wrong."""
  comparison = study.comparison(recipe)
  keys = matrices.comparison_keys(study, comparison)
  figure = Figure(figsize=(13, 5.8), layout='constrained')
  left, right = figure.subplots(1, 2)
  for axes, name, title, bar_label in (
    (
      left,
      'both_right_or_wrong',
      'a: both right or both wrong',
      '% of examples',
    ),
    (
      right,
      'same_when_both_wrong',
      'b: same prediction where both are wrong',
      '% of examples both get wrong',
    ),
  ):
    matrices.draw_seed_matrix(
      figure,
      axes,
      matrices.matrix(comparison['agreement'][name]),
      keys,
      title=title,
      bar_label=bar_label,
    )
  return figure
