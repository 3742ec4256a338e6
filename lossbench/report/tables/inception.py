"""Table B.1: accuracy of Inception v3."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table

MODEL = 'inception_v3'


def build(study: StudyRecords) -> Table:
  """Table B.1."""
  groups = [
    group
    for group in columns.evaluated(study)
    if study.runs_of(group)[0].model == MODEL
  ]
  columns.require(groups, study, 'Inception v3 runs')
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
