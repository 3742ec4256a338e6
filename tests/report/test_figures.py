"""Every figure draws all objectives, or says what is missing."""

import dataclasses
import json

import matplotlib
import numpy as np
import pytest
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from lossbench.metrics.density import smooth_density
from lossbench.report import looks
from lossbench.report.bootstrap import Sample
from lossbench.report.correlation import rank_correlation
from lossbench.report.figures import FIGURES, cka, lines, transfer
from lossbench.report.looks import Key
from lossbench.report.reading import load_study
from lossbench.report.records import NotRun
from tests.report.conftest import ENDPOINTS, NUM_BOTH_WRONG, write_study

RECIPE = 'imagenet_resnet50'


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  return load_study(write_study(tmp_path_factory.mktemp('figures') / 'study'))


def _texts(figure):
  return [
    text
    for text in figure.findobj(matplotlib.text.Text)
    if text.get_text().strip() and text.get_visible()
  ]


@pytest.mark.parametrize('spec', FIGURES, ids=lambda spec: spec.name)
def test_draws_every_objective_and_cuts_nothing(study, spec):
  drawing = spec.draw(study, RECIPE)
  assert drawing.sizes.startswith('3 seeds each')
  figure = drawing.figure
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  pixels = np.asarray(canvas.buffer_rgba())
  assert pixels.std() > 5  # not blank
  words = {text.get_text() for text in _texts(figure)}
  for objective in ('softmax', 'sigmoid', 'dropout'):
    assert looks.objective_label(objective) in words
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
  study = load_study(synthetic_study)
  runs = tuple(dataclasses.replace(run, history=[]) for run in study.runs)
  with pytest.raises(NotRun, match='not run'):
    spec.draw(dataclasses.replace(study, runs=runs), RECIPE)


def _draw(study, name):
  return next(s for s in FIGURES if s.name == name).draw(study, RECIPE)


def test_the_nine_look_the_same_in_every_study():
  from configs.studies.default import OBJECTIVES

  keys = [Key(objective) for objective in OBJECTIVES]
  alone = looks.create_looks(keys)
  assert len({look.color for look in alone.values()}) == len(keys)
  assert len({look.marker for look in alone.values()}) == len(keys)
  assert sorted(keys, key=looks.order) == keys
  more = looks.create_looks([*keys, Key('arcface'), Key('sigmoid+dropout')])
  assert alone.items() <= more.items()


def _of_study(name):
  """The objectives and variants of one of our studies, and more."""
  from lossbench.study import configuration

  path = f'configs/studies/{name}.py'
  config = configuration.load_config_fn(path)()
  study = configuration.build_study(config, config_file=path, workdir='x')
  return [
    Key(
      run.objective,
      tuple((f.rpartition('.')[2], run.settings[f]) for f in run.varied),
    )
    for run in study.runs
  ]


@pytest.mark.parametrize(
  'name', ['temperature', 'combinations', 'augmentation']
)
def test_no_two_objectives_look_the_same(name):
  more = [Key('cosface'), Key('arcface'), Key('focal'), Key('poly1')]
  found = looks.create_looks([*_of_study(name), *more])
  assert len(found) > len(more)
  assert len(set(found.values())) == len(found)


def test_temperatures_are_a_sequence_of_colours():
  """From dark to light, whatever the order of the runs."""
  found = looks.create_looks(reversed(_of_study('temperature')))
  by_temperature = sorted(found, key=lambda key: key.temperature)
  assert [key.temperature for key in by_temperature][:2] == [0.01, 0.02]
  light = [
    np.dot(colors.to_rgb(found[key].color), (0.299, 0.587, 0.114))
    for key in by_temperature
  ]
  assert light == sorted(light)
  # The same with scaling of the loss and without, told apart by the marker.
  assert len(set(light)) == len({key.temperature for key in found}) > 5
  assert looks.label(by_temperature[0]) == (
    'Cosine softmax + loss × τ (τ = 0.01)'
  )


def test_temperatures_of_two_groups_are_one_line(study):
  runs = []
  for run in study.runs:
    place = ('softmax', 'sigmoid', 'dropout').index(run.key.objective)
    temperature = (0.01, 0.05, 0.1)[place]
    runs.append(
      dataclasses.replace(
        run,
        group='plain' if place else 'scaled',
        key=Key('cosine_softmax', (('temperature', temperature),)),
      )
    )
  swept = dataclasses.replace(study, runs=tuple(runs))
  [axes] = transfer.draw(swept, 'scaled').figure.axes
  [line] = [line for line in axes.lines if line.get_color() == '#BBBBBB']
  assert len(line.get_xdata()) == 3
  with pytest.raises(NotRun, match='drawn with scaled'):
    transfer.draw(swept, 'plain')


