"""Table 2: class separation."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table
from lossbench.runs.records import get_measure


def build(study: StudyRecords) -> Table:
  """Table 2: class separation, beside accuracy."""
  groups = columns.evaluated(study)
  columns.require(groups, study, 'evaluated runs')
  pairs = []
  for group in groups:
    accuracy, separation = (
      columns.titled(group, get_measure(metric).title, groups)
      for metric in ('top1_accuracy', 'class_separation')
    )
    pairs += [
      columns.metric_column(group, 'top1_accuracy', label=accuracy),
      columns.separation_column(group, separation),
    ]
  return build_table(
    study,
    'R² (eq. 11) of the penultimate features on the test split (the paper: of the '
    'training set), beside top-1 accuracy (%).',
    pairs,
    columns.all_plain_keys(study, groups),
  )
