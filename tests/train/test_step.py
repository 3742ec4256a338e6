"""The pmapped step against the same update written out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import jax_utils
from scipy import stats

from configs import digits_cnn
from lossbench import build
from lossbench.models import Classifier
from lossbench.models.digits_cnn import DigitsCnn
from lossbench.objectives import create_objective
from lossbench.runtime import devices
from lossbench.train.state import StepHparams, create_state, decayed
from lossbench.train.step import create_train_step

NUM_CLASSES = 3
NUM_FEATURES = 5


class Flatten(nn.Module):
  """The simplest backbone: the pixels are the features."""

  @nn.compact
  def __call__(self, images, *, train):
    return {'features': images.reshape(images.shape[0], -1)}


def _hparams(spec='softmax', objective_hparams=None, **changes):
  values = dict(
    objective=create_objective(spec, objective_hparams),
    learning_rate=0.5,
    momentum=0.9,
    weight_decay=0.01,
    ema_decay=0.75,
    ema_ramp=False,
    seed=np.uint32(0),
  )
  return StepHparams(**{**values, **changes})


def _input_fn(batch, data, key, positions):
  return batch['image'], batch['label']


def _batch(num_devices, *, seed=0, shape=(1, NUM_FEATURES, 1)):
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(8, *shape)).astype(np.float32)
  labels = rng.integers(0, NUM_CLASSES, 8).astype(np.int32)
  flat = {'image': images, 'label': labels}
  return flat, {
    name: value.reshape(num_devices, -1, *value.shape[1:])
    for name, value in flat.items()
  }


def _state(backbone, hparams, image_shape, *, keep_ema=True):
  model = Classifier(
    backbone, hparams.objective.output_layer(num_classes=NUM_CLASSES)
  )
  variables = model.init(
    jax.random.key(1), jnp.zeros((1, *image_shape)), train=False
  )
  mask = decayed(variables['params'], batch_norm=False)
  return create_state(variables, hparams=hparams, mask=mask, keep_ema=keep_ema)


def _step_fn(backbone, **changes):
  return create_train_step(
    backbone,
    num_classes=NUM_CLASSES,
    **{
      'input_fn': _input_fn,
      'schedule_fn': lambda step: jnp.ones(()),
      'decay_batch_norm': False,
      **changes,
    },
  )


def test_step_is_nesterov_sgd_with_l2_on_the_global_batch():
  hparams = _hparams(
    'softmax+extra_final_layer_l2',
    {'extra_final_layer_l2': {'lambda_final': 0.1}},
  )
  state = _state(Flatten(), hparams, (1, NUM_FEATURES, 1))
  layer = jax.device_get(state.params)['output_layer']
  kernel = layer['kernel'].astype(np.float64)
  bias = layer['bias'].astype(np.float64)
  momentum = [np.zeros_like(kernel), np.zeros_like(bias)]
  averages = [kernel.copy(), bias.copy()]
  step_fn = _step_fn(Flatten())
  replicated = devices.replicate(state)
  for seed in range(3):
    flat, sharded = _batch(4, seed=seed)
    replicated, metrics = step_fn(replicated, sharded, None, hparams)

    # The same in float64 NumPy: softmax gradient, L2 on the kernel only.
    features = flat['image'].reshape(8, -1).astype(np.float64)
    targets = np.eye(NUM_CLASSES)[flat['label']]
    logits = features @ kernel + bias
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log((probs * targets).sum(1)).mean()
    loss += 0.05 * (kernel**2).sum()
    gradients = [
      features.T @ (probs - targets) / 8 + 0.1 * kernel,
      (probs - targets).mean(0),
    ]
    np.testing.assert_allclose(metrics['loss'][0], loss, rtol=1e-5)
    np.testing.assert_allclose(
      metrics['gradient_norm'][0],
      np.sqrt(sum((g**2).sum() for g in gradients)),
      rtol=1e-5,
    )
    gradients[0] += 0.01 * kernel
    for index, value in enumerate([kernel, bias]):
      momentum[index] = 0.9 * momentum[index] + gradients[index]
      value -= 0.5 * (gradients[index] + 0.9 * momentum[index])
      averages[index] = 0.75 * averages[index] + 0.25 * value
  state = jax.device_get(jax_utils.unreplicate(replicated))
  assert state.step == 3
  found = state.params['output_layer']
  np.testing.assert_allclose(found['kernel'], kernel, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found['bias'], bias, rtol=1e-4, atol=1e-6)
  ema = state.ema['params']['output_layer']
  np.testing.assert_allclose(ema['kernel'], averages[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('decay', 'ramp'), [(0.9999, True), (0.2, True), (0.9999, False)]
)
def test_averages_follow_the_ramped_decay(decay, ramp):
  """A recursion in float64 over the parameters that every step has left."""
  hparams = _hparams(ema_decay=decay, ema_ramp=ramp)
  state = devices.replicate(_state(Flatten(), hparams, (1, NUM_FEATURES, 1)))
  step_fn = _step_fn(Flatten())

  def kernel(params):
    return np.asarray(params['output_layer']['kernel'][0], np.float64)

  average = kernel(state.params)
  for n in range(8):
    _, sharded = _batch(4, seed=n)
    state, _ = step_fn(state, sharded, None, hparams)
    weight = min(decay, (1 + n) / (10 + n)) if ramp else decay
    average = weight * average + (1 - weight) * kernel(state.params)
    np.testing.assert_allclose(
      kernel(state.ema['params']), average, rtol=1e-5, atol=1e-7
    )


@pytest.fixture(scope='module')
def cnn_step():
  """A compiled step of the real model, and how often it was traced."""
  traces = []

  def counting_input_fn(batch, data, key, positions):
    traces.append(positions)
    return _input_fn(batch, data, key, positions)

  return _step_fn(DigitsCnn(width=4), input_fn=counting_input_fn), traces


def _cnn_state(hparams):
  return devices.replicate(_state(DigitsCnn(width=4), hparams, (8, 8, 1)))


DROPOUT = ('sigmoid+dropout', {'dropout': {'keep_prob': 0.5}})


def test_replicas_stay_bit_identical_and_statistics_are_averaged(cnn_step):
  step_fn, _ = cnn_step
  hparams = _hparams(*DROPOUT)
  state = _cnn_state(hparams)
  for seed in range(2):
    _, sharded = _batch(4, seed=seed, shape=(8, 8, 1))
    state, metrics = step_fn(state, sharded, None, hparams)
  for leaf in jax.tree.leaves(jax.device_get((state, metrics))):
    assert all((copy == leaf[0]).all() for copy in leaf)
  statistics = jax.device_get(state.batch_stats)['backbone']['bn1']['mean']
  assert np.abs(statistics).max() > 0


def test_hyperparameters_are_data_not_constants(cnn_step):
  step_fn, traces = cnn_step
  results = []
  for learning_rate, keep_prob in [(0.1, 0.5), (0.2, 0.5), (0.1, 0.9)]:
    hparams = _hparams(
      'sigmoid+dropout',
      {'dropout': {'keep_prob': keep_prob}},
      learning_rate=learning_rate,
    )
    _, sharded = _batch(4, shape=(8, 8, 1))
    state, _ = step_fn(_cnn_state(hparams), sharded, None, hparams)
    results.append(np.asarray(state.params['output_layer']['kernel'][0]))
  assert len(traces) == 1
  assert not np.allclose(results[0], results[1])
  assert not np.allclose(results[0], results[2])


def test_same_seed_same_bits_other_seed_other_dropout(cnn_step):
  step_fn, _ = cnn_step

  def kernel(seed):
    hparams = _hparams(*DROPOUT, seed=np.uint32(seed))
    _, sharded = _batch(4, shape=(8, 8, 1))
    state, _ = step_fn(_cnn_state(hparams), sharded, None, hparams)
    return np.asarray(state.params['output_layer']['kernel'][0])

  np.testing.assert_array_equal(kernel(1), kernel(1))
  assert not np.array_equal(kernel(1), kernel(2))


def test_loss_is_reported_with_its_parts(cnn_step):
  hparams = _hparams('softmax+logit_penalty', {'logit_penalty': {'beta': 0.25}})
  _, sharded = _batch(4)
  state = devices.replicate(
    _state(Flatten(), hparams, (1, NUM_FEATURES, 1), keep_ema=False)
  )
  state, metrics = _step_fn(Flatten())(state, sharded, None, hparams)
  assert state.ema is None
  np.testing.assert_allclose(
    metrics['loss'],
    metrics['loss/softmax'] + metrics['loss/logit_penalty'],
    rtol=1e-6,
  )
  assert {
    'top1_accuracy',
    'learning_rate',
    'gradient_norm',
    'parameter_norm',
    'logit_norm',
  } <= metrics.keys()


def test_accumulated_gradients_are_those_of_the_whole_batch():
  hparams = _hparams(
    'softmax+extra_final_layer_l2',
    {'extra_final_layer_l2': {'lambda_final': 0.1}},
  )
  _, sharded = _batch(2)
  results = []
  for accumulation_steps in (1, 4):
    step_fn = _step_fn(Flatten(), accumulation_steps=accumulation_steps)
    state = jax.tree.map(
      lambda x: jnp.stack([x] * 2), _state(Flatten(), hparams, (1, 5, 1))
    )  # on two of the devices: the others have nothing to do
    results.append(jax.device_get(step_fn(state, sharded, None, hparams)))
  for expected, found in zip(
    jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def _first_gradient(
  images, labels, *, spec='softmax', keep_prob=0.5, **changes
):
  """Gradient of a zero kernel: the mean of x^T (1/K - t) over the batch.

  With a learning rate of one the first step subtracts it and nothing else.
  """
  objective_hparams = {}
  if 'dropout' in spec:
    objective_hparams = {'dropout': {'keep_prob': keep_prob}}
  step_changes = {
    name: changes.pop(name)
    for name in ('input_fn', 'accumulation_steps')
    if name in changes
  }
  hparams = _hparams(
    spec,
    objective_hparams,
    **{'learning_rate': 1.0, 'momentum': 0.0, 'weight_decay': 0.0} | changes,
  )
  state = _state(Flatten(), hparams, images.shape[2:], keep_ema=False)
  state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
  num_devices = len(images)
  state = jax.tree.map(lambda x: jnp.stack([x] * num_devices), state)
  state, _ = _step_fn(Flatten(), **step_changes)(
    state, {'image': images, 'label': labels}, None, hparams
  )
  return -np.asarray(state.params['output_layer']['kernel'][0], np.float64)


def _shares_that_explain(gradient, images, labels):
  """Shares m of mixup with that gradient; residuals over a grid of m."""
  shares = np.linspace(0, 1, 2001)
  targets = np.eye(NUM_CLASSES)[labels]
  images = images.reshape(*labels.shape, -1).astype(np.float64)
  residuals = []
  for share in shares:
    mixed, soft = (
      share * x + (1 - share) * np.roll(x, 1, axis=1) for x in (images, targets)
    )
    expected = np.einsum('dbm,dbk->mk', mixed, 1 / NUM_CLASSES - soft)
    residuals.append(np.abs(gradient - expected / labels.size).max())
  return shares, np.array(residuals)


def test_mixup_mixes_the_images_and_the_targets_of_the_step():
  """One share, not 0 or 1, explains the gradient; another seed, another."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(4, 4, 1, NUM_FEATURES, 1)).astype(np.float32)
  labels = rng.integers(0, NUM_CLASSES, (4, 4)).astype(np.int32)
  found = []
  for seed in range(3):
    gradient = _first_gradient(
      images, labels, mixup_alpha=1.0, seed=np.uint32(seed)
    )
    shares, residuals = _shares_that_explain(gradient, images, labels)
    best = residuals.argmin()
    assert 0.01 < shares[best] < 0.99
    assert residuals[best] < 1e-3 < 0.02 < min(residuals[0], residuals[-1])
    found.append(shares[best])
  assert len(set(found)) == 3


