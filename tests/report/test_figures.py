"""Every figure draws all objectives, or says what is missing."""

import dataclasses
import json

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lossbench.report import display
from lossbench.report.figures import FIGURES, transfer
from lossbench.report.records import NotRun, load_study

RECIPE = 'imagenet_resnet50'


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  from tests.report.conftest import write_study

  return load_study(write_study(tmp_path_factory.mktemp('figures') / 'study'))


def _texts(figure):
  return [
    text
    for text in figure.findobj(matplotlib.text.Text)
    if text.get_text().strip() and text.get_visible()
  ]


@pytest.mark.parametrize('spec', FIGURES, ids=lambda spec: spec.name)
def test_draws_every_objective_and_cuts_nothing(study, spec):
  figure = spec.draw(study, RECIPE)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  pixels = np.asarray(canvas.buffer_rgba())
  assert pixels.std() > 5  # not blank
  words = {text.get_text() for text in _texts(figure)}
  for objective in ('softmax', 'sigmoid', 'dropout'):
    assert display.objective_label(objective) in words
  # Nothing reaches beyond the page.
  width, height = figure.bbox.width, figure.bbox.height
  for axes in figure.axes:
    if not axes.axison:
      continue
    box = axes.get_tightbbox()
    assert box.x0 >= -1, axes.get_title()
    assert box.y0 >= -1, axes.get_title()
    assert box.x1 <= width + 1, axes.get_title()
    assert box.y1 <= height + 1, axes.get_title()


@pytest.mark.parametrize('spec', FIGURES, ids=lambda spec: spec.name)
def test_without_records_says_how_to_run_them(synthetic_study, spec):
  for pattern in ('runs/*/*/*/eval/*/metrics.json', 'comparisons/*/*.json'):
    for path in synthetic_study.glob(pattern):
      path.unlink()
  for path in synthetic_study.glob('runs/*/*/*/eval/*/curves.npz'):
    path.unlink()
  with pytest.raises(NotRun, match='not run'):
    spec.draw(load_study(synthetic_study), RECIPE)


def test_objectives_look_the_same_everywhere_and_differ():
  from configs.studies.default import OBJECTIVES

  keys = [(objective, '') for objective in OBJECTIVES]
  assert len({display.color(key) for key in keys}) == len(keys)
  assert len({display.marker(key) for key in keys}) == len(keys)
  assert sorted(keys, key=display.order) == keys
  assert display.color(('sigmoid+dropout', '')) == display.color(
    ('sigmoid+dropout', '')
  )


def test_temperatures_of_two_groups_are_one_line(study):
  runs = []
  for run in study.runs:
    place = ('softmax', 'sigmoid', 'dropout').index(run.objective)
    runs.append(
      dataclasses.replace(
        run,
        recipe='plain' if place else 'scaled',
        objective='cosine_softmax',
        variant=f'temperature={(0.01, 0.05, 0.1)[place]}',
      )
    )
  swept = dataclasses.replace(study, runs=tuple(runs))
  [axes] = transfer.draw(swept, 'scaled').axes
  [line] = [line for line in axes.lines if line.get_color() == '#BBBBBB']
  assert len(line.get_xdata()) == 3
  with pytest.raises(NotRun, match='drawn with scaled'):
    transfer.draw(swept, 'plain')


def test_the_diagonal_of_cka_is_between_seeds(study):
  """A run with itself, whose CKA is 1, is not part of the mean."""
  figure = next(s for s in FIGURES if s.name == 'figure_3').draw(study, RECIPE)
  image = figure.axes[3].images[0]
  comparison = json.loads(
    (study.path / 'comparisons' / RECIPE / 'comparison.json').read_text()
  )
  matrix = np.array(comparison['cka']['corresponding']['linear_cka'][0])
  expected = np.mean([matrix[0, 1], matrix[0, 2], matrix[1, 2]])
  assert image.get_array()[0, 0] == pytest.approx(expected)
