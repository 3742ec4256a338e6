"""Studies over the temperature: Table 4 and Figure 5b."""

import dataclasses
import shlex

from lossbench.report.records import RunRecords, StudyRecords


def temperature_of(run: RunRecords) -> float | None:
  """The temperature of a run whose study varies it, else None."""
  field, _, value = run.variant.rpartition('=')
  return float(value) if field == 'temperature' else None


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Runs that differ in nothing but temperature (and scaling by it) and seed.

  Groups whose temperatures complement one another make up one sweep.

  Attributes:
    recipe: the first of the groups, which stands for all of them in `study`.
    recipes: the groups.
    study: the records of these runs alone, as if they were of one group.
    keys: temperature -> (objective, variant), ascending.
  """

  recipe: str
  recipes: tuple[str, ...]
  study: StudyRecords
  keys: dict[float, tuple[str, str]]


def _but_for_temperature(run: RunRecords) -> tuple[str, ...]:
  """What all runs of a sweep have in common."""
  overrides = [
    word
    for word in shlex.split(run.commands['train'])
    if word.startswith('--config.')
    and word.partition('=')[0].rpartition('.')[2]
    not in ('temperature', 'seed', 'stop_epoch')
  ]
  return run.recipe_file, run.objective.split('+')[0], *sorted(overrides)


def sweeps(study: StudyRecords) -> list[Sweep]:
  """The sweeps of a study.

  The same temperature with and without scaling, or in two groups, are points of
  two sweeps.
  """
  units: dict[tuple[str, str], list[RunRecords]] = {}
  for run in study.runs:
    if temperature_of(run) is not None:
      units.setdefault((run.recipe, run.objective), []).append(run)
  found: list[list[RunRecords]] = []
  for unit in units.values():
    own = {temperature_of(run) for run in unit}
    for runs in found:
      if _but_for_temperature(runs[0]) == _but_for_temperature(
        unit[0]
      ) and own.isdisjoint({temperature_of(run) for run in runs}):
        runs += unit
        break
    else:
      found.append(list(unit))
  return [_sweep(study, runs) for runs in found]


def _sweep(study: StudyRecords, runs: list[RunRecords]) -> Sweep:
  first = runs[0].recipe
  return Sweep(
    recipe=first,
    recipes=tuple(dict.fromkeys(run.recipe for run in runs)),
    study=dataclasses.replace(
      study,
      runs=tuple(dataclasses.replace(run, recipe=first) for run in runs),
    ),
    keys=dict(sorted({temperature_of(run): run.key for run in runs}.items())),
  )
