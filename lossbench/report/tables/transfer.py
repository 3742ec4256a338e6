"""Table 3: transfer; and by nearest neighbours and few examples, beyond it."""

from collections.abc import Sequence

from lossbench.report import display
from lossbench.report.records import FEW, NEIGHBOURS, StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.runs.records import FEW_SHOTS


def _groups(study: StudyRecords) -> list[str]:
  groups = [
    group
    for group in study.groups()
    if columns.plain_keys(study, group) and columns.targets(study, group)
  ]
  columns.require(groups, study, 'transfer')
  return groups


def _columns(study, group, groups, protocol='', more='') -> list[Column]:
  return [
    columns.transfer_column(
      group,
      target,
      columns.titled(
        group, columns.target_label(study, group, target) + more, groups
      ),
      protocol,
    )
    for target in columns.targets(study, group)
  ]


def _build(study, caption, found: Sequence[Column], groups, notes=()) -> Table:
  return build_table(
    study,
    caption,
    found,
    columns.all_plain_keys(study, groups),
    notes=[
      *notes,
      *(
        note
        for group in groups
        for note in columns.relearning_notes(study, group)
      ),
    ],
  )


def build(study: StudyRecords) -> Table:
  """Table 3: transfer of fixed features, and the source task relearned."""
  groups = _groups(study)
  return _build(
    study,
    'Accuracy (%) of L2-regularised logistic regression on fixed penultimate '
    'features; mean per class where the field reports it.',
    [c for group in groups for c in _columns(study, group, groups)],
    groups,
  )


def build_neighbours(study: StudyRecords) -> Table:
  """The same features, by k nearest neighbours."""
  groups = _groups(study)
  return _build(
    study,
    'Accuracy (%) of k nearest neighbours by cosine of fixed penultimate features, '
    'k chosen on the holdout that chooses the L2 value of Table 3; mean per class '
    'where the field reports it.',
    [c for group in groups for c in _columns(study, group, groups, NEIGHBOURS)],
    groups,
  )


def build_few_shots(study: StudyRecords) -> Table:
  """The same features, by the class means of few examples."""
  groups = _groups(study)
  found = []
  for group in groups:
    for protocol, shots in zip(FEW, FEW_SHOTS, strict=True):
      more = f', {shots} a class'
      found += _columns(study, group, groups, protocol, more)
  errors = [
    error.value
    for run in study.runs
    for record in run.transfers.values()
    for error in record.standard_errors.values()
    if error.value is not None
  ]
  notes = []
  if errors:
    notes = [
      'The draws of the training examples are the same for all rows; over them the '
      'standard error of a top-1 accuracy is at most '
      f'{display.percent(max(errors)):.2f} points.'
    ]
  return _build(
    study,
    'Accuracy (%) of the nearest class mean of unit-norm penultimate features '
    '(Wang et al. 2019, arXiv:1911.04623), of 1, 5 and 10 training examples a '
    'class, mean over ten fixed draws; mean per class where the field reports it.',
    found,
    groups,
    notes,
  )
