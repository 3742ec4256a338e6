"""The paper's search for hyperparameters, as a function of what is known.

Appendix A.1: a coarse grid; as long as the best point lies on an edge of it, the
edge is moved outwards; then a fine grid at half the spacing around the best,
two half steps to each side. `pending_points` says which points are to be tried
next, given the results so far, so that a search can be stopped anywhere.

Of ties the paper does not speak. Here the best of equal points is the one
nearest the centre of the grid, and an edge is moved only if all of them lie on
it: where results do not differ, no direction is better.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

# A point's coordinates: half steps from the lowest value of each dimension.
Point = tuple[int, ...]

MAX_EXTENSIONS = 10  # of the grid; a search that runs away finds no optimum
_MAX_DECADES = 100  # from 1; a range beyond is a slip


@dataclasses.dataclass(frozen=True)
class Dimension:
  """One hyperparameter and its coarse grid.

  Attributes:
    field: of the configuration, e.g. 'learning_rate'.
    low: lowest value of the grid; of a logarithmic one its log10.
    high: highest, likewise.
    step: between values, in decades if logarithmic.
    log: whether values are powers of ten.
    legal: the values that may be tried, which `in` tells; None for all.
  """

  field: str
  low: float
  high: float
  step: float
  log: bool = True
  legal: Any = None

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

  def coarse(self) -> list[int]:
    """Coordinates of the coarse grid: even numbers."""
    # The last one is meant where it is missed by rounding only.
    count = math.floor((self.high - self.low) / self.step + 1e-9)
    return [2 * i for i in range(count + 1)]

  def value(self, coordinate: int) -> float:
    """The hyperparameter at a coordinate, of nine digits."""
    position = self.low + coordinate * self.step / 2
    return float(f'{10**position if self.log else position:.9g}')

  def is_legal(self, coordinate: int) -> bool:
    """Whether the value may be tried."""
    return self.legal is None or self.value(coordinate) in self.legal


# Why nothing was tried beyond an edge.
ILLEGAL = 'no value beyond it is legal'
LIMIT = f'the grid was extended {MAX_EXTENSIONS} times, the limit'
FINE = 'the fine grid ends there'


@dataclasses.dataclass(frozen=True)
class Edge:
  """An end of what was tried, beyond which better values may lie.

  Attributes:
    field: the dimension's.
    end: 'lowest' or 'highest' of the values tried.
    value: tried last.
    reason: why nothing beyond was tried.
  """

  field: str
  end: str
  value: float
  reason: str


@dataclasses.dataclass(frozen=True)
class Progress:
  """Where a search stands.

  Attributes:
    stage: 'coarse', 'extended', 'fine' or 'done'.
    pending: points without a result, in order.
    best: of the points of the last finished grid; None before the first is.
    edges: of a search that is done, beyond which better values may lie.
    num_ties: other points of the fine grid with the best's result, likewise.
  """

  stage: str
  pending: tuple[Point, ...] = ()
  best: Point | None = None
  edges: tuple[Edge, ...] = ()
  num_ties: int = 0


def values(dimensions: Sequence[Dimension], point: Point) -> dict[str, float]:
  """Field -> value of a point."""
  return {
    dimension.field: dimension.value(coordinate)
    for dimension, coordinate in zip(dimensions, point, strict=True)
  }


def pending_points(
  dimensions: Sequence[Dimension], results: Mapping[Point, float]
) -> Progress:
  """What the protocol tries next.

  Args:
    dimensions: of the search.
    results: point -> what is to be maximised; -inf of one that diverged.

  Raises:
    ValueError: if there are no dimensions.
  """
  if not dimensions:
    raise ValueError('There is nothing to search: no ranges are given.')
  grid = [dimension.coarse() for dimension in dimensions]
  for num_extensions in itertools.count():
    points = list(itertools.product(*grid))
    pending = tuple(p for p in points if p not in results)
    if pending:
      return Progress('extended' if num_extensions else 'coarse', pending)
    equals = _equals(points, results)
    extended = [
      _extend(dimension, axis, {p[i] for p in equals})
      for i, (dimension, axis) in enumerate(zip(dimensions, grid, strict=True))
    ]
    if extended == grid or num_extensions == MAX_EXTENSIONS:
      break
    grid = extended
  centre = _nearest([(axis[0] + axis[-1]) / 2 for axis in grid], equals)
  fine = [
    _around(dimension, axis, coordinate)
    for dimension, axis, coordinate in zip(
      dimensions, grid, centre, strict=True
    )
  ]
  points = list(itertools.product(*fine))
  pending = tuple(p for p in points if p not in results)
  if pending:
    return Progress('fine', pending, centre)
  equals = _equals(points, results)
  best = _nearest(centre, equals)
  edges = _edges(dimensions, best, grid=grid, extended=extended, fine=fine)
  return Progress('done', (), best, edges, num_ties=len(equals) - 1)


def _equals(
  points: Sequence[Point], results: Mapping[Point, float]
) -> list[Point]:
  """The points of the highest result, in order."""
  best = max(results[point] for point in points)
  # Means over seeds that are equal as fractions may differ in the last bit.
  return [
    point
    for point in points
    if math.isclose(results[point], best, rel_tol=1e-9, abs_tol=1e-12)
  ]


def _nearest(centre: Sequence[float], points: Sequence[Point]) -> Point:
  """The point nearest a centre, in half steps; of equals the first."""
  return min(points, key=lambda point: math.dist(point, centre))


def _around(dimension: Dimension, axis: list[int], centre: int) -> list[int]:
  """Two half steps to each side; an axis of one value is held fixed."""
  if len(axis) == 1:
    return axis
  return [c for c in range(centre - 2, centre + 3) if dimension.is_legal(c)]


def _extend(dimension: Dimension, axis: list[int], best: set[int]) -> list[int]:
  """The axis with one more value, if the best all lie on one end of it."""
  if len(axis) == 1:
    return axis
  if best == {axis[0]} and dimension.is_legal(axis[0] - 2):
    return [axis[0] - 2, *axis]
  if best == {axis[-1]} and dimension.is_legal(axis[-1] + 2):
    return [*axis, axis[-1] + 2]
  return axis


def _edges(dimensions, best, *, grid, extended, fine) -> tuple[Edge, ...]:
  """The ends on which the best point lies, or towards which results rose."""
  found = []
  for dimension, coordinate, axis, longer, fine_axis in zip(
    dimensions, best, grid, extended, fine, strict=True
  ):
    if len(axis) == 1:
      continue
    for end, pick, step in (('lowest', min, -1), ('highest', max, 1)):
      last = pick(*axis, *fine_axis)
      if pick(longer) != pick(axis):
        reason = LIMIT
      elif coordinate != last:
        continue
      else:
        reason = FINE if dimension.is_legal(last + step) else ILLEGAL
      found.append(Edge(dimension.field, end, dimension.value(last), reason))
  return tuple(found)
