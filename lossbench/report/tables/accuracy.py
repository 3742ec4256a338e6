"""Table 1: accuracy."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table
from lossbench.report.tables.inception import MODEL


def build(study: StudyRecords) -> Table:
  """Table 1: all architectures but Inception v3, which has its own."""
  groups = [
    group
    for group in columns.evaluated(study)
    if study.runs_of(group)[0].model != MODEL
  ]
  columns.require(groups, study, 'evaluated runs')
  return build_table(
    study,
    'Accuracy (%) on the test split.',
    [
      column
      for group in groups
      for column in columns.accuracy_columns(study, group, groups)
    ],
    columns.all_plain_keys(study, groups),
  )
