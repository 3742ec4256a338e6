"""What a tuning leaves: the ranking, tuning.json, a picture."""

import io
import json

import numpy as np
import pytest
import rich.console
from matplotlib import image

from lossbench.tuning import search
from lossbench.tuning.results import print_ranking, write_results
from lossbench.tuning.trials import Trial
from lossbench.tuning.worker import Tuning

RATE = search.Dimension('learning_rate', -2.0, 0.0, 1.0)
DECAY = search.Dimension('weight_decay', -4.0, -3.0, 1.0)
ALPHA = search.Dimension(
  'objective.label_smoothing.alpha', 0.1, 0.3, 0.1, False
)
TRIALS = (
  Trial((0, 2, 2), 0.9912, 0.0011, ''),
  Trial((2, 2, 0), 0.95, None, ''),
  Trial((2, 0, 0), 0.94, None, ''),
  Trial((4, 2, 4), None, None, 'The loss is nan at step 3.'),
)
EDGE = search.Edge('learning_rate', 'lowest', 0.01, search.LIMIT)


def _written(tmp_path, dimensions, tuning):
  write_results(tmp_path, dimensions, tuning, command='a command')
  return json.loads((tmp_path / 'tuning.json').read_text())


def _printed(dimensions, tuning) -> str:
  output = rich.console.Console(width=120, file=io.StringIO())
  print_ranking(dimensions, tuning, output)
  return output.file.getvalue()


def test_a_winner_inside_is_named_without_remarks(tmp_path):
  tuning = Tuning(TRIALS[:3], (), 0)
  dimensions = (RATE, DECAY, ALPHA)
  found = _written(tmp_path, dimensions, tuning)
  assert found['command'] == 'a command'
  assert found['edges'] == []
  assert found['num_ties'] == 0
  assert found['overrides'] == (
    '--config.learning_rate=0.01 --config.weight_decay=0.001 '
    '--config.objective.label_smoothing.alpha=0.2'
  )
  printed = _printed(dimensions, tuning)
  assert found['overrides'] in printed
  assert '0.9912 ± 0.0011' in printed
  for word in ('edge', 'as good', 'diverged'):
    assert word not in printed


def test_edges_ties_and_divergence_are_said(tmp_path):
  tuning = Tuning(TRIALS, (EDGE,), 7)
  dimensions = (RATE, DECAY, ALPHA)
  found = _written(tmp_path, dimensions, tuning)
  assert found['edges'] == [
    {
      'field': 'learning_rate',
      'end': 'lowest',
      'value': 0.01,
      'reason': search.LIMIT,
    }
  ]
  assert found['num_ties'] == 7
  last = found['trials'][-1]
  assert last['holdout_accuracy'] is None
  assert last['divergence'] == 'The loss is nan at step 3.'
  printed = _printed(dimensions, tuning)
  assert (
    'On an edge: better values of learning_rate may lie beyond 0.01, the lowest '
    f'tried; {search.LIMIT}.'
  ) in printed
  assert '7 other points of the fine grid are as good' in printed
  assert '1 points diverged' in printed


@pytest.mark.parametrize(
  'dimensions',
  [(RATE,), (RATE, DECAY), (RATE, DECAY, ALPHA)],
  ids=['one', 'two', 'three'],
)
def test_the_picture_shows_the_chosen_point(tmp_path, dimensions):
  trials = tuple(
    Trial(
      t.point[: len(dimensions)], t.accuracy, t.standard_error, t.divergence
    )
    for t in TRIALS
  )
  write_results(tmp_path, dimensions, Tuning(trials, (), 0), command='')
  pixels = image.imread(tmp_path / 'tuning.png')[..., :3]
  red = np.abs(pixels - np.array([0xD6, 0x27, 0x28]) / 255).max(axis=-1) < 0.02
  panels = {1: 1, 2: 1, 3: 3}[len(dimensions)]
  assert red.sum() > panels * 100  # a circle in each panel