def _comparison(study):
  path = study.path / 'comparisons' / RECIPE / 'comparison.json'
  return json.loads(path.read_text())


def _images(figure):
  return {
    axes.get_title(): axes.images[0].get_array()
    for axes in figure.axes
    if axes.images
  }


def test_the_diagonal_of_cka_is_between_seeds(study):
  """A run with itself, whose CKA is 1, is not part of the mean."""
  drawing = _draw(study, 'figure_3')
  images = _images(drawing.figure)
  found = _comparison(study)['cka']['corresponding']
  for name, title in (
    ('linear_cka', 'b: block1\nspatial averages'),
    ('minibatch_cka', 'b: block1\nwhole feature maps'),
  ):
    matrix = np.array(found[name][0])
    expected = np.mean([matrix[0, 1], matrix[0, 2], matrix[1, 2]])
    assert images[title][0, 0] == pytest.approx(expected)
  assert drawing.sizes == (
    '3 seeds each, 900 examples, feature maps in minibatches of 32'
  )


def test_both_kinds_of_cka_share_a_scale(study):
  figure = _draw(study, 'figure_3').figure
  for endpoint in ENDPOINTS:
    limits = {
      axes.images[0].get_clim()
      for axes in figure.axes
      if axes.get_title().startswith(f'b: {endpoint}\n')
    }
    assert len(limits) == 1


def test_cka_between_objectives_is_of_different_seeds():
  """Runs of one seed start from the same weights."""
  softmax, sigmoid = order = [Key('softmax'), Key('sigmoid')]
  values = np.array(
    [
      [1.0, 0.5, 0.9, 0.3],
      [0.5, 1.0, 0.2, 0.9],
      [0.9, 0.2, 1.0, 0.6],
      [0.3, 0.9, 0.6, 1.0],
    ]
  )
  keys = [softmax, softmax, sigmoid, sigmoid]
  found = cka.between_objectives(values, keys, [0, 1, 0, 1], order)
  np.testing.assert_allclose(found, [[0.5, 0.25], [0.25, 0.6]])
  alone = cka.between_objectives(values[::2, ::2], order, [0, 0], order)
  assert np.isnan(alone).all()


def test_shares_of_few_examples_are_blank_and_their_counts_drawn(study):
  """Of fewer than 20 that both get wrong."""
  drawing = _draw(study, 'figure_d1')
  images = _images(drawing.figure)
  counts = images['c: examples both get wrong']
  shares = images['b: same prediction where both are wrong']
  assert [counts[0, 1], counts[0, 2]] == list(NUM_BOTH_WRONG)
  assert np.isnan(np.ma.filled(shares, np.nan)[0, 1])
  assert shares[0, 2] > 0
  assert '1 of 36 pairs get fewer than 20 wrong together' in drawing.sizes


def test_the_last_block_and_the_features_are_drawn_once(study):
  """Class separation is of spatial averages, sparsity of whole maps."""
  ticks = [
    tick.get_text()
    for tick in _draw(study, 'figure_4').figure.axes[0].get_xticklabels()
  ]
  assert ticks == ['block1', 'block2 =\nfeatures', 'logits']
  endpoints = ('a', 'b')
  values = {
    Key('softmax'): np.array([[1.0, 1.0]]),
    Key('sigmoid'): np.array([[1.0, 2.0]]),
  }
  assert lines.merge_equal_layers(endpoints, values)[0] == endpoints


def test_distances_are_smooth_densities(study):
  """Of the pooled seeds, against the function of the metric."""
  training, test, *_ = _draw(study, 'figure_e3').figure.axes
  runs = study.runs_of(RECIPE, Key('sigmoid'))
  _check_density(training, [run.training_curves for run in runs])
  _check_density(test, [run.curves for run in runs])


def _check_density(axes, curves):
  [line] = [line for line in axes.lines if line.get_label() == 'Sigmoid']
  pairs = sum(
    curves[0][f'cosine_distance_{name}'].sum() for name in ('within', 'between')
  )
  expected = smooth_density(
    sum(c['cosine_distance_within'] for c in curves),
    curves[0]['cosine_distance_edges'],
    line.get_xdata(),
    num_examples=round((1 + (1 + 8 * pairs) ** 0.5) / 2),
  )
  np.testing.assert_allclose(line.get_ydata(), expected)
  assert np.trapezoid(expected, line.get_xdata()) == pytest.approx(1, abs=1e-3)


