"""Table C.2: AutoAugment and mixup."""

from lossbench.report import display, looks
from lossbench.report.looks import Key
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table


def _columns(recipe: str, augmentation: str, recipes) -> list[Column]:
  name = looks.objective_label(augmentation) if augmentation else 'standard'
  return [
    columns.metric_column(
      recipe,
      metric,
      'higher',
      label=columns.titled(
        recipe, f'{name}: {display.metric_label(metric)}', recipes
      ),
      key_fn=lambda key: Key(
        f'{key.objective}+{augmentation}' if augmentation else key.objective,
        key.variant,
      ),
    )
    for metric in ('top1_accuracy', 'top5_accuracy')
  ]


def build(study: StudyRecords) -> Table:
  """Table C.2."""
  recipes = [
    recipe
    for recipe in study.recipes()
    if any(map(columns.augmentation, study.keys(recipe)))
    and any('evaluate' in run.commands for run in study.runs_of(recipe))
  ]
  columns.require(
    recipes,
    study,
    'runs with AutoAugment or mixup',
    config='configs/studies/augmentation.py',
  )
  keys = dict.fromkeys(
    columns.without_augmentation(key)
    for recipe in recipes
    for key in study.keys(recipe)
  )
  return build_table(
    study,
    f'Accuracy (%) on the test split. {columns.SIGNIFICANCE}',
    [
      column
      for recipe in recipes
      for augmentation in dict.fromkeys(
        map(columns.augmentation, study.keys(recipe))
      )
      for column in _columns(recipe, augmentation, recipes)
    ],
    list(keys),
    sort=False,
  )
