"""Figures D.2 and D.3: ensembles of the seeds of objectives."""

import numpy as np
from matplotlib.figure import Figure

from lossbench.report import display
from lossbench.report.figures import matrices
from lossbench.report.records import NotRun, StudyRecords


def _ensembles(study: StudyRecords, recipe: str):
  comparison = study.comparison(recipe)
  found = comparison.get('ensembles')
  if not found:
    raise NotRun(f'not run: {study.comparison_commands[recipe]}')
  return found


def _labels(names) -> list[str]:
  """Groups are called after their objective, with a variant in brackets."""
  labels = []
  for name in names:
    objective, bracket, rest = name.partition(' (')
    labels.append(display.objective_label(objective) + bracket + rest)
  return labels


def draw_agreement(study: StudyRecords, recipe: str) -> Figure:
  """Figure D.2: agreement of the ensembles of two objectives."""
  found = _ensembles(study, recipe)
  if 'linkage' not in found:
    raise NotRun('not run: this needs runs of two objectives')
  values = matrices.matrix(found['same_top1'])
  np.fill_diagonal(values, np.nan)
  labels = _labels(found['objectives'])
  keys = [(name, '') for name in found['objectives']]
  figure = Figure(figsize=(13, 5.5), layout='constrained')
  left, right = figure.subplots(1, 2)
  matrices.draw_matrix(
    figure,
    left,
    values,
    labels,
    title='a: same top-1 prediction of two ensembles',
    bar_label='% of examples',
    scale=display.percent(1),
  )
  matrices.draw_tree(right, found['linkage'], keys, title='b: clustering')
  return figure


def draw_accuracy(study: StudyRecords, recipe: str) -> Figure:
  """Figure D.3: accuracy of ensembles within and across objectives."""
  found = _ensembles(study, recipe)
  labels = _labels(found['objectives'])
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
  return figure
