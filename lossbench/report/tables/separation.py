"""Table 2: class separation."""

import dataclasses

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table


def build(study: StudyRecords) -> Table:
  """Table 2: class separation, beside accuracy."""
  groups = columns.evaluated(study)
  columns.require(groups, study, 'evaluated runs')
  return build_table(
    study,
    'R² (eq. 11) of the penultimate features on images that the networks were '
    'trained on, as in the paper, and on the test split; beside top-1 accuracy (%) '
    'on the latter.',
    [
      dataclasses.replace(
        column, label=columns.titled(group, column.label, groups)
      )
      for group in groups
      for column in (
        columns.metric_column(group, 'top1_accuracy'),
        *columns.separation_columns(study, group),
      )
    ],
    columns.all_plain_keys(study, groups),
    notes=columns.training_notes(study, groups),
  )
