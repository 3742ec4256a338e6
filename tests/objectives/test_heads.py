"""The output layer: linear and cosine maps, bias, dropout, precision."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.objectives import create_objective, get_part, known_parts
from lossbench.objectives.heads import OutputLayer

BATCH, NUM_FEATURES, NUM_CLASSES = 5, 7, 4


def build(spec):
  """The objective with 0.25 for every hyperparameter, which all of them allow.

  'sigmoid+cosine' -> temperature 0.25.
  """
  names = spec.split('+')
  return create_objective(
    spec, {name: dict.fromkeys(get_part(name).hparams, 0.25) for name in names}
  )


@pytest.fixture(name='features')
def _features():
  rng = np.random.default_rng(0)
  return rng.normal(size=(BATCH, NUM_FEATURES)).astype(np.float32)


@pytest.fixture(name='params')
def _params():
  rng = np.random.default_rng(1)
  return {
    'kernel': np.float32(rng.normal(size=(NUM_FEATURES, NUM_CLASSES))),
    'bias': np.float32(rng.normal(size=NUM_CLASSES)),
  }


def logits_of(layer, params, features, **keywords):
  return layer.apply({'params': params}, features, **keywords)


def init(layer, num_features=NUM_FEATURES):
  features = jnp.zeros([1, num_features])
  return layer.init(jax.random.key(0), features, train=False)['params']


def naive_cosine_logits(features, kernel, bias, *, temperature):
  """cos(W_k, x) / temperature + b_k, one example and class at a time."""
  features, kernel = features.astype(np.float64), kernel.astype(np.float64)
  logits = np.zeros([len(features), len(bias)])
  for i, x in enumerate(features):
    for k, w in enumerate(kernel.T):
      cosine = (w @ x) / (np.sqrt(w @ w) * np.sqrt(x @ x))
      logits[i, k] = cosine / temperature + bias[k]
  return logits


# --- The maps. ---------------------------------------------------------------


def test_linear_layer_is_features_times_kernel_plus_bias(features, params):
  layer = OutputLayer(NUM_CLASSES)
  np.testing.assert_allclose(
    logits_of(layer, params, features, train=False),
    features.astype(np.float64) @ params['kernel'] + params['bias'],
    rtol=1e-5,
    atol=1e-6,
  )


def test_cosine_layer_agrees_with_the_naive_cosine(features, params):
  """The bias is learned and not divided by the temperature."""
  layer = OutputLayer(NUM_CLASSES, cosine=True, temperature=0.05)
  np.testing.assert_allclose(
    logits_of(layer, params, features, train=False),
    naive_cosine_logits(features, **params, temperature=0.05),
    rtol=1e-5,
    atol=1e-5,  # float32 cosines over 0.05
  )


def test_cosine_layer_has_the_slope_of_the_naive_cosine(features, params):
  layer = OutputLayer(NUM_CLASSES, cosine=True, temperature=0.05)
  weights = np.random.default_rng(2).normal(size=(BATCH, NUM_CLASSES))

  def weighted_sum(features, kernel):
    logits = logits_of(
      layer, {**params, 'kernel': kernel}, features, train=False
    )
    return jnp.sum(jnp.float32(weights) * logits)

  def naive_weighted_sum(features, kernel):
    logits = naive_cosine_logits(
      features, kernel, params['bias'], temperature=0.05
    )
    return np.sum(weights * logits)

  arguments = (features, params['kernel'])
  gradients = jax.grad(weighted_sum, argnums=(0, 1))(*arguments)
  for place, gradient in enumerate(gradients):
    slope = np.zeros(gradient.shape)
    for index in np.ndindex(slope.shape):
      values = []
      for step in (1e-5, -1e-5):
        moved = [argument.astype(np.float64) for argument in arguments]
        moved[place][index] += step
        values.append(naive_weighted_sum(*moved))
      slope[index] = (values[0] - values[1]) / 2e-5
    error = np.linalg.norm(gradient - slope)
    assert error < 1e-5 * np.linalg.norm(slope)


def test_cosine_layer_ignores_the_lengths_of_features_and_kernel(
  features, params
):
  layer = OutputLayer(NUM_CLASSES, cosine=True, temperature=0.1)
  longer = {**params, 'kernel': 100 * params['kernel']}
  np.testing.assert_allclose(
    logits_of(layer, longer, 0.01 * features, train=False),
    logits_of(layer, params, features, train=False),
    rtol=1e-5,
    atol=1e-5,
  )


def test_free_features_keep_their_length_and_the_bias_is_divided(
  features, params
):
  objective = build('cosine_softmax').replace(released=True)
  kernel = params['kernel'].astype(np.float64)
  kernel /= np.sqrt((kernel**2).sum(0))
  np.testing.assert_allclose(
    logits_of(
      objective.output_layer(num_classes=NUM_CLASSES),
      params,
      features,
      train=False,
    ),
    (features @ kernel + params['bias']) / 0.25,
    rtol=1e-5,
    atol=1e-5,
  )


def test_an_output_of_no_class_counts_in_the_norm(features, params):
  objective = build('logit_normalization').replace(released=True)
  rng = np.random.default_rng(3)
  background = {
    'kernel': np.float32(rng.normal(size=(NUM_FEATURES, 1))),
    'bias': np.float32(rng.normal(size=1)),
  }
  layer = objective.output_layer(num_classes=NUM_CLASSES)
  logits = logits_of(
    layer, {**params, 'background': background}, features, train=False
  )
  joined = [
    features.astype(np.float64) @ layer['kernel'] + layer['bias']
    for layer in (background, params)
  ]
  joined = np.concatenate(joined, axis=1)
  norms = np.sqrt((joined**2).sum(1, keepdims=True))
  np.testing.assert_allclose(
    objective.seen_logits(logits),
    joined[:, 1:] / norms / 0.25,
    rtol=1e-5,
    atol=1e-5,
  )
  assert jax.tree.map(np.shape, init(layer)['background']) == {
    'kernel': (NUM_FEATURES, 1),
    'bias': (1,),
  }


@pytest.mark.parametrize(
  'spec', sorted({*known_parts()} - {'scale_by_temperature'})
)
def test_the_released_code_differs_in_two_output_layers(spec):
  released = build(spec).replace(released=True)
  same = released.output_layer(num_classes=NUM_CLASSES) == build(
    spec
  ).output_layer(num_classes=NUM_CLASSES)
  assert same == (spec not in ('cosine_softmax', 'logit_normalization'))


@pytest.mark.parametrize('spec', ['cosine_softmax', 'cosface', 'arcface'])
def test_objectives_with_cosines_get_cosines_over_their_temperature(
  spec, features, params
):
  layer = build(spec).output_layer(num_classes=NUM_CLASSES)
  if not layer.use_bias:
    params = {**params, 'bias': np.zeros(NUM_CLASSES)}
  np.testing.assert_allclose(
    logits_of(layer, params, features, train=False),
    naive_cosine_logits(features, **params, temperature=0.25),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize('spec', ['cosine_softmax', 'cosface', 'arcface'])
@pytest.mark.parametrize(
  'where', ['zero features', 'zero kernel', 'both zero', 'cosines of +-1']
)
def test_degenerate_cosines_have_finite_gradients(
  spec, where, features, params
):
  objective = build(spec)
  layer = objective.output_layer(num_classes=NUM_CLASSES)
  kernel = params['kernel']
  targets = np.eye(NUM_CLASSES, dtype=np.float32)[[0, 1, 2, 3, 0]]
  if where in ('zero features', 'both zero'):
    features = np.zeros_like(features)
  if where in ('zero kernel', 'both zero'):
    kernel = np.zeros_like(kernel)
  if where == 'cosines of +-1':
    # The right class's column: the first examples along it, the last against.
    features = np.stack([*kernel.T, -kernel[:, 0]])

  def loss_fn(features, kernel):
    logits = logits_of(
      layer, {**params, 'kernel': kernel}, features, train=False
    )
    return jnp.sum(objective.per_example_loss(logits, targets)), logits

  (loss, logits), gradients = jax.value_and_grad(
    loss_fn, argnums=(0, 1), has_aux=True
  )(features, kernel)
  finite = [np.isfinite(x).all() for x in (loss, logits, *gradients)]
  assert all(finite)


@pytest.mark.parametrize('cosine', [False, True])
def test_logits_are_float32_whatever_the_features(cosine, features, params):
  """The backbone may compute in bfloat16; only its rounding is seen here."""
  layer = OutputLayer(NUM_CLASSES, cosine=cosine)
  rounded = jnp.asarray(features, jnp.bfloat16)
  logits = logits_of(layer, params, rounded, train=False)
  assert logits.dtype == jnp.float32
  np.testing.assert_array_equal(
    logits,
    logits_of(layer, params, rounded.astype(jnp.float32), train=False),
  )


@pytest.mark.parametrize('cosine', [False, True])
def test_the_matrix_product_keeps_float32_on_accelerators(
  cosine, features, params
):
  """By default GPUs would round to TF32 and TPUs to bfloat16."""
  layer = OutputLayer(NUM_CLASSES, cosine=cosine)
  program = jax.make_jaxpr(
    lambda features: logits_of(layer, params, features, train=False)
  )(features)
  (product,) = (e for e in program.eqns if e.primitive.name == 'dot_general')
  highest = jax.lax.Precision.HIGHEST
  assert product.params['precision'] == (highest, highest)


@pytest.mark.parametrize('shape', [(7,), (5, 2, 7)])
def test_features_of_another_rank_are_refused(shape, params):
  with pytest.raises(ValueError) as error:
    logits_of(OutputLayer(NUM_CLASSES), params, jnp.zeros(shape), train=False)
  assert str(error.value) == (
    f'the output layer takes features [batch, num_features]; got {shape}'
  )


# --- Parameters. -------------------------------------------------------------


@pytest.mark.parametrize(
  'spec',
  [
    'sigmoid',
    'sigmoid+cosine',
    'label_smoothing+sigmoid',
    'sigmoid+logit_normalization',
    'sigmoid+dropout+logit_penalty',
  ],
)
def test_sigmoids_start_at_one_over_the_number_of_classes(spec):
  params = init(build(spec).output_layer(num_classes=100))
  np.testing.assert_allclose(params['bias'], -np.log(100), rtol=1e-6)
  assert params['bias'].shape == (100,)


@pytest.mark.parametrize(
  'spec', ['softmax', 'cosine_softmax', 'squared_error', 'dropout', 'focal']
)
def test_other_biases_start_at_zero(spec):
  params = init(build(spec).output_layer(num_classes=NUM_CLASSES))
  np.testing.assert_array_equal(params['bias'], np.zeros(NUM_CLASSES))


@pytest.mark.parametrize(
  'spec', ['cosface', 'arcface', 'sigmoid+cosface', 'arcface+label_smoothing']
)
def test_margins_have_no_bias(spec):
  """cos(angle + margin) needs the logit to be a cosine."""
  params = init(build(spec).output_layer(num_classes=NUM_CLASSES))
  assert set(params) == {'kernel'}


def test_the_kernel_starts_as_a_normal_of_the_given_width():
  objective = build('softmax')
  default = init(objective.output_layer(num_classes=100), num_features=100)
  wide = init(
    objective.output_layer(num_classes=100, kernel_stddev=0.5), num_features=100
  )
  assert default['kernel'].shape == (100, 100)
  # The standard deviation of 10^4 normals is known to 0.7 %.
  assert np.std(default['kernel']) == pytest.approx(0.01, rel=0.035)
  assert np.std(wide['kernel']) == pytest.approx(0.5, rel=0.035)


@pytest.mark.parametrize(
  'spec', sorted({*known_parts()} - {'scale_by_temperature'})
)
def test_every_objective_has_a_kernel_where_its_penalty_looks_for_it(spec):
  params = init(build(spec).output_layer(num_classes=NUM_CLASSES))
  assert params['kernel'].shape == (NUM_FEATURES, NUM_CLASSES)
  assert params['kernel'].dtype == jnp.float32


# --- Dropout. ----------------------------------------------------------------


def dropped(ones, key, *, keep_prob):
  """What dropout leaves of `ones`, seen through an identity as the kernel."""
  width = ones.shape[-1]
  layer = OutputLayer(width, use_bias=False, keep_prob=keep_prob)
  return logits_of(
    layer,
    {'kernel': np.eye(width, dtype=np.float32)},
    ones,
    train=True,
    rngs={'dropout': jax.random.key(key)},
  )


@pytest.mark.parametrize('keep_prob', [0.3, 0.7])
def test_dropout_keeps_the_given_share_and_scales_it_up(keep_prob):
  """keep_prob is the probability of KEEPING a feature, as in the paper."""
  ones = np.ones([100, 100], np.float32)
  features = np.asarray(dropped(ones, key=0, keep_prob=keep_prob))
  kept = features != 0
  np.testing.assert_allclose(features[kept], 1 / keep_prob, rtol=1e-6)
  # Five standard deviations of the binomial distribution.
  bound = 5 * np.sqrt(keep_prob * (1 - keep_prob) / ones.size)
  assert abs(kept.mean() - keep_prob) < bound
  # Examples, and features of one example, are dropped independently.
  assert len(np.unique(kept, axis=0)) == 100
  assert len(np.unique(kept, axis=1)) == 100


def test_dropout_is_a_function_of_its_key():
  ones = np.ones([100, 100], np.float32)
  first = dropped(ones, key=0, keep_prob=0.5)
  np.testing.assert_array_equal(first, dropped(ones, key=0, keep_prob=0.5))
  assert np.any(first != dropped(ones, key=1, keep_prob=0.5))


def test_dropout_with_keep_prob_one_is_softmaxs_layer(features, params):
  objective = create_objective('dropout', {'dropout': {'keep_prob': 1.0}})
  np.testing.assert_array_equal(
    logits_of(
      objective.output_layer(num_classes=NUM_CLASSES),
      params,
      features,
      train=True,
      rngs={'dropout': jax.random.key(0)},
    ),
    logits_of(
      build('softmax').output_layer(num_classes=NUM_CLASSES),
      params,
      features,
      train=True,
    ),
  )


@pytest.mark.parametrize('spec', ['dropout', 'sigmoid+dropout+cosine'])
def test_dropout_happens_in_training_only(spec, features, params):
  with_dropout = build(spec).output_layer(num_classes=NUM_CLASSES)
  without = build(spec.replace('dropout', 'label_smoothing')).output_layer(
    num_classes=NUM_CLASSES
  )
  assert with_dropout.keep_prob == 0.25
  expected = logits_of(without, params, features, train=False)
  np.testing.assert_array_equal(
    logits_of(with_dropout, params, features, train=False), expected
  )
  in_training = logits_of(
    with_dropout,
    params,
    features,
    train=True,
    rngs={'dropout': jax.random.key(0)},
  )
  assert np.any(in_training != expected)


def test_dropout_in_training_needs_its_random_stream(features, params):
  layer = build('dropout').output_layer(num_classes=NUM_CLASSES)
  with pytest.raises(flax.errors.InvalidRngError, match='dropout'):
    logits_of(layer, params, features, train=True)
