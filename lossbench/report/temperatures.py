"""Studies over the temperature: Table 4 and Figure 5b."""

import dataclasses

from lossbench.report.looks import Key
from lossbench.report.records import RunRecords, StudyRecords


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Runs that differ in nothing but temperature (and scaling by it) and seed.

  Groups whose temperatures complement one another make up one sweep.

  Attributes:
    group: the first of the groups, which stands for all of them in `study`.
    groups: the groups.
    study: the records of these runs alone, as if they were of one group.
    keys: temperature -> key, ascending.
  """

  group: str
  groups: tuple[str, ...]
  study: StudyRecords
  keys: dict[float, Key]


def _but_for_temperature(run: RunRecords) -> tuple:
  """What all runs of a sweep have in common."""
  settings = sorted(
    (field, repr(value))
    for field, value in run.settings.items()
    if field.rpartition('.')[2] != 'temperature'
  )
  return run.recipe, run.key.parts[0], *settings


def sweeps(study: StudyRecords) -> list[Sweep]:
  """The sweeps of a study.

  The same temperature with and without scaling, or in two groups, are points of
  two sweeps.
  """
  units: dict[tuple[str, str], list[RunRecords]] = {}
  for run in study.runs:
    if run.key.temperature is not None:
      units.setdefault((run.group, run.key.objective), []).append(run)
  found: list[list[RunRecords]] = []
  for unit in units.values():
    own = {run.key.temperature for run in unit}
    for runs in found:
      if _but_for_temperature(runs[0]) == _but_for_temperature(
        unit[0]
      ) and own.isdisjoint({run.key.temperature for run in runs}):
        runs += unit
        break
    else:
      found.append(list(unit))
  return [_sweep(study, runs) for runs in found]


def _sweep(study: StudyRecords, runs: list[RunRecords]) -> Sweep:
  first = runs[0].group
  return Sweep(
    group=first,
    groups=tuple(dict.fromkeys(run.group for run in runs)),
    study=dataclasses.replace(
      study,
      runs=tuple(dataclasses.replace(run, group=first) for run in runs),
    ),
    keys={run.key.temperature: run.key for run in _by_temperature(runs)},
  )


def _by_temperature(runs: list[RunRecords]) -> list[RunRecords]:
  return sorted(runs, key=lambda run: run.key.temperature)
