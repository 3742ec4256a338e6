"""The paper's protocol, followed by hand on known landscapes."""

import itertools
import math

import pytest

from lossbench.objectives import Interval
from lossbench.tuning import search
from lossbench.tuning.search import Dimension

LEARNING_RATE = Dimension('learning_rate', -2.0, 0.5, 0.5)
WEIGHT_DECAY = Dimension('weight_decay', -4.5, -3.0, 0.5)
BOTH = (LEARNING_RATE, WEIGHT_DECAY)


def _landscape(*centre):
  """Highest at a point given in powers of ten."""

  def accuracy(dimensions, point):
    return -sum(
      (math.log10(d.value(c)) - m) ** 2
      for d, c, m in zip(dimensions, point, centre, strict=True)
    )

  return accuracy


def _run(dimensions, accuracy):
  """Tries whatever is pending; the stages, and what each tried."""
  results, stages = {}, []
  while True:
    progress = search.pending_points(dimensions, results)
    if progress.stage == 'done':
      return results, stages, progress.best
    stages.append((progress.stage, progress.pending))
    for point in progress.pending:
      assert point not in results
      results[point] = accuracy(dimensions, point)


def test_coarse_grid_is_that_of_the_paper():
  progress = search.pending_points(BOTH, {})
  assert progress.stage == 'coarse'
  rates = [10**-2, 10**-1.5, 10**-1, 10**-0.5, 1, 10**0.5]
  decays = [10**-4.5, 10**-4, 10**-3.5, 10**-3]
  found = [search.values(BOTH, point) for point in progress.pending]
  for values, (rate, decay) in zip(
    found, itertools.product(rates, decays), strict=True
  ):
    assert values['learning_rate'] == pytest.approx(rate, rel=1e-8)
    assert values['weight_decay'] == pytest.approx(decay, rel=1e-8)


def test_fine_grid_is_that_of_the_paper():
  """Its example: around 0.1 it has 10^-0.5, -0.75, -1, -1.25 and -1.5."""
  results, stages, best = _run(BOTH, _landscape(-1.1, -3.8))
  assert [stage for stage, _ in stages] == ['coarse', 'fine']
  rates = sorted(
    {round(math.log10(LEARNING_RATE.value(p[0])), 6) for p in results}
    - {-2.0, 0.0, 0.5}
  )
  assert rates == [-1.5, -1.25, -1.0, -0.75, -0.5]
  # Nine of the 25 fine points are on the coarse grid and not tried again.
  assert len(stages[1][1]) == 16
  assert math.log10(LEARNING_RATE.value(best[0])) == pytest.approx(-1.0)
  assert math.log10(WEIGHT_DECAY.value(best[1])) == pytest.approx(-3.75)


def test_edges_move_until_the_best_is_inside():
  _, stages, best = _run(BOTH, _landscape(1.6, -5.2))
  assert [stage for stage, _ in stages] == [
    'coarse',
    'extended',
    'extended',
    'extended',
    'fine',
  ]
  # The first extension adds a row and a column to 6 x 4: 7 x 5 - 24.
  assert len(stages[1][1]) == 11
  assert math.log10(LEARNING_RATE.value(best[0])) == pytest.approx(1.5)
  assert math.log10(WEIGHT_DECAY.value(best[1])) == pytest.approx(-5.25)


def test_an_optimum_at_infinity_ends_and_is_said_to():
  results, stages, best = _run((LEARNING_RATE,), _landscape(1000.0))
  assert [stage for stage, _ in stages] == [
    'coarse',
    *['extended'] * search.MAX_EXTENSIONS,
    'fine',
  ]
  # The last of the coarse grid, and the two half steps beyond.
  highest = 0.5 + 0.5 * search.MAX_EXTENSIONS + 0.5
  assert math.log10(LEARNING_RATE.value(best[0])) == pytest.approx(highest)
  [edge] = search.pending_points((LEARNING_RATE,), results).edges
  assert (edge.field, edge.end, edge.reason) == (
    'learning_rate',
    'highest',
    search.LIMIT,
  )
  assert edge.value == pytest.approx(10**highest)


def test_the_limit_is_said_also_where_the_fine_grid_finds_a_peak():
  """Beyond the last extension results fall, but the coarse grid saw no fall."""
  last = 0.5 + 0.5 * search.MAX_EXTENSIONS
  results, _, best = _run((LEARNING_RATE,), _landscape(last + 0.01))
  assert math.log10(LEARNING_RATE.value(best[0])) == pytest.approx(last)
  [edge] = search.pending_points((LEARNING_RATE,), results).edges
  assert edge.reason == search.LIMIT


