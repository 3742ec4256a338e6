"""The optimiser against SGD written out in float64, and what it decays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.models import Classifier, create_backbone
from lossbench.objectives import create_objective
from lossbench.train.state import (
  StepHparams,
  create_optimizer,
  create_state,
  decayed,
)

OBJECTIVE = create_objective('sigmoid')


def _hparams(*, momentum=0.9, weight_decay=0.01):
  return StepHparams(
    objective=OBJECTIVE,
    learning_rate=1.0,
    momentum=momentum,
    weight_decay=weight_decay,
    ema_decay=0.9,
    seed=np.uint32(0),
  )


@pytest.fixture(scope='module')
def model_params():
  """Shapes of the parameters of a real model, nothing computed."""
  model = Classifier(
    create_backbone('digits_cnn', image_size=8, width=4),
    OBJECTIVE.output_layer(num_classes=10),
  )
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
  )
  return variables['params']


def _decayed_names(params, *, batch_norm):
  mask = decayed(params, batch_norm=batch_norm)
  assert jax.tree.structure(mask) == jax.tree.structure(params)
  return {
    '/'.join(key.key for key in path)
    for path, is_decayed in jax.tree_util.tree_leaves_with_path(mask)
    if is_decayed
  }


KERNELS = {
  'backbone/conv1/kernel',
  'backbone/conv2/kernel',
  'backbone/conv3/kernel',
  'output_layer/kernel',
}
BATCH_NORM = {
  f'backbone/bn{i}/{name}' for i in (1, 2, 3) for name in ('scale', 'bias')
}


def test_only_kernels_are_decayed(model_params):
  assert _decayed_names(model_params, batch_norm=False) == KERNELS


def test_batch_norm_is_decayed_on_request(model_params):
  names = _decayed_names(model_params, batch_norm=True)
  assert names == KERNELS | BATCH_NORM
  assert 'output_layer/bias' not in names


def test_bias_of_a_convolution_is_never_decayed():
  params = {'conv': {'kernel': 0, 'bias': 0}, 'bn': {'scale': 0, 'bias': 0}}
  assert _decayed_names(params, batch_norm=True) == {
    'conv/kernel',
    'bn/scale',
    'bn/bias',
  }


def _random_params(seed):
  rng = np.random.default_rng(seed)
  return {
    'conv': {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)},
    'bn': {'scale': rng.normal(size=2), 'bias': rng.normal(size=2)},
  }


def _sgd(params, gradients, rates, *, momentum, weight_decay, mask):
  """Nesterov's SGD as in PyTorch's documentation, one array at a time.

  g <- g + lambda w;  v <- mu v + g;  w <- w - rate (g + mu v)
  """
  params = jax.tree.map(np.array, params)
  velocity = jax.tree.map(np.zeros_like, params)
  for gradient, rate in zip(gradients, rates, strict=True):
    for layer, arrays in params.items():
      for name, w in arrays.items():
        g = gradient[layer][name]
        if mask[layer][name]:
          g = g + weight_decay * w
        v = velocity[layer][name] = momentum * velocity[layer][name] + g
        arrays[name] = w - rate * (g + momentum * v)
  return params


@pytest.mark.parametrize('batch_norm', [False, True])
@pytest.mark.parametrize(
  ('momentum', 'weight_decay'), [(0.9, 0.1), (0.0, 0.1), (0.5, 0.0)]
)
def test_optimizer_is_nesterov_sgd_with_l2_in_the_gradient(
  momentum, weight_decay, batch_norm
):
  initial = _random_params(0)
  gradients = [_random_params(seed) for seed in range(1, 6)]
  rates = [0.5, 0.5, 0.2, 0.1, 0.0]  # of a schedule
  mask = decayed(initial, batch_norm=batch_norm)
  hparams = _hparams(momentum=momentum, weight_decay=weight_decay)

  params = jax.tree.map(jnp.float32, initial)
  opt_state = create_optimizer(hparams, rate=0.0, mask=mask).init(params)
  for gradient, rate in zip(gradients, rates, strict=True):
    # As in the step: rebuilt with the rate of the moment.
    optimizer = create_optimizer(hparams, rate=jnp.float32(rate), mask=mask)
    updates, opt_state = optimizer.update(
      jax.tree.map(jnp.float32, gradient), opt_state, params
    )
    params = jax.tree.map(jnp.add, params, updates)

  expected = _sgd(
    initial,
    gradients,
    rates,
    momentum=momentum,
    weight_decay=weight_decay,
    mask=mask,
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6),
    params,
    expected,
  )


def _state(*, keep_ema):
  variables = {
    'params': jax.tree.map(jnp.float32, _random_params(0)),
    'batch_stats': {'bn': {'mean': jnp.zeros(2), 'var': jnp.ones(2)}},
  }
  mask = decayed(variables['params'], batch_norm=False)
  return variables, create_state(
    variables, hparams=_hparams(), mask=mask, keep_ema=keep_ema
  )


def test_initial_state():
  variables, state = _state(keep_ema=False)
  assert state.step == 0
  assert state.step.dtype == jnp.int32
  assert state.ema is None
  assert state.eval_variables == variables
  velocity = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert len(velocity) == 4
  assert not any(np.any(v) for v in velocity)


def test_averages_start_at_the_initial_values_in_their_own_memory():
  """The step donates the state: shared buffers would be freed twice."""
  variables, state = _state(keep_ema=True)
  assert state.eval_variables is state.ema
  assert jax.tree.structure(state.ema) == jax.tree.structure(variables)
  jax.tree.map(np.testing.assert_array_equal, state.ema, variables)
  for average, value in zip(
    jax.tree.leaves(state.ema), jax.tree.leaves(variables), strict=True
  ):
    assert average.unsafe_buffer_pointer() != value.unsafe_buffer_pointer()


def test_models_without_batch_norm_have_empty_statistics():
  params = {'output': {'kernel': jnp.ones((2, 2))}}
  mask = decayed(params, batch_norm=False)
  state = create_state(
    {'params': params}, hparams=_hparams(), mask=mask, keep_ema=True
  )
  assert state.batch_stats == {}
  assert state.ema['batch_stats'] == {}
