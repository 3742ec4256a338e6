"""Learning-rate schedules against formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.train.schedules import create_schedule

STEPS_PER_EPOCH = 10
STEPS = np.arange(0, 400)


def _factors(name, steps=STEPS, **kwargs):
  defaults = dict(num_epochs=40, steps_per_epoch=STEPS_PER_EPOCH)
  schedule_fn = create_schedule(name, **defaults | kwargs)
  return np.asarray(schedule_fn(jnp.asarray(steps)))


def test_the_papers_imagenet_schedule():
  """Appendix A.1: 10 epochs up to 1.6, then times 0.975 after each epoch."""
  rates = 1.6 * _factors('exponential', warmup_epochs=10, decay_per_epoch=0.975)
  expected = []
  for step in STEPS:
    epoch = step // STEPS_PER_EPOCH
    if epoch < 10:
      expected.append(1.6 * step / 100)
    else:
      expected.append(1.6 * 0.975 ** (epoch - 10))
  np.testing.assert_allclose(rates, expected, rtol=1e-5)
  assert rates[100] == rates[109] == rates.max() == np.float32(1.6)
  np.testing.assert_allclose(rates[110], 1.56, rtol=1e-6)


def test_cosine_falls_from_one_to_zero():
  factors = _factors('cosine', np.arange(0, 401))
  expected = (1 + np.cos(np.pi * np.arange(0, 401) / 400)) / 2
  np.testing.assert_allclose(factors, expected, atol=1e-6)
  assert factors[0] == 1
  np.testing.assert_allclose(factors[200], 0.5, atol=1e-6)
  np.testing.assert_allclose(factors[400], 0, atol=1e-7)
  assert (np.diff(factors) <= 0).all()
  beyond = _factors('cosine', np.arange(401, 900))
  np.testing.assert_allclose(beyond, 0, atol=1e-7)


def test_cosine_starts_after_warmup_and_ends_with_the_run():
  factors = _factors('cosine', np.arange(0, 401), warmup_epochs=4)
  np.testing.assert_allclose(factors[:40], np.arange(40) / 40, rtol=1e-6)
  share = np.arange(0, 361) / 360
  expected = (1 + np.cos(np.pi * share)) / 2
  np.testing.assert_allclose(factors[40:], expected, atol=1e-6)


def test_constant():
  assert (_factors('constant') == 1).all()
  factors = _factors('constant', warmup_epochs=2.5)
  np.testing.assert_allclose(factors[:25], np.arange(25) / 25, rtol=1e-6)
  assert (factors[25:] == 1).all()


@pytest.mark.parametrize('name', ['constant', 'cosine', 'exponential'])
@pytest.mark.parametrize('warmup_epochs', [0, 0.3, 5])
@pytest.mark.parametrize('num_epochs', [5.1, 40])
def test_factors_are_float32_in_zero_to_one(name, warmup_epochs, num_epochs):
  """Also beyond the end, where a resumed run might look."""
  factors = _factors(
    name,
    num_epochs=num_epochs,
    warmup_epochs=warmup_epochs,
    decay_per_epoch=0.9,
  )
  assert factors.dtype == np.float32
  assert factors.min() >= 0
  assert factors.max() <= 1


@pytest.mark.parametrize('name', ['constant', 'cosine', 'exponential'])
def test_takes_traced_and_python_steps(name):
  schedule_fn = create_schedule(
    name, num_epochs=3, steps_per_epoch=7, warmup_epochs=1, decay_per_epoch=0.5
  )
  traced = jax.jit(schedule_fn)(jnp.int32(15))
  np.testing.assert_allclose(traced, schedule_fn(15), rtol=1e-6)
  assert jnp.shape(traced) == ()


def test_a_run_that_rounds_to_no_step_has_a_finite_rate():
  """`build_plan` makes it one step."""
  assert _factors('cosine', 0, num_epochs=0.01) == 1


def test_unknown_schedule_lists_the_known():
  with pytest.raises(ValueError, match=r"'step'.*constant, cosine"):
    create_schedule('step', num_epochs=1, steps_per_epoch=1)


@pytest.mark.parametrize('warmup_epochs', [-1, 40, 41, float('nan')])
def test_warmup_must_leave_time_for_the_decay(warmup_epochs):
  with pytest.raises(ValueError, match=r'in \[0, num_epochs=40\)'):
    _factors('cosine', warmup_epochs=warmup_epochs)


@pytest.mark.parametrize('decay', [0, -0.5, 1.01, float('nan')])
def test_decay_must_be_a_fraction(decay):
  with pytest.raises(ValueError, match=r'decay_per_epoch must be in \(0, 1\]'):
    _factors('exponential', decay_per_epoch=decay)
