"""Table 3: transfer."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table


def build(study: StudyRecords) -> Table:
  """Table 3: transfer of fixed features, and the source task relearned."""
  groups = [
    group
    for group in study.groups()
    if columns.plain_keys(study, group) and columns.targets(study, group)
  ]
  columns.require(groups, study, 'transfer')
  return build_table(
    study,
    'Accuracy (%) of L2-regularised logistic regression on fixed penultimate '
    'features; mean per class where the field reports it.',
    [
      columns.transfer_column(
        group,
        target,
        columns.titled(
          group, columns.target_label(study, group, target), groups
        ),
      )
      for group in groups
      for target in columns.targets(study, group)
    ],
    columns.all_plain_keys(study, groups),
    notes=[
      note
      for group in groups
      for note in columns.relearning_notes(study, group)
    ],
  )
