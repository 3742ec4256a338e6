"""Accuracy by class, beyond the paper."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables.cells import Table
from lossbench.report.tables.columns import build_metrics_table


def build(study: StudyRecords) -> Table:
  """The mean over classes, each counting the same, and the worst class."""
  return build_metrics_table(
    study,
    'Accuracy (%) by class on the test split: the mean over the classes, each '
    'counting the same, and that of the worst one.',
    ('mean_class_accuracy', 'worst_class_accuracy'),
  )
