"""Every configuration field that `build` reads reaches what is built."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_cnn
from lossbench import build, models


@pytest.fixture
def config():
  return digits_cnn.get_config('cosine_softmax+dropout')


# The objective.


def test_objective_and_its_hyperparameters(config):
  config.objective.dropout.keep_prob = 0.25
  objective = build.build_objective(config)
  assert objective.name == 'cosine_softmax+dropout'
  assert objective.hparams == {
    'cosine_softmax': {'temperature': 0.1},
    'dropout': {'keep_prob': 0.25},
  }


def test_objective_without_hyperparameters():
  objective = build.build_objective(digits_cnn.get_config('sigmoid'))
  assert objective.name == 'sigmoid'
  assert objective.hparams == {'sigmoid': {}}


def test_objective_renamed_on_the_command_line_is_refused(config):
  """The hyperparameters of the old name would be left over."""
  config.objective.name = 'softmax'
  with pytest.raises(ValueError, match="has no part 'cosine_softmax'"):
    build.build_objective(config)


def test_hyperparameter_out_of_range_is_refused(config):
  config.objective.dropout.keep_prob = 1.5
  with pytest.raises(ValueError, match=r'keep_prob must be in \(0, 1\]'):
    build.build_objective(config)


# The model.


def test_backbone_takes_the_models_fields(config):
  config.model.width = 7
  backbone = build.build_backbone(config)
  assert type(backbone).__name__ == 'DigitsCnn'
  assert backbone.width == 7
  assert backbone.dtype == jnp.float32


@pytest.mark.parametrize('name', models.known_backbones())
def test_precision_and_groups_of_devices_reach_every_layer(name, config):
  config.model = {'name': name}
  config.image_size = 75
  config.precision = 'highest'
  config.batch_norm_group = 2
  backbone = build.build_backbone(
    config, batch_norm=build.build_batch_norm(config)
  )
  found = {nn.Conv: set(), nn.BatchNorm: set()}

  def intercept(next_fn, args, kwargs, context):
    module = context.module
    if isinstance(module, nn.Conv):
      found[nn.Conv].add(module.precision)
    if isinstance(module, nn.BatchNorm):
      found[nn.BatchNorm].add((module.axis_name, module.axis_index_groups))
    return next_fn(*args, **kwargs)

  images = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
  init = functools.partial(backbone.init, train=False)
  with nn.intercept_methods(intercept):
    jax.eval_shape(init, jax.random.key(0), images)
  assert found == {
    nn.Conv: {'highest'},
    nn.BatchNorm: {('batch', ((0, 1), (2, 3)))},
  }


def test_compute_dtype_reaches_backbone_and_images(config):
  config.compute_dtype = 'bfloat16'
  assert build.build_backbone(config).dtype == jnp.bfloat16
  images = np.zeros((1, 8, 8, 1), np.uint8)
  assert build.build_normalize_fn(config)(images).dtype == jnp.bfloat16


def test_parameters_and_logits_stay_float32_in_bfloat16(config):
  config.compute_dtype = 'bfloat16'
  classifier = build.build_classifier(config, build.build_objective(config))
  images = jnp.zeros((2, *build.image_shape(config)), jnp.bfloat16)
  endpoints, variables = jax.eval_shape(
    lambda: classifier.init_with_output(jax.random.key(0), images, train=False)
  )
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
  assert endpoints['block1'].dtype == jnp.bfloat16
  assert endpoints['features'].dtype == jnp.float32
  assert endpoints['logits'].dtype == jnp.float32


@pytest.mark.parametrize(
  'use', [build.build_backbone, build.build_normalize_fn]
)
def test_unknown_compute_dtype(config, use):
  config.compute_dtype = 'float16'
  with pytest.raises(ValueError) as error:
    use(config)
  assert str(error.value) == (
    "--config.compute_dtype must be one of float32, bfloat16; got 'float16'."
  )


def test_unknown_model(config):
  config.model.name = 'digit_cnn'
  with pytest.raises(ValueError, match="Did you mean 'digits_cnn'"):
    build.build_backbone(config)


def test_unknown_field_of_the_model(config):
  config.model.depth = 3
  with pytest.raises(ValueError, match=r"'digits_cnn'.*depth"):
    build.build_backbone(config)


def test_images_too_small_for_the_model(config):
  config.image_size = 3
  with pytest.raises(ValueError, match=r'at least 4 pixels.*image_size=3'):
    build.build_backbone(config)


def test_output_layer_takes_classes_spread_and_objective(config):
  config.num_classes = 13
  config.output_kernel_stddev = 0.5
  layer = build.build_classifier(
    config, build.build_objective(config)
  ).output_layer
  assert layer.num_classes == 13
  assert layer.kernel_stddev == 0.5
  assert layer.cosine
  assert layer.temperature == 0.1
  assert layer.keep_prob == 0.7


# Images.


def test_image_shape(config):
  config.image_size = 12
  assert build.image_shape(config) == (12, 12, 1)
  config.pixel_mean = config.pixel_std = (0.1, 0.2, 0.3)
  assert build.image_shape(config) == (12, 12, 3)


def test_normalization(config):
  config.pixel_mean, config.pixel_std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 5, 5, 3), np.uint8)
  normalized = build.build_normalize_fn(config)(images)
  expected = (images / 255 - [0.1, 0.5, 0.9]) / [0.2, 0.3, 0.4]
  assert normalized.dtype == jnp.float32
  np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-5)


def test_normalization_needs_one_mean_and_deviation_a_channel(config):
  config.pixel_mean, config.pixel_std = (0.1, 0.5, 0.9), (0.2,)
  with pytest.raises(ValueError, match='one value per channel') as error:
    build.build_normalize_fn(config)
  assert '(0.1, 0.5, 0.9) and (0.2,)' in str(error.value)
