"""Table C.1: combinations of losses and regularisers."""

from lossbench.report import looks
from lossbench.report.looks import Key
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table


def _keys(study: StudyRecords, group: str) -> list[Key]:
  return [key for key in columns.plain_keys(study, group) if not key.variant]


def _added(key: Key) -> str:
  return '+'.join(key.parts[1:])


def _column(group: str, addend: str, groups) -> Column:
  label = looks.objective_label(addend) if addend else 'alone'
  return Column(
    label=columns.titled(group, label, groups),
    group=group,
    read_fn=lambda run: run.holdout_accuracy,
    is_percent=True,
    direction='higher',
    key_fn=lambda key: Key(f'{key.objective}+{addend}') if addend else key,
  )


def build(study: StudyRecords) -> Table:
  """Table C.1: of every group that combines."""
  groups = [
    group
    for group in study.groups()
    if any(_added(key) for key in _keys(study, group))
  ]
  columns.require(
    groups,
    study,
    'combined objectives',
    config='configs/studies/combinations.py',
  )
  heads = dict.fromkeys(
    key.parts[0] for group in groups for key in _keys(study, group)
  )
  return build_table(
    study,
    'Best accuracy (%) on the holdout at any time in training; columns are added '
    'to rows.',
    [
      _column(group, addend, groups)
      for group in groups
      for addend in dict.fromkeys(
        _added(key) for key in sorted(_keys(study, group), key=_by_addend)
      )
    ],
    [Key(head) for head in heads],
    sort=False,
  )


def _by_addend(key: Key) -> tuple:
  addend = _added(key)
  return (1, *looks.order(Key(addend))) if addend else (0,)
