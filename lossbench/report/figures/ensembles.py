"""Figures D.2 and D.3: ensembles of the seeds of objectives."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display, looks
from lossbench.report.figures import matrices
from lossbench.report.figures.drawing import Drawing, describe_comparison
from lossbench.report.records import NotRun, StudyRecords


def draw_agreement(study: StudyRecords, group: str) -> Drawing:
  """Figure D.2: agreement of the ensembles of two objectives."""
  comparison = study.comparison(group)
  found, keys = comparison.record['ensembles'], comparison.group_keys
  if 'linkage' not in found:
    raise NotRun('not run: this needs runs of two objectives')
  values = matrices.matrix(found['same_top1'])
  np.fill_diagonal(values, np.nan)
  figure = Figure(figsize=(13, 5.5), layout='constrained')
  left, right = figure.subplots(1, 2)
  matrices.draw_matrix(
    figure,
    left,
    values,
    [looks.label(key) for key in keys],
    title='a: same top-1 prediction of two ensembles',
    bar_label='% of examples',
    scale=display.percent(1),
  )
  matrices.draw_tree(
    study, right, found['linkage'], keys, title='b: clustering'
  )
  return Drawing(figure, describe_comparison(comparison))


def draw_accuracy(study: StudyRecords, group: str) -> Drawing:
  """Figure D.3: accuracy of ensembles within and across objectives."""
  comparison = study.comparison(group)
  found = comparison.record['ensembles']
  labels = [looks.label(key) for key in comparison.group_keys]
  size = found['num_members']
  figure = Figure(figsize=(13, 5.5), layout='constrained')
  left, right = figure.subplots(1, 2)
  members = (
    f'{max(2, size[0])} members' if len(set(size)) == 1 else 'half of each'
  )
  matrices.draw_matrix(
    figure,
    left,
    matrices.matrix(found['top1_accuracy']),
    labels,
    title=f'a: accuracy of ensembles of two objectives, {members}\n'
    '(diagonal: of one objective)',
    bar_label='top-1 (%)',
    scale=display.percent(1),
  )
  matrices.draw_matrix(
    figure,
    right,
    matrices.matrix(found['nll']),
    labels,
    title='b: their NLL',
    bar_label='nats',
  )
  return Drawing(figure, describe_comparison(comparison))