def test_class_separation_against_each_way_to_transfer(study):
  figure = _draw(study, 'figure_tradeoff').figure
  panels = {
    axes.get_title().split('\n')[0]: axes
    for axes in figure.axes
    if axes.get_title()
  }
  assert list(panels) == [
    'mean over data sets, linear',
    'mean over data sets, k nearest neighbours',
    'food101, linear',
    'food101, k nearest neighbours',
    'food101, fine-tuned',
    'cifar10, linear',
    'cifar10, k nearest neighbours',
    'imagenet2012, relearned from holdout, linear',
    'imagenet2012, relearned from holdout, k nearest neighbours',
  ]
  # Sigmoid is the second; of training examples, not of the test split.
  for panel, y in (
    ('mean over data sets, linear', 79.0),  # of food101 and cifar10 alone
    ('food101, k nearest neighbours', 63.0),
    ('food101, fine-tuned', 80.1),
  ):
    [bars] = [c for c in panels[panel].containers if c.get_label() == 'Sigmoid']
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[0.26, y]])


def test_corruptions_have_panels_by_severity(study):
  """Fog was measured; the others were not, and have none."""
  figure = _draw(study, 'figure_corruptions').figure
  [axes] = [axes for axes in figure.axes if axes.get_title()]
  assert axes.get_title() == 'imagenet_c: fog'
  [bars] = [c for c in axes.containers if c.get_label() == 'Sigmoid']
  np.testing.assert_allclose(
    bars.lines[0].get_xydata(),
    [[severity, 78.2 - 10 * severity] for severity in range(1, 6)],
  )


def test_rank_correlations_are_those_of_scipy():
  rng = np.random.default_rng(0)
  x, y = (
    [Sample(str(i), rng.normal(i, 0.01, 3)) for i in order]
    for order in ((0, 1, 2, 3, 4), (4, 2, 3, 1, 0))
  )
  rho, (low, high) = rank_correlation(x, y)
  expected = stats.spearmanr(*([s.mean for s in of] for of in (x, y)))
  assert rho == pytest.approx(expected.statistic)
  # The seeds of no two objectives overlap.
  assert (low, high) == pytest.approx((rho, rho))
  y[0] = Sample('4', np.array([-2.0, 2.5, 9.0]))
  rho, (low, high) = rank_correlation(x, y)
  assert low < rho < high
  y[0] = Sample('4', np.array([4.0]))
  assert rank_correlation(x, y)[1] is None  # a single network


def test_intervals_of_rank_correlations_cover_them():
  """Of two quantities in opposite orders, seeds as far apart as objectives."""
  rng = np.random.default_rng(0)
  covered = []
  for trial in range(100):
    x, y = (
      [Sample(f'{trial} {i}', rng.normal(i, 1, 3)) for i in order]
      for order in (range(9), range(9)[::-1])
    )
    rho, (low, high) = rank_correlation(x, y)
    assert low <= rho <= high
    covered.append(low <= -1)
  assert np.mean(covered) >= 0.85


def test_dead_units_are_said(study):
  sizes = _draw(study, 'figure_e2').sizes
  assert '1,000 test examples; dead units on training examples' in sizes
  assert 'training examples (mean): Softmax 25.0 %, ' in sizes
  assert 'test split (mean): Softmax 12.5 %, ' in sizes


def test_representations_are_of_training_images_and_of_the_test_split(study):
  """As the paper's, beside ours; without the former the figure says so."""
  left, right = _draw(study, 'figure_4').figure.axes
  heights = []
  for axes, title in ((left, 'training examples'), (right, 'test split')):
    assert axes.get_title() == title
    [line] = [c.lines[0] for c in axes.containers if c.get_label() == 'Sigmoid']
    heights.append(line.get_ydata())
  np.testing.assert_allclose(heights[0], [0.06, 0.26, 0.36])
  np.testing.assert_allclose(heights[1], [0.01, 0.21, 0.31])
  for name, titles in (
    ('figure_e2', ['penultimate features', 'class centroids']),
    ('figure_e3', ['solid: same class, dashed: different classes']),
  ):
    found = [axes.get_title() for axes in _draw(study, name).figure.axes]
    for title in titles:
      for split in ('training examples', 'test split'):
        assert any(title in text and split in text for text in found)
  runs = [
    dataclasses.replace(run, training={}, training_curves={})
    for run in study.runs
  ]
  lacking = dataclasses.replace(study, runs=tuple(runs))
  for name in ('figure_4', 'figure_e2', 'figure_e3'):
    sizes = _draw(lacking, name).sizes
    assert f'not run: training examples; {study.rerun_command}' in sizes
    assert 'training examples (mean)' not in sizes
