"""Geometry of the features, beyond the paper."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables.cells import Table
from lossbench.report.tables.columns import build_metrics_table


def build(study: StudyRecords) -> Table:
  """Angular visual hardness, directions in use, neural collapse."""
  return build_metrics_table(
    study,
    'Angular visual hardness, participation ratio, share of dead units and neural '
    'collapse (Papyan et al. 2020) on the test split.',
    (
      'angular_visual_hardness',
      'participation_ratio',
      'dead_unit_fraction',
      'nc1',
      'nc2_mean_norms',
      'nc2_mean_angles',
      'nc3',
      'nc4',
    ),
    compares=False,
  )
