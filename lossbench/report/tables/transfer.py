"""Table 3: transfer."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table


def build(study: StudyRecords) -> Table:
  """Table 3: transfer of fixed features, and the source task relearned."""
  recipes = [
    recipe
    for recipe in study.recipes()
    if columns.plain_keys(study, recipe) and columns.targets(study, recipe)
  ]
  columns.require(recipes, study, 'transfer')
  return build_table(
    study,
    'Accuracy (%) of L2-regularised logistic regression on fixed penultimate '
    f'features; mean per class where the field reports it. {columns.SIGNIFICANCE}',
    [
      columns.transfer_column(
        recipe,
        target,
        columns.titled(
          recipe, columns.target_label(study, recipe, target), recipes
        ),
      )
      for recipe in recipes
      for target in columns.targets(study, recipe)
    ],
    columns.all_plain_keys(study, recipes),
    notes=[
      note
      for recipe in recipes
      for note in columns.relearning_notes(study, recipe)
    ],
  )
