"""Accuracy by class, beyond the paper."""

from lossbench.report.records import NotRun, StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.cells import Table

_METRICS = ('mean_class_accuracy', 'worst_class_accuracy')


def build(study: StudyRecords) -> Table:
  """The mean over classes, each counting the same, and the worst class."""
  measured = any(run.measured(_METRICS[0]) for run in study.runs)
  if columns.evaluated(study) and not measured:
    raise NotRun(
      'not run: these runs were evaluated when accuracies by class were not '
      'measured; delete their eval/evaluation.json and run the study again'
    )
  return columns.build_metrics_table(
    study,
    'Accuracy (%) by class on the test split: the mean over the classes, each '
    'counting the same, and that of the worst one.',
    _METRICS,
  )
