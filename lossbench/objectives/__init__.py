"""Training objectives: pure losses, output layers and how they combine."""

from lossbench.objectives.objective import Objective, create_objective
from lossbench.objectives.registry import (
  Interval,
  Part,
  get_part,
  known_parts,
  register,
)

__all__ = [
  'Interval',
  'Objective',
  'Part',
  'create_objective',
  'get_part',
  'known_parts',
  'register',
]
