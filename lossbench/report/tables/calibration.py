"""Table B.3: calibration."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables.cells import Table
from lossbench.report.tables.columns import build_metrics_table


def build(study: StudyRecords) -> Table:
  """Table B.3."""
  return build_metrics_table(
    study,
    'NLL in nats and ECE (15 bins) on the test split, before and after scaling '
    'the temperature for the lowest NLL on that split. Sigmoid’s probabilities '
    'are normalised over the classes; squared error’s outputs were never trained '
    'to be log-odds: read its rows with care.',
    ('nll', 'ece', 'tempered_nll', 'tempered_ece'),
  )
