"""OOD detection, beyond the paper."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables.cells import Table
from lossbench.report.tables.shifts import build_shifts_table

_METRICS = (
  'max_probability_auroc',
  'max_probability_fpr_at_95_tpr',
  'energy_auroc',
  'energy_fpr_at_95_tpr',
)


def build(study: StudyRecords) -> Table:
  """How well other data sets are told from the test split."""
  return build_shifts_table(
    study,
    'How well the maximum probability and the energy tell the test split from '
    'other data sets (%); of corruptions (…_c) the mean over all of them and '
    'their severities, where all were measured.',
    _METRICS,
  )
