"""More measures of calibration, beyond the paper."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables.cells import Table
from lossbench.report.tables.columns import build_metrics_table


def build(study: StudyRecords) -> Table:
  """Temperature, Brier score, class-wise and adaptive ECE."""
  return build_metrics_table(
    study,
    'Temperature of the lowest NLL, Brier score, class-wise ECE, ECE with bins of '
    'equal mass. A temperature at the end of its search is n/a, and in no mean.',
    ('temperature', 'brier_score', 'classwise_ece', 'adaptive_ece'),
  )
