"""Training objectives: pure losses, output layers and how they combine.

What recipes need, the registry, is there at once; what computes comes with JAX,
when it is first asked for.
"""

from typing import TYPE_CHECKING

from lossbench.objectives.registry import (
  Interval,
  Part,
  check_spec,
  get_part,
  known_parts,
  register,
)

if TYPE_CHECKING:
  from lossbench.objectives.objective import Objective, create_objective

__all__ = [
  'Interval',
  'Objective',
  'Part',
  'check_spec',
  'create_objective',
  'get_part',
  'known_parts',
  'register',
]


def __getattr__(name):
  if name not in ('Objective', 'create_objective'):
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from lossbench.objectives import objective

  return getattr(objective, name)