@pytest.mark.parametrize('accumulation_steps', [1, 2])
def test_dropout_is_independent_over_devices_and_parts(accumulation_steps):
  """How many of 8 equal examples keep a feature is binomial."""
  num_features = 512
  images = np.ones((4, 2, 1, num_features, 1), np.float32)
  labels = np.zeros((4, 2), np.int32)
  gradient = _first_gradient(
    images,
    labels,
    spec='softmax+dropout',
    accumulation_steps=accumulation_steps,
  )
  # Each example that keeps a feature adds 1/(8 keep_prob) (1/K - t).
  kept = gradient[:, 1] * 8 * 0.5 * NUM_CLASSES
  np.testing.assert_allclose(kept, np.rint(kept), atol=1e-4)
  counts = np.bincount(np.rint(kept).astype(int), minlength=9)
  expected = stats.binom(8, 0.5).pmf(np.arange(9)) * num_features
  merged = [[*x[:1], *x[2:-2], *x[-1:]] for x in (counts, expected)]
  merged[0][0] += counts[1]
  merged[1][0] += expected[1]
  merged[0][-1] += counts[-2]
  merged[1][-1] += expected[-2]
  assert stats.chisquare(*merged).pvalue > 1e-3


def test_augmentation_follows_the_place_in_the_global_batch():
  """Whatever the number of devices: images that are their own positions."""

  def input_fn(batch, data, key, positions):
    return jax.nn.one_hot(positions, 8)[:, None, :, None], batch['label']

  labels = np.arange(8, dtype=np.int32) % NUM_CLASSES
  expected = (1 / NUM_CLASSES - np.eye(NUM_CLASSES)[labels]) / 8
  for num_devices in (1, 2, 4):
    gradient = _first_gradient(
      np.zeros((num_devices, 8 // num_devices, 1, 8, 1), np.float32),
      labels.reshape(num_devices, -1),
      input_fn=input_fn,
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


class Normalised(nn.Module):
  """A backbone of batch normalisation alone."""

  @nn.compact
  def __call__(self, images, *, train):
    x = images.reshape(images.shape[0], -1)
    return {'features': nn.BatchNorm(not train, name='bn')(x)}


def test_batch_norm_is_decayed_in_the_step_on_request():
  """The steps differ by rate * weight_decay * w in its parameters alone."""
  hparams = _hparams(momentum=0.0, weight_decay=0.125, learning_rate=0.5)
  _, batch = _batch(4)
  found = {}
  for decay_batch_norm in (False, True):
    state = _state(Normalised(), hparams, (1, NUM_FEATURES, 1))
    params = jax.tree.map(lambda x: x + 1, state.params)
    step_fn = _step_fn(Normalised(), decay_batch_norm=decay_batch_norm)
    state, _ = step_fn(
      devices.replicate(state.replace(params=params)), batch, None, hparams
    )
    found[decay_batch_norm] = jax.device_get(
      jax_utils.unreplicate(state.params)
    )
  shrunk = jax.tree.map(np.subtract, found[False], found[True])
  for name, before in [('scale', 2.0), ('bias', 1.0)]:
    np.testing.assert_allclose(
      shrunk['backbone']['bn'][name], 0.5 * 0.125 * before, rtol=1e-5
    )
  for leaf in jax.tree.leaves(shrunk['output_layer']):
    np.testing.assert_allclose(leaf, 0, atol=1e-6)


def test_parts_of_a_batch_are_to_batch_norm_what_devices_are():
  """Four parts, four devices and both together, against the plain formula."""
  hparams = _hparams()
  mean, var = np.zeros(NUM_FEATURES), np.ones(NUM_FEATURES)
  results = {
    (num_devices, num_parts): (
      _step_fn(Normalised(), accumulation_steps=num_parts),
      jax.tree.map(
        lambda x, n=num_devices: jnp.stack([x] * n),
        _state(Normalised(), hparams, (1, NUM_FEATURES, 1)),
      ),
    )
    for num_devices, num_parts in [(1, 4), (4, 1), (2, 2)]
  }
  for seed in range(2):
    flat, _ = _batch(1, seed=seed)
    parts = flat['image'].reshape(4, 2, NUM_FEATURES).astype(np.float64)
    mean = 0.99 * mean + 0.01 * parts.mean(axis=1).mean(axis=0)
    var = 0.99 * var + 0.01 * parts.var(axis=1).mean(axis=0)
    for layout, (step_fn, state) in results.items():
      _, sharded = _batch(layout[0], seed=seed)
      state, _ = step_fn(state, sharded, None, hparams)
      results[layout] = step_fn, state
  states = {
    layout: jax.tree.map(lambda x: x[0], jax.device_get(state))
    for layout, (_, state) in results.items()
  }
  for found in states.values():
    statistics = found.batch_stats['backbone']['bn']
    np.testing.assert_allclose(statistics['mean'], mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(statistics['var'], var, rtol=1e-5)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
      found.params,
      states[4, 1].params,
    )


@pytest.mark.parametrize(('group', 'num_parts'), [(4, 1), (2, 1), (2, 2)])
def test_a_group_of_devices_is_to_batch_norm_one_device(group, num_parts):
  """Four devices against one that is given each group's images at once."""
  config = digits_cnn.get_config('softmax')
  config.model.width = 4
  config.batch_norm_group = group
  backbone = build.build_backbone(
    config, batch_norm=build.build_batch_norm(config)
  )
  plain, hparams = DigitsCnn(width=4), _hparams()
  _, batch = _batch(4, shape=(8, 8, 1))
  num_groups = 4 // group

  def to_one_device(rows):
    # Its parts follow one another: of every group, of every part the devices.
    parts = rows.reshape(num_groups, group, num_parts, -1, *rows.shape[2:])
    return parts.swapaxes(1, 2).reshape(1, -1, *rows.shape[2:])

  four, _ = _step_fn(backbone, accumulation_steps=num_parts)(
    _cnn_state(hparams), batch, None, hparams
  )
  one, _ = _step_fn(plain, accumulation_steps=num_groups * num_parts)(
    jax_utils.replicate(
      _state(plain, hparams, (8, 8, 1)), devices=jax.local_devices()[:1]
    ),
    jax.tree.map(to_one_device, batch),
    None,
    hparams,
  )
  for found, wanted in zip(
    *(jax.tree.leaves(jax.device_get(state)) for state in (four, one)),
    strict=True,
  ):
    assert all((copy == found[0]).all() for copy in found)
    np.testing.assert_allclose(found[0], wanted[0], rtol=2e-5, atol=2e-6)