def test_a_best_inside_is_on_no_edge():
  results, _, _ = _run(BOTH, _landscape(-1.1, -3.8))
  progress = search.pending_points(BOTH, results)
  assert progress.edges == ()
  assert progress.num_ties == 0


def test_the_end_of_the_fine_grid_is_an_edge():
  """The coarse grid's best is inside; only the fine grid has a ridge."""
  ridge = {(2 * 2 + 2, 2 * 1 + 1): 2.0}  # a corner of the fine grid

  def accuracy(dimensions, point):
    return ridge.get(point, _landscape(-1.0, -4.0)(dimensions, point))

  results, _, best = _run(BOTH, accuracy)
  assert best in ridge
  # Learning rates beyond were tried; they are in the coarse grid.
  assert search.pending_points(BOTH, results).edges == ()
  narrow = (Dimension('learning_rate', -1.5, -0.5, 0.5), WEIGHT_DECAY)
  results, _, best = _run(
    narrow,
    lambda dimensions, point: (
      2.0 if point == (4, 3) else _landscape(-1.0, -4.0)(dimensions, point)
    ),
  )
  assert best == (4, 3)
  [edge] = search.pending_points(narrow, results).edges
  assert (edge.field, edge.end) == ('learning_rate', 'highest')
  assert edge.reason == search.FINE


def test_values_stay_legal_and_fixed_fields_fixed():
  keep_prob = Dimension(
    'keep_prob', 0.5, 0.9, 0.1, log=False, legal=Interval('(0, 1]')
  )
  fixed = Dimension('scale', 1.0, 1.0, 1.0)

  def accuracy(dimensions, point):
    return keep_prob.value(point[0])

  results, _, best = _run((keep_prob, fixed), accuracy)
  assert keep_prob.value(best[0]) == 1.0
  assert max(keep_prob.value(p[0]) for p in results) == 1.0
  assert {p[1] for p in results} == {0}
  [edge] = search.pending_points((keep_prob, fixed), results).edges
  assert edge == search.Edge('keep_prob', 'highest', 1.0, search.ILLEGAL)


@pytest.mark.parametrize('result', [0.5, -math.inf])
def test_where_all_are_equal_the_centre_wins(result):
  results, stages, best = _run(BOTH, lambda *_: result)
  assert [stage for stage, _ in stages] == ['coarse', 'fine']
  # Of 6 x 4 values; of the four at the centre the first.
  assert math.log10(LEARNING_RATE.value(best[0])) == pytest.approx(-1.0)
  assert math.log10(WEIGHT_DECAY.value(best[1])) == pytest.approx(-4.0)
  progress = search.pending_points(BOTH, results)
  assert progress.num_ties == 24
  assert progress.edges == ()


def test_an_edge_that_only_ties_is_not_extended():
  """The lowest rate is as good as a central one, at another weight decay."""

  def accuracy(dimensions, point):
    return 1.0 if point in {(0, 4), (6, 0)} else 0.5

  _, stages, best = _run(BOTH, accuracy)
  assert [stage for stage, _ in stages] == ['coarse', 'fine']
  assert best == (6, 0)  # nearer the centre of both, (5, 3)


def test_an_edge_on_which_all_ties_lie_is_extended():
  def accuracy(dimensions, point):
    return 1.0 if point[0] == 0 else 0.5

  _, stages, _ = _run(BOTH, accuracy)
  assert stages[1][0] == 'extended'
  assert {point[0] for point in stages[1][1]} == {-2}
  assert [stage for stage, _ in stages] == ['coarse', 'extended', 'fine']


def test_means_that_differ_in_the_last_bit_are_equal():
  results = {(c,): 0.5 for c in (0, 2, 4)}
  results[0,] = 0.1 + 0.2 + 0.3  # 0.6000000000000001
  results[2,] = 0.6
  progress = search.pending_points((Dimension('x', 0.0, 1.0, 0.5),), results)
  assert progress.stage == 'fine'
  assert progress.best == (2,)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('x', 0.0, -1.0, 0.5), 'range of x, 0:-1:0.5, is empty'),
    (('x', 0.0, 1.0, 0.0), 'is empty'),
    (('x', 0.0, 1.0, -1.0), 'is empty'),
  ],
)
def test_empty_ranges_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    Dimension(*arguments)


def test_a_search_of_nothing_is_refused():
  with pytest.raises(ValueError, match='nothing to search'):
    search.pending_points((), {})
