"""Table 2: class separation."""

from lossbench.report import display
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table


def build(study: StudyRecords) -> Table:
  """Table 2: class separation, beside accuracy."""
  recipes = columns.evaluated(study)
  columns.require(recipes, study, 'evaluated runs')
  pairs = []
  for recipe in recipes:
    accuracy, separation = (
      columns.titled(recipe, display.metric_label(metric), recipes)
      for metric in ('top1_accuracy', 'class_separation')
    )
    pairs += [
      columns.metric_column(recipe, 'top1_accuracy', 'higher', label=accuracy),
      columns.separation_column(recipe, separation),
    ]
  return build_table(
    study,
    'R² (eq. 11) of the penultimate features on the test split (the paper: of the '
    f'training set), beside top-1 accuracy (%). {columns.SIGNIFICANCE}',
    pairs,
    columns.all_plain_keys(study, recipes),
  )
