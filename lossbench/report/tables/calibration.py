"""Table B.3: calibration."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables.cells import Table
from lossbench.report.tables.columns import build_metrics_table

_METRICS = ('nll', 'ece', 'tempered_nll', 'tempered_ece')
_HELD_OUT = ('held_out_tempered_nll', 'held_out_tempered_ece')


def build(study: StudyRecords) -> Table:
  """Table B.3."""
  measured = any(run.measured(_HELD_OUT[0]) for run in study.runs)
  return build_metrics_table(
    study,
    'NLL in nats and ECE (15 bins) on the test split, before and after scaling '
    'the temperature: for the lowest NLL on that very split, as the paper does, '
    'which is the best that scaling could do'
    + (
      '; and (held-out) for the lowest on other examples.'
      if measured
      # Nothing would measure them: the study has what it wants.
      else '. Held-out temperatures were not measured when these runs were '
      'evaluated: delete their eval/evaluation.json and run the study again.'
    )
    + ' Sigmoid’s probabilities are normalised over the classes; squared error’s '
    'outputs were never trained to be log-odds: read its rows with care.',
    (*_METRICS, *(_HELD_OUT if measured else ())),
  )
