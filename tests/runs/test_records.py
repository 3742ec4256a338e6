"""Every metric that can be measured has a unit and a direction."""

import json

import numpy as np
import pytest

from lossbench.evaluation import scoring
from lossbench.evaluation.suites import create_measurements
from lossbench.objectives import create_objective
from lossbench.runs.records import create_record, get_measure


def _accumulated():
  """What the suites measure that are not parts of one accumulator."""
  names = set()
  for suite in ('predictions', 'representations'):
    measurements = create_measurements(
      suite, {'block1': 4, 'features': 8, 'logits': 10}, num_classes=10
    )
    names |= {name.partition('/')[0] for name in measurements.empty_fn()}
  return sorted(names - {'neural_collapse'})  # nc1 to nc4


@pytest.mark.parametrize('name', _accumulated())
def test_everything_that_accumulates_is_known(name):
  record = create_record(name, 0.5, n=100)
  assert record.name == name
  assert record.unit
  assert record.direction in ('higher', 'lower', 'neutral')


def test_everything_that_is_scored_is_known():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(60, 6)).astype(np.float32)
  labels = rng.integers(0, 6, 60).astype(np.int32)
  records, *_ = scoring.score_predictions(
    create_objective('softmax'), logits, labels
  )
  assert [record.name for record in records] == [
    'top1_accuracy',
    'top5_accuracy',
    'nll',
    'ece',
    'brier_score',
    'classwise_ece',
    'mean_class_accuracy',
    'worst_class_accuracy',
    'adaptive_ece',
    'temperature',
    'tempered_nll',
    'tempered_ece',
  ]
  counts = {record.name: record.n for record in records}
  is_right = logits.argmax(axis=1) == labels
  recalls = [is_right[labels == k].mean() for k in range(6)]
  worst = np.sum(labels == np.argmin(recalls))
  assert counts.pop('worst_class_accuracy') == worst
  assert set(counts.values()) == {60}
  # Labels are noise, so the flattest distribution is the best: log 6 nats.
  values = {record.name: record.value for record in records}
  assert values['temperature'] > 2
  assert values['tempered_nll'] == pytest.approx(np.log(6), abs=0.05)


@pytest.mark.parametrize(
  ('name', 'unit', 'direction'),
  [
    ('top1_accuracy', 'fraction', 'higher'),
    ('nll', 'nats', 'lower'),
    ('ece', 'fraction', 'lower'),
    ('temperature', 'ratio', 'neutral'),
    ('class_separation', 'R^2', 'neutral'),
  ],
)
def test_units_and_directions(name, unit, direction):
  record = create_record(name, 0.5, n=1)
  assert (record.unit, record.direction) == (unit, direction)


@pytest.mark.parametrize(
  ('name', 'title'),
  [
    ('top1_accuracy', 'top-1'),
    ('nll', 'NLL (nats)'),
    ('participation_ratio', 'participation ratio'),
  ],
)
def test_titles(name, title):
  assert get_measure(name).title == title


def test_record_as_json():
  record = create_record(
    'class_separation', None, n=7, endpoint='block1', note='one class only'
  )
  assert json.loads(json.dumps(record.to_json())) == {
    'name': 'class_separation',
    'value': None,
    'unit': 'R^2',
    'direction': 'neutral',
    'n': 7,
    'endpoint': 'block1',
    'note': 'one class only',
  }


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_value_and_says_why(value):
  record = create_record('nll', value, n=3)
  assert record.value is None
  assert record.note == f'not available: nll is {value}'
  record = create_record('nll', value, n=3, note='one class only')
  assert record.value is None
  assert record.note == 'one class only'


def test_unknown_metric_lists_the_known():
  with pytest.raises(ValueError, match="Unknown metric 'accuracy'") as error:
    create_record('accuracy', 0.5, n=1)
  assert ' ece, ' in str(error.value)
  assert 'top1_accuracy' in str(error.value)
