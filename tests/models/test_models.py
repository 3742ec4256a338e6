"""What holds for every registered model."""

import functools

import jax
import jax.numpy as jnp
import pytest

from lossbench.models import create_backbone, known_backbones

# Name -> side and channels of an image, classes, parameters with the output
# layer; where each count comes from stands in the model's own test.
NUM_PARAMS = {
  'all_cnn_c': (32, 3, 10, 1_370_986),
  'digits_cnn': (
    *(8, 1, 10),
    9 * (32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 129 * 10,
  ),
  'inception_v3': (299, 3, 1000, 23_834_568),
  'resnet': (224, 3, 1000, 25_557_032),
  'wide_resnet': (32, 3, 100, 11_007_540),
}


def test_every_model_has_a_reference_value():
  assert set(NUM_PARAMS) == set(known_backbones())


@pytest.mark.parametrize('name', known_backbones())
def test_number_of_parameters(name):
  side, channels, num_classes, num_params = NUM_PARAMS[name]
  model = create_backbone(name, image_size=side)
  endpoints, variables = jax.eval_shape(
    functools.partial(model.init_with_output, train=False),
    jax.random.key(0),
    jnp.zeros((1, side, side, channels)),
  )
  found = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
  num_features = endpoints['features'].shape[-1]
  assert found + (num_features + 1) * num_classes == num_params
