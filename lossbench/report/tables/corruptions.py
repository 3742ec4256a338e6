"""Corruptions one by one and by severity, in place of one mean."""

from lossbench.report import corruptions
from lossbench.report.corruptions import Member
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.runs.records import HIGHER


def _column(group: str, label: str, members: list[Member], groups) -> Column:
  return Column(
    label=columns.titled(group, label, groups),
    group=group,
    read_fn=lambda run: corruptions.mean_accuracy(run, members),
    is_percent=True,
    direction=HIGHER,
  )


def build(study: StudyRecords) -> Table:
  """A column for each severity, then one for each corruption."""
  found = {
    group: corruptions.members(study, group)
    for group in columns.evaluated(study)
  }
  groups = [group for group, members in found.items() if members]
  columns.require(groups, study, 'measurements of corruptions')
  of_groups = []
  for group in groups:
    for family, members in corruptions.by(found[group], 'family').items():
      of_groups += [
        _column(group, f'{family}, severity {severity}', some, groups)
        for severity, some in corruptions.by(members, 'severity').items()
      ]
      of_groups += [
        _column(group, f'{family}, {corruption}', some, groups)
        for corruption, some in corruptions.by(members, 'corruption').items()
      ]
  return build_table(
    study,
    'Top-1 accuracy (%) at each severity, mean over corruptions, and under each '
    'corruption, mean over severities.',
    of_groups,
    columns.all_plain_keys(study, groups),
    sort=False,
  )
