"""Geometry of the features, beyond the paper."""

import dataclasses

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Table
from lossbench.runs.records import NEUTRAL

_METRICS = (
  'angular_visual_hardness',
  'participation_ratio',
  'dead_unit_fraction',
  'nc1',
  'nc2_mean_norms',
  'nc2_mean_angles',
  'nc3',
  'nc4',
)


def build(study: StudyRecords) -> Table:
  """Angular visual hardness, directions in use, neural collapse."""
  groups = columns.evaluated(study)
  columns.require(groups, study, 'evaluated runs')
  return build_table(
    study,
    'Angular visual hardness, participation ratio, share of dead units and neural '
    'collapse (Papyan et al. 2020), on images that the networks were trained on '
    'and on the test split. Neural collapse is a property of training data: on '
    'test data the measures nc1 to nc4 say how far it generalises, and no more '
    '(Hui, Belkin & Nakkiran 2022, arXiv:2202.08384).',
    [
      dataclasses.replace(
        column,
        label=columns.titled(group, column.label, groups),
        direction=NEUTRAL,
      )
      for group in groups
      for metric in _METRICS
      for column in columns.split_columns(study, group, metric)
    ],
    columns.all_plain_keys(study, groups),
    sort=False,
    notes=columns.training_notes(study, groups),
  )
