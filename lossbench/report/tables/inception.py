"""Table B.1: accuracy of Inception v3."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table

MODEL = 'inception_v3'


def build(study: StudyRecords) -> Table:
  """Table B.1."""
  recipes = [
    recipe
    for recipe in columns.evaluated(study)
    if study.runs_of(recipe)[0].model == MODEL
  ]
  columns.require(recipes, study, 'Inception v3 runs')
  return build_table(
    study,
    f'Accuracy (%) on the test split. {columns.SIGNIFICANCE}',
    [
      column
      for recipe in recipes
      for column in columns.accuracy_columns(study, recipe, recipes)
    ],
    columns.all_plain_keys(study, recipes),
  )
