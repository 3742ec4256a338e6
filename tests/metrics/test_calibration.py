"""Likelihood and ECE against independent oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss

from lossbench.metrics import calibration
from lossbench.metrics.calibration import (
  ExpectedCalibrationError,
  NegativeLogLikelihood,
)
from tests.metrics.drawn import NUM_CLASSES, NUM_EXAMPLES, draw_predictions

# Jitted here: op by op they are as right, and slower to test.
negative_log_likelihood = jax.jit(calibration.negative_log_likelihood)
expected_calibration_error = jax.jit(
  calibration.expected_calibration_error, static_argnames='num_bins'
)


@jax.jit
def _update_jitted(accumulator, log_probs, labels, mask):
  return accumulator.update(log_probs, labels, mask)


def _update(accumulator, log_probs, labels, mask=None):
  # Filled up to 300s with masked rows: few shapes, so few compilations.
  num_rows = len(labels)
  fill = -num_rows % NUM_EXAMPLES
  return _update_jitted(
    accumulator,
    np.pad(
      np.asarray(log_probs, np.float32),
      ((0, fill), (0, 0)),
      constant_values=np.nan,
    ),
    np.pad(labels, (0, fill)),
    np.pad(np.ones(num_rows) if mask is None else mask, (0, fill)),
  )


def _nll(log_probs, labels, mask=None):
  return _update(NegativeLogLikelihood.empty(), log_probs, labels, mask)


def _ece(log_probs, labels, mask=None, num_bins=15):
  empty = ExpectedCalibrationError.empty(num_bins=num_bins)
  return _update(empty, log_probs, labels, mask)


def _binary(log_confidence, wrong=()):
  """Two classes, class 0 predicted with these log-confidences (>= log 1/2)."""
  log_confidence = np.asarray(log_confidence, np.float32)
  with np.errstate(divide='ignore'):
    other = np.log1p(-np.exp(log_confidence.astype(np.float64)))
  log_probs = np.stack([log_confidence, other.astype(np.float32)], axis=1)
  labels = np.zeros(len(log_confidence), int)
  labels[list(wrong)] = 1
  return log_probs, labels


# Negative log-likelihood.


@pytest.mark.parametrize('sharpness', [0.1, 1.0, 5.0])
def test_nll_scikit_learn(sharpness):
  log_probs, labels = draw_predictions(sharpness=sharpness)
  expected = log_loss(
    labels, special.softmax(log_probs.astype(np.float64), axis=1)
  )
  got = negative_log_likelihood(log_probs, labels)
  assert got == pytest.approx(expected, rel=1e-6)
  assert _nll(log_probs, labels).compute() == pytest.approx(expected, rel=1e-6)


def test_nll_hand_values():
  log_probs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
  labels = np.array([1, 2])
  expected = (np.log(4) - np.log(0.8)) / 2
  assert negative_log_likelihood(log_probs, labels) == pytest.approx(expected)
  uniform = np.full((9, 1000), -np.log(1000))
  got = negative_log_likelihood(uniform, np.arange(9))
  assert got == pytest.approx(6.907755279)  # ln 1000
  with_mask = negative_log_likelihood(log_probs, labels, mask=np.array([1, 0]))
  assert with_mask == pytest.approx(np.log(4))


def test_nll_of_confident_predictions():
  log_probs = np.array([[0.0, -1e4], [-1e4, 0.0], [-1e-9, -20.7]], np.float32)
  labels = np.zeros(3, int)
  parts = [_nll(log_probs[i : i + 1], labels[:1]).compute() for i in range(3)]
  assert parts == pytest.approx([0.0, 1e4, 1e-9], rel=1e-6)
  impossible = np.array([[-np.inf, 0.0], [0.0, -np.inf]])
  assert _nll(impossible, np.array([0, 0])).compute() == np.inf
  assert negative_log_likelihood(impossible, np.array([0, 0])) == np.inf
  assert _nll(impossible, np.array([1, 0])).compute() == 0.0


def test_nll_of_many_examples_keeps_its_digits():
  log_probs, labels = draw_predictions()

  def add(carry, _):
    return carry.update(log_probs, labels, None), None

  nll = jax.jit(
    lambda: jax.lax.scan(add, NegativeLogLikelihood.empty(), length=4000)[0]
  )()
  assert int(nll.num_examples) == 1_200_000
  chosen = log_probs[np.arange(NUM_EXAMPLES), labels].astype(np.float64)
  assert nll.compute() == pytest.approx(-chosen.mean(), rel=1e-12)


# Expected calibration error.


def _loop_ece(log_probs, labels, num_bins):
  """Example by example; edges and log-confidences compared in float32."""
  examples = [[] for _ in range(num_bins)]
  edges = [np.float32(np.log(m / num_bins)) for m in range(1, num_bins + 1)]
  for row, label in zip(np.asarray(log_probs, np.float32), labels, strict=True):
    prediction = int(np.argmax(row))
    for m in range(num_bins):  # the first bin whose upper edge is not below
      if row[prediction] <= edges[m] or m == num_bins - 1:
        confidence = np.exp(np.float64(row[prediction]))
        examples[m].append((confidence, prediction == label))
        break
  error = 0.0
  for members in examples:
    if members:
      confidence, correct = np.mean(np.asarray(members, float), axis=0)
      error += len(members) / len(labels) * abs(correct - confidence)
  return error, [len(members) for members in examples]


@pytest.mark.parametrize('num_bins', [1, 15, 100])
@pytest.mark.parametrize('sharpness', [0.3, 4.0])
def test_ece_loop(num_bins, sharpness):
  log_probs, labels = draw_predictions(sharpness=sharpness)
  expected, sizes = _loop_ece(log_probs, labels, num_bins)
  if num_bins == 15:
    got = expected_calibration_error(log_probs, labels)
    assert got == pytest.approx(expected, rel=1e-5)
  bins = _ece(log_probs, labels, num_bins=num_bins)
  assert bins.compute() == pytest.approx(expected, rel=1e-6)
  assert list(bins.num_examples) == sizes


@pytest.mark.parametrize('num_bins', [10, 15])
def test_confidences_on_the_edges_belong_to_the_bin_that_ends_there(num_bins):
  steps = np.arange((num_bins + 1) // 2, num_bins + 1)  # confidence >= 1/2
  on = np.log(steps / num_bins)  # float64, as a user would have them
  log_probs, labels = _binary(on)
  expected = np.zeros(num_bins, int)
  expected[steps - 1] = 1
  np.testing.assert_array_equal(
    _ece(log_probs, labels, num_bins=num_bins).num_examples, expected
  )
  # One float32 further up is the next bin; there is none after 1.
  above = np.nextafter(on[:-1].astype(np.float32), np.float32(1))
  log_probs, labels = _binary(above)
  expected = np.zeros(num_bins, int)
  expected[steps[:-1]] = 1
  np.testing.assert_array_equal(
    _ece(log_probs, labels, num_bins=num_bins).num_examples, expected
  )
  assert _loop_ece(log_probs, labels, num_bins)[1] == list(expected)


def test_ece_hand_values():
  # Bins of 15: 0.9 and 0.92 share the 14th, (13/15, 14/15]; 0.6 is in the 9th,
  # (8/15, 9/15], on its edge. |1 - 1.82| and |1 - 0.6| over 3.
  log_probs, labels = _binary(np.log([0.9, 0.92, 0.6]), wrong=[0])
  expected = (0.82 + 0.4) / 3
  got = expected_calibration_error(log_probs, labels)
  assert got == pytest.approx(expected, rel=1e-6)
  diagram = _ece(log_probs, labels).reliability()
  assert diagram.num_examples.tolist() == [0] * 8 + [1] + [0] * 4 + [2, 0]
  np.testing.assert_allclose(diagram.upper, np.arange(1, 16) / 15)
  np.testing.assert_allclose(diagram.lower, np.arange(15) / 15, atol=1e-15)
  assert diagram.confidence[13] == pytest.approx(0.91)
  assert diagram.accuracy[13] == 0.5
  assert np.isnan(diagram.confidence[0])
  assert np.isnan(diagram.accuracy[0])


def test_ece_of_certainty():
  certain = np.array([[0.0, -np.inf]] * 4)
  right, wrong, half = np.zeros(4, int), np.ones(4, int), np.arange(4) % 2
  for labels, expected in ((right, 0.0), (wrong, 1.0), (half, 0.5)):
    assert expected_calibration_error(certain, labels) == expected
    bins = _ece(certain, labels)
    assert bins.compute() == expected
    assert bins.num_examples[-1] == 4


def test_ece_of_a_uniform_prediction():
  """All at class 0 with confidence 1/K; balanced, so accuracy 1/K too."""
  for num_classes in (3, 5, 15):
    log_probs = np.full((30, num_classes), -np.log(num_classes))
    labels = np.arange(30) % num_classes
    assert _ece(log_probs, labels).compute() == pytest.approx(0.0, abs=1e-7)


def test_rounding_above_one_is_one():
  log_probs = np.array([[3e-7, -20.0]], np.float32)
  bins = _ece(log_probs, np.array([0]))
  assert bins.compute() == 0.0
  assert bins.num_examples[-1] == 1


def test_ece_of_a_calibrated_model_is_small():
  log_probs, labels = draw_predictions(num_examples=30_000)
  # Its expectation for a calibrated model is about sqrt(bins / N), not 0.
  assert _ece(log_probs, labels).compute() < 0.02
  sharp, labels = draw_predictions(num_examples=30_000, sharpness=4.0)
  assert _ece(sharp, labels).compute() > 0.15


# Both.


@pytest.mark.parametrize('accumulate', [_nll, _ece])
@pytest.mark.parametrize('what', ['logits', 'probs', 'label -1', 'label K'])
def test_what_cannot_be_scored_is_refused(accumulate, what):
  log_probs, labels = draw_predictions()
  if what == 'logits':
    log_probs[7] += 1.0
  elif what == 'probs':
    log_probs[7] = np.exp(log_probs[7])
  else:
    labels[7] = -1 if what == 'label -1' else NUM_CLASSES
  accumulator = accumulate(log_probs, labels)
  with pytest.raises(ValueError, match='1 examples have probabilities that'):
    accumulator.compute()
  for function in (negative_log_likelihood, expected_calibration_error):
    everyone = np.ones(NUM_EXAMPLES)
    assert np.isnan(function(log_probs, labels, mask=everyone))
  mask = np.float64(np.arange(NUM_EXAMPLES) != 7)
  assert np.isfinite(accumulate(log_probs, labels, mask).compute())
  for function in (negative_log_likelihood, expected_calibration_error):
    assert np.isfinite(function(log_probs, labels, mask=mask))


def test_reliability_refuses_too():
  log_probs, labels = draw_predictions()
  with pytest.raises(ValueError, match='not logits'):
    _ece(log_probs + 1, labels).reliability()


@pytest.mark.parametrize('position', [0, 1, 2])
def test_nan_is_nan(position):
  log_probs = np.log(np.array([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]]))
  log_probs[1, position] = np.nan
  labels = np.array([0, 0])
  assert np.isnan(_nll(log_probs, labels).compute())
  assert np.isnan(_ece(log_probs, labels).compute())
  assert np.isnan(negative_log_likelihood(log_probs, labels))
  assert np.isnan(expected_calibration_error(log_probs, labels))


def test_nothing_counted_is_nan():
  log_probs, labels = draw_predictions()
  nobody = np.zeros(NUM_EXAMPLES)
  assert np.isnan(_nll(log_probs, labels, nobody).compute())
  assert np.isnan(_ece(log_probs, labels, nobody).compute())
  assert np.isnan(negative_log_likelihood(log_probs, labels, mask=nobody))
  assert np.isnan(expected_calibration_error(log_probs, labels, mask=nobody))


def test_log_probs_rounded_to_bfloat16_are_refused():
  logits = np.random.default_rng(0).normal(size=(200, 1000))
  logits, labels = jnp.asarray(logits, jnp.bfloat16), np.arange(200)
  in_float32 = jax.nn.log_softmax(logits.astype(jnp.float32))
  assert 6 < _nll(in_float32, labels).compute() < 9
  with pytest.raises(ValueError, match=r'log-probabilities .* in float32'):
    _nll(jax.nn.log_softmax(logits), labels).compute()


def test_refusals():
  log_probs, labels = draw_predictions()
  for function in (negative_log_likelihood, expected_calibration_error):
    with pytest.raises(ValueError, match=r'\(300, 6\) and \(299,\)'):
      function(log_probs, labels[1:])
    with pytest.raises(ValueError, match='integer class ids'):
      function(log_probs, labels.astype(np.float32))
    with pytest.raises(ValueError, match='mask must be'):
      function(log_probs, labels, mask=np.ones(2))
  with pytest.raises(ValueError, match='num_bins must be at least 1; got 0'):
    expected_calibration_error(log_probs, labels, num_bins=0)
