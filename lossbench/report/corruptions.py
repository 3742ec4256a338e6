"""Accuracy by corruption and severity, of families of corruptions."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lossbench.data import catalogue
from lossbench.report.records import Measured, RunRecords, StudyRecords

_METRIC = 'top1_accuracy'


class Member(NamedTuple):
  """A data set of a family.

  Attributes:
    dataset: its name.
    family: of it.
    corruption: without the severity.
    severity: from 1.
  """

  dataset: str
  family: str
  corruption: str
  severity: int


def members(study: StudyRecords, group: str) -> list[Member]:
  """What the group's data set has of families, some of them measured."""
  own = study.runs_of(group)[0].dataset
  found = []
  for ood_set in catalogue.ood_suite(own):
    if ood_set.family:
      rest = ood_set.name.removeprefix(f'{ood_set.family}_')
      corruption, _, severity = rest.rpartition('_')
      found.append(
        Member(ood_set.name, ood_set.family, corruption, int(severity))
      )
  measured = {
    catalogue.family_of(dataset)
    for run in study.runs_of(group)
    for dataset, metric, _ in run.metrics
    if metric == _METRIC
  }
  return [member for member in found if member.family in measured]


def accuracy(run: RunRecords, member: Member) -> float | None:
  """Top-1 accuracy; None where it was not measured."""
  return run.value(_METRIC, dataset=member.dataset)


def mean_accuracy(
  run: RunRecords, of_members: Sequence[Member]
) -> Measured | None:
  """The mean over members; None if none was measured, undefined if some lack."""
  found = [run.measured(_METRIC, dataset=m.dataset) for m in of_members]
  known = [f for f in found if f is not None and f.value is not None]
  if not known:
    return None
  if len(known) < len(found):
    note = f'not available: {len(known)} of {len(found)} data sets'
    return Measured(None, note=note)
  mean = math.fsum(f.value for f in known) / len(known)
  return Measured(mean, sum(f.n for f in known))


def by(of_members: Iterable[Member], field: str) -> dict:
  """Value of a field -> the members that have it, in order."""
  found: dict = {}
  for member in of_members:
    found.setdefault(getattr(member, field), []).append(member)
  return found


def curves(
  runs: Sequence[RunRecords], of_members: Sequence[Member]
) -> np.ndarray:
  """[runs, members] accuracies; NaN where one was not measured."""
  values = [[accuracy(run, m) for m in of_members] for run in runs]
  return np.array(values, dtype=float)
