"""Which runs are seeds of one configuration."""

from collections.abc import Sequence

from lossbench.comparison.ensembles import Group
from lossbench.evaluation.outputs import RunOutputs
from lossbench.runs.directory import differing_fields


def group_seeds(runs: Sequence[RunOutputs]) -> list[Group]:
  """Groups runs that differ in nothing but the seed, in order."""

  def differences(a, b):
    return {
      name: (old, new)
      for name, old, new in differing_fields(a.config, b.config)
      if name != 'seed'
    }

  firsts: list[int] = []
  members: list[list[int]] = []
  for index, run in enumerate(runs):
    for first, indices in zip(firsts, members, strict=True):
      if not differences(runs[first], run):
        indices.append(index)
        break
    else:
      firsts.append(index)
      members.append([index])
  names = []
  for first in firsts:
    name = runs[first].config.objective.name
    twins = [
      other
      for other in firsts
      if other != first and runs[other].config.objective.name == name
    ]
    fields = {
      field: new
      for other in twins
      for field, (_, new) in differences(runs[other], runs[first]).items()
    }
    label = ', '.join(f'{k.split(".")[-1]}={v}' for k, v in fields.items())
    names.append(f'{name} ({label})' if label else name)
  return [
    Group(name, tuple(indices))
    for name, indices in zip(names, members, strict=True)
  ]
