"""Temperature scaling against Guo et al.'s formula and SciPy's minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from lossbench.metrics import temperature as module
from lossbench.metrics.temperature import fit_temperature, temper
from tests.metrics.drawn import (
  NUM_CLASSES,
  NUM_EXAMPLES,
  draw_logits,
  draw_predictions,
)


def _nll(log_probs, labels):
  rows = np.asarray(log_probs, np.float64)
  return -rows[np.arange(len(labels)), labels].mean()


# Tempering.


@pytest.mark.parametrize('temperature', [0.01, 0.5, 1.0, 3.0, 100.0])
def test_temper(temperature):
  logits, _ = draw_logits()
  log_probs = special.log_softmax(logits.astype(np.float64), axis=1)
  got = temper(log_probs, temperature)
  # Guo et al. 2017: softmax(logits / T).
  expected = special.log_softmax(logits.astype(float) / temperature, axis=1)
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
  powers = np.exp(log_probs) ** (1 / temperature)
  expected = powers / powers.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(np.exp(got), expected, rtol=2e-4, atol=1e-30)
  np.testing.assert_array_equal(
    np.argmax(got, axis=1), np.argmax(logits, axis=1)
  )
  traced = jax.jit(temper)(log_probs, jnp.float32(temperature))
  assert np.max(traced) <= 0
  np.testing.assert_allclose(traced, got, rtol=1e-5, atol=1e-6)


def test_temper_of_extremes():
  rows = np.array(
    [[0.0, -1e4, -np.inf], [0.0, -20.0, -21.0], [1e4, 0.0, -1e4]], np.float32
  )
  got = np.asarray(temper(rows, 1.0), np.float64)
  np.testing.assert_array_equal(got[0], [0, -1e4, -np.inf])
  odds = np.exp(-20.0) + np.exp(-21.0)
  assert got[1, 0] == pytest.approx(-odds, rel=1e-5)  # and not 0
  np.testing.assert_array_equal(got[2], [0, -1e4, -2e4])
  for temperature in (1e-2, 1e2):
    assert not np.isnan(temper(rows, temperature)).any()


def test_temper_refuses():
  with pytest.raises(ValueError, match=r'temperature in \(0, inf\); got 0'):
    temper(np.zeros((2, 3)), 0)
  for bad in (-1.0, np.nan, np.inf):
    with pytest.raises(ValueError, match='temperature must be'):
      temper(np.zeros((2, 3)), bad)
  with pytest.raises(ValueError, match=r'\(3,\)'):
    temper(np.zeros(3), 1.0)
  with pytest.raises(ValueError, match=r'scalar temperature.*\(2,\)'):
    temper(np.zeros((2, 3)), np.ones(2))


# The fitted temperature.


def _oracle_temperature(logits, labels):
  logits = np.asarray(logits, np.float64)

  def nll(log_temperature):
    scaled = special.log_softmax(logits / np.exp(log_temperature), axis=1)
    return -scaled[np.arange(len(labels)), labels].mean()

  result = optimize.minimize_scalar(
    nll, bounds=np.log([1e-2, 1e2]), method='bounded', options={'xatol': 1e-9}
  )
  return np.exp(result.x)


@pytest.mark.parametrize('sharpness', [0.05, 0.5, 1.0, 4.0, 30.0])
def test_fit_scipy(sharpness):
  logits, labels = draw_logits(sharpness=sharpness)
  log_probs = special.log_softmax(logits.astype(np.float64), axis=1)
  expected = _oracle_temperature(logits, labels)
  # A minimum is flat: the oracle itself is good to about 1e-7.
  assert fit_temperature(log_probs, labels) == pytest.approx(expected, rel=1e-5)
  # Row constants cancel: logits give the same as log-probabilities.
  assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-5)
  assert expected == pytest.approx(sharpness, rel=0.2)  # how labels were drawn


def test_fit_lowers_nll_and_is_a_fixed_point():
  log_probs, labels = draw_predictions(sharpness=3.0)
  temperature = fit_temperature(log_probs, labels)
  tempered = temper(log_probs, temperature)
  before = _nll(log_probs, labels)
  after = _nll(tempered, labels)
  assert after < before - 0.1
  assert fit_temperature(tempered, labels) == pytest.approx(1.0, rel=1e-4)
  for factor in (0.99, 1.01):
    nearby = temper(log_probs, factor * temperature)
    assert _nll(nearby, labels) > after


def test_fit_closed_form():
  """Log-odds L for every example, right with frequency q: T = L / logit(q)."""
  log_odds, num_right = 6.0, 73
  logits = np.tile(np.array([[log_odds, 0.0]]), (100, 1))
  labels = (np.arange(100) >= num_right).astype(int)
  expected = log_odds / special.logit(0.73)
  assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('chunk_size', [1, 7, 299, 300, 10_000])
def test_fit_in_chunks(chunk_size):
  log_probs, labels = draw_predictions(sharpness=2.0)
  rows = 20 if chunk_size == 1 else 300
  log_probs, labels = log_probs[:rows], labels[:rows]
  got = fit_temperature(log_probs, labels, chunk_size=chunk_size)
  assert got == pytest.approx(fit_temperature(log_probs, labels), rel=1e-6)


def test_fit_compiles_once_per_shape():
  log_probs, labels = draw_predictions()
  module._slope_per_example.clear_cache()
  for num_examples in (300, 250, 130):
    fit_temperature(
      log_probs[:num_examples], labels[:num_examples], chunk_size=128
    )
  assert module._slope_per_example._cache_size() == 1


def test_fit_ignores_masked_garbage_and_order():
  log_probs, labels = draw_predictions(sharpness=2.0)
  expected = fit_temperature(log_probs, labels)
  garbage = np.full((5, NUM_CLASSES), np.nan, np.float32)
  padded = np.concatenate([garbage, log_probs])
  padded_labels = np.concatenate([[-1, 10**6, 0, 0, 0], labels])
  mask = np.arange(len(padded)) >= 5
  got = fit_temperature(padded, padded_labels, mask=mask)
  assert got == pytest.approx(expected, rel=1e-7)
  order = np.random.default_rng(0).permutation(NUM_EXAMPLES)
  got = fit_temperature(jnp.asarray(log_probs[order]), labels[order])
  assert got == pytest.approx(expected, rel=1e-6)


def test_fit_at_the_bounds():
  log_probs, labels = draw_predictions()
  right, wrong = np.argmax(log_probs, axis=1), np.argmin(log_probs, axis=1)
  # All right: ever sharper. Worse than uniform: ever softer.
  assert fit_temperature(log_probs, right) == 0.01
  assert fit_temperature(log_probs, right, bounds=(0.5, 2.0)) == 0.5
  assert fit_temperature(log_probs, wrong) == 100.0
  assert fit_temperature(log_probs, wrong, bounds=(0.5, 2.0)) == 2.0
  # An optimum (about 1) outside of the bounds, either side.
  assert fit_temperature(log_probs, labels, bounds=(3, 5)) == 3.0
  assert fit_temperature(log_probs, labels, bounds=(0.1, 0.2)) == 0.2


@pytest.mark.parametrize('scale', [1e-4, 1e4])
def test_fit_of_extreme_logits(scale):
  logits, labels = draw_logits()
  expected = fit_temperature(logits, labels)
  scaled = (logits * scale).astype(np.float32)
  assert fit_temperature(scaled, labels) in (0.01, 100.0)
  bounds = (1e-2 * scale, 1e2 * scale)
  got = fit_temperature(scaled, labels, bounds=bounds)
  assert got == pytest.approx(expected * scale, rel=1e-4)


def test_fit_where_no_temperature_matters():
  uniform = np.full((10, 4), np.log(0.25))
  labels = np.arange(10) % 4
  assert fit_temperature(uniform, labels) == 1.0
  assert fit_temperature(uniform, labels, bounds=(2.0, 3.0)) == 2.0
  one_hot = np.where(np.eye(4)[labels] > 0, 0.0, -np.inf)
  assert fit_temperature(one_hot, labels) == 1.0


def test_fit_with_impossible_wrong_classes():
  """A class of probability 0 changes nothing, as for masked classes."""
  log_probs, labels = draw_predictions(sharpness=2.0)
  widened = np.pad(log_probs, ((0, 0), (0, 3)), constant_values=-np.inf)
  expected = fit_temperature(log_probs, labels)
  assert fit_temperature(widened, labels) == pytest.approx(expected, rel=1e-7)


def test_fit_refuses():
  log_probs, labels = draw_predictions()

  def broken(value, position=None):
    rows = log_probs.copy()
    rows[3, labels[3] if position is None else position] = value
    return rows

  with pytest.raises(ValueError, match='NaN or'):
    fit_temperature(broken(np.nan), labels)
  with pytest.raises(ValueError, match='NaN or'):
    fit_temperature(broken(np.inf), labels)
  with pytest.raises(ValueError, match='log-probability -inf'):
    fit_temperature(broken(-np.inf), labels)
  for label in (-1, NUM_CLASSES):
    with pytest.raises(ValueError, match=r'class ids in \[0, 6\)'):
      fit_temperature(log_probs, np.where(labels == 0, label, labels))
  with pytest.raises(ValueError, match='no examples'):
    fit_temperature(log_probs[:0], labels[:0])
  with pytest.raises(ValueError, match='no examples'):
    fit_temperature(log_probs, labels, mask=np.zeros(NUM_EXAMPLES))
  with pytest.raises(ValueError, match=r'\(300, 6\) and \(299,\)'):
    fit_temperature(log_probs, labels[1:])
  with pytest.raises(ValueError, match='increasing order'):
    fit_temperature(log_probs, labels, bounds=(2.0, 1.0))
  for bounds in ((0.0, 1.0), (-1.0, 1.0), (1.0, np.inf), (np.nan, 1.0)):
    with pytest.raises(ValueError, match=r'est must be a temperature'):
      fit_temperature(log_probs, labels, bounds=bounds)
  with pytest.raises(ValueError, match='chunk_size'):
    fit_temperature(log_probs, labels, chunk_size=0)
