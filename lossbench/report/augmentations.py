"""Studies over augmentations: Table C.2."""

import dataclasses

from lossbench.report.records import RunRecords, StudyRecords


def joined(study: StudyRecords) -> StudyRecords:
  """The evaluated runs; groups of one recipe that complement one another as one.

  An augmentation may have a group of its own, for other numbers of seeds. Such
  groups go by the name of the first.
  """
  units: dict[str, list[RunRecords]] = {}
  for run in study.runs:
    if 'evaluate' in run.commands:
      units.setdefault(run.group, []).append(run)
  found: list[list[RunRecords]] = []
  for unit in units.values():
    for runs in found:
      if runs[0].recipe == unit[0].recipe and {
        run.key for run in runs
      }.isdisjoint(run.key for run in unit):
        runs += unit
        break
    else:
      found.append(list(unit))
  return dataclasses.replace(
    study,
    runs=tuple(
      dataclasses.replace(run, group=runs[0].group)
      for runs in found
      for run in runs
    ),
  )
