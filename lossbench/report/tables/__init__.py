"""The paper's tables: one file a table."""

import dataclasses
from collections.abc import Callable

from lossbench.report.records import StudyRecords
from lossbench.report.tables import (
  accuracy,
  augmentation,
  calibration,
  classes,
  collapse,
  combinations,
  corruptions,
  detection,
  finetuning,
  inception,
  more_calibration,
  separation,
  shifts,
  temperature,
  transfer,
)
from lossbench.report.tables.cells import Table


@dataclasses.dataclass(frozen=True)
class TableSpec:
  """A table of the report.

  Attributes:
    name: of its files.
    title: its heading.
    build: study -> table; raises NotRun where records are missing.
  """

  name: str
  title: str
  build: Callable[[StudyRecords], Table]


# In the paper's order, then ours.
TABLES = (
  TableSpec('table_1', 'Table 1: accuracy', accuracy.build),
  TableSpec('table_2', 'Table 2: class separation', separation.build),
  TableSpec('table_3', 'Table 3: transfer', transfer.build),
  TableSpec('table_4', 'Table 4: temperature', temperature.build),
  TableSpec('table_b1', 'Table B.1: accuracy of Inception v3', inception.build),
  TableSpec(
    'table_b2', 'Table B.2: accuracy out of distribution', shifts.build
  ),
  TableSpec('table_b3', 'Table B.3: calibration', calibration.build),
  TableSpec('table_c1', 'Table C.1: combinations', combinations.build),
  TableSpec('table_c2', 'Table C.2: AutoAugment and mixup', augmentation.build),
  TableSpec(
    'table_corruptions',
    'Corruptions and severities (beyond the paper)',
    corruptions.build,
  ),
  TableSpec(
    'table_knn',
    'Transfer by k nearest neighbours (later edition)',
    transfer.build_neighbours,
  ),
  TableSpec(
    'table_finetuning', 'Full fine-tuning (later edition)', finetuning.build
  ),
  TableSpec(
    'table_few_shots',
    'Transfer by few examples (beyond the paper)',
    transfer.build_few_shots,
  ),
  TableSpec(
    'table_ood_detection', 'OOD detection (beyond the paper)', detection.build
  ),
  TableSpec(
    'table_more_calibration',
    'More calibration (beyond the paper)',
    more_calibration.build,
  ),
  TableSpec(
    'table_classes', 'Accuracy by class (beyond the paper)', classes.build
  ),
  TableSpec(
    'table_neural_collapse',
    'Geometry of the features (beyond the paper)',
    collapse.build,
  ),
)
