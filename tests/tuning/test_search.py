"""The paper's protocol, followed by hand on known landscapes."""

import itertools
import math

import pytest

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


def test_an_optimum_at_infinity_ends():
  _, stages, _ = _run((LEARNING_RATE,), _landscape(1000.0))
  assert len(stages) <= 13


def test_values_stay_legal_and_fixed_fields_fixed():
  keep_prob = Dimension('keep_prob', 0.5, 0.9, 0.1, log=False, maximum=1.0)
  fixed = Dimension('scale', 1.0, 1.0, 1.0)

  def accuracy(dimensions, point):
    return keep_prob.value(point[0])

  results, _, best = _run((keep_prob, fixed), accuracy)
  assert keep_prob.value(best[0]) == 1.0
  assert max(keep_prob.value(p[0]) for p in results) == 1.0
  assert {p[1] for p in results} == {0}


def test_ties_go_to_the_first():
  inside = Dimension('x', 0.0, 1.0, 0.5)
  results = {(c,): 0.5 for c in range(-20, 5)} | {(2,): 0.9, (1,): 0.9}
  progress = search.pending_points((inside,), results)
  assert progress == search.Progress('done', (), (1,))


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


def test_illegal_ranges_are_refused():
  with pytest.raises(ValueError, match='at most 1; the range goes from'):
    Dimension('keep_prob', 0.5, 1.5, 0.5, log=False, maximum=1.0)
  with pytest.raises(ValueError, match='above 0'):
    Dimension('alpha', 0.0, 0.5, 0.1, log=False)
  with pytest.raises(ValueError, match='nothing to search'):
    search.pending_points((), {})
