"""Table C.2: AutoAugment and mixup."""

from lossbench.report import looks
from lossbench.report.augmentations import joined
from lossbench.report.looks import Key
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.runs.records import get_measure


def _columns(group: str, augmentation: str, groups) -> list[Column]:
  name = looks.objective_label(augmentation) if augmentation else 'standard'
  return [
    columns.metric_column(
      group,
      metric,
      label=columns.titled(
        group, f'{name}: {get_measure(metric).title}', groups
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
  study = joined(study)
  groups = [
    group
    for group in study.groups()
    if any(map(columns.augmentation, study.keys(group)))
  ]
  columns.require(
    groups,
    study,
    'runs with AutoAugment or mixup',
    config='configs/studies/augmentation.py',
  )
  keys = dict.fromkeys(
    columns.without_augmentation(key)
    for group in groups
    for key in study.keys(group)
  )
  return build_table(
    study,
    'Accuracy (%) on the test split.',
    [
      column
      for group in groups
      for augmentation in dict.fromkeys(
        map(columns.augmentation, study.keys(group))
      )
      for column in _columns(group, augmentation, groups)
    ],
    list(keys),
    sort=False,
  )
