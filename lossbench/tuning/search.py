"""The paper's search for hyperparameters, as a function of what is known.

Appendix A.1: a coarse grid; as long as the best point lies on an edge of it, the
edge is moved outwards; then a fine grid at half the spacing around the best,
two half steps to each side. `pending_points` says which points are to be tried
next, given the results so far, so that a search can be stopped anywhere.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

# A point's coordinates: half steps from the lowest value of each dimension.
Point = tuple[int, ...]

_MAX_DECADES = 100  # from 1; a range beyond is a slip
_MAX_EXTENSIONS = 10  # of the grid; a search that runs away finds no optimum


@dataclasses.dataclass(frozen=True)
class Dimension:
  """One hyperparameter and its coarse grid.

  Attributes:
    field: of the configuration, e.g. 'learning_rate'.
    low: lowest value of the grid; of a logarithmic one its log10.
    high: highest, likewise.
    step: between values, in decades if logarithmic.
    log: whether values are powers of ten.
    minimum: values must be above it.
    maximum: values must be at most this.
  """

  field: str
  low: float
  high: float
  step: float
  log: bool = True
  minimum: float = 0.0
  maximum: float = math.inf

  def __post_init__(self):
    numbers = (self.low, self.high, self.step)
    limit = _MAX_DECADES if self.log else math.inf
    if not all(abs(number) < limit for number in numbers):
      raise ValueError(
        f'The range of {self.field}, {self.low:g}:{self.high:g}:{self.step:g}, '
        'is too large' + (' for powers of ten.' if self.log else '.')
      )
    if not (self.step > 0 and self.high >= self.low):
      raise ValueError(
        f'The range of {self.field}, {self.low:g}:{self.high:g}:{self.step:g}, '
        'is empty. It is LOW:HIGH:STEP with LOW <= HIGH and STEP > 0'
        + (' in powers of ten.' if self.log else '.')
      )
    if not self.legal(0) or not self.legal(self.coarse()[-1]):
      raise ValueError(
        f'Values of {self.field} must be above {self.minimum:g} and at most '
        f'{self.maximum:g}; the range goes from {self.value(0):g} to '
        f'{self.value(self.coarse()[-1]):g}.'
      )

  def coarse(self) -> list[int]:
    """Coordinates of the coarse grid: even numbers."""
    # The last one is meant where it is missed by rounding only.
    count = math.floor((self.high - self.low) / self.step + 1e-9)
    return [2 * i for i in range(count + 1)]

  def value(self, coordinate: int) -> float:
    """The hyperparameter at a coordinate, of nine digits."""
    position = self.low + coordinate * self.step / 2
    return float(f'{10**position if self.log else position:.9g}')

  def legal(self, coordinate: int) -> bool:
    """Whether the value may be tried."""
    return self.minimum < self.value(coordinate) <= self.maximum


@dataclasses.dataclass(frozen=True)
class Progress:
  """Where a search stands.

  Attributes:
    stage: 'coarse', 'extended', 'fine' or 'done'.
    pending: points without a result, in order.
    best: of the points of the last finished grid; None before the first is.
  """

  stage: str
  pending: tuple[Point, ...]
  best: Point | None


def values(dimensions: Sequence[Dimension], point: Point) -> dict[str, float]:
  """Field -> value of a point."""
  return {
    dimension.field: dimension.value(coordinate)
    for dimension, coordinate in zip(dimensions, point, strict=True)
  }


def _best(points: Sequence[Point], results: Mapping[Point, float]) -> Point:
  """Highest result; of equals the first in the order of the grid."""
  return max(points, key=lambda point: results[point])


def pending_points(
  dimensions: Sequence[Dimension], results: Mapping[Point, float]
) -> Progress:
  """What the protocol tries next.

  Args:
    dimensions: of the search.
    results: point -> what is to be maximised; failures count as the worst.

  Raises:
    ValueError: if there are no dimensions.
  """
  if not dimensions:
    raise ValueError('There is nothing to search: no ranges are given.')
  grid = [dimension.coarse() for dimension in dimensions]
  stage = 'coarse'
  for _ in range(_MAX_EXTENSIONS + 1):
    points = list(itertools.product(*grid))
    pending = tuple(p for p in points if p not in results)
    if pending:
      return Progress(stage, pending, None)
    best = _best(points, results)
    extended = [
      _extend(dimension, axis, coordinate)
      for dimension, axis, coordinate in zip(
        dimensions, grid, best, strict=True
      )
    ]
    if extended == grid:
      break
    grid, stage = extended, 'extended'
  fine = [
    _around(dimension, axis, centre)
    for dimension, axis, centre in zip(dimensions, grid, best, strict=True)
  ]
  points = list(itertools.product(*fine))
  pending = tuple(p for p in points if p not in results)
  if pending:
    return Progress('fine', pending, best)
  return Progress('done', (), _best(points, results))


def _around(dimension: Dimension, axis: list[int], centre: int) -> list[int]:
  """Two half steps to each side; an axis of one value is held fixed."""
  if len(axis) == 1:
    return axis
  return [c for c in range(centre - 2, centre + 3) if dimension.legal(c)]


def _extend(dimension: Dimension, axis: list[int], best: int) -> list[int]:
  """The axis with one more value wherever the best is its end."""
  if len(axis) == 1:
    return axis
  if best == axis[0] and dimension.legal(axis[0] - 2):
    return [axis[0] - 2, *axis]
  if best == axis[-1] and dimension.legal(axis[-1] + 2):
    return [*axis, axis[-1] + 2]
  return axis
