import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.models.all_cnn_c import AllCnnC
from tests.models import naive


def test_parameter_count(trace):
  _, endpoints, variables = trace(AllCnnC(), image_size=32)
  num_backbone = sum(x.size for x in jax.tree.leaves(variables['params']))
  num_features = endpoints['features'].shape[-1]
  num_params = num_backbone + num_features * 10 + 10
  kernels = 9 * (3 * 96 + 2 * 96 * 96 + 96 * 192 + 3 * 192 * 192) + 192 * 192
  channels = 3 * 96 + 5 * 192
  # Published without batch normalisation, one bias a channel: 1,369,738
  # (doi.org/10.1073/pnas.2409160121, table 2). Here a channel has two, the
  # scale and bias of batch normalisation.
  assert kernels + channels + 1930 == 1_369_738
  assert num_params == kernels + 2 * channels + 1930 == 1_370_986


def test_endpoints_at_32(trace):
  names, endpoints, variables = trace(AllCnnC(), image_size=32)
  assert set(variables) == {'params', 'batch_stats'}
  expected = {
    'conv1': (2, 32, 32, 96),
    'conv2': (2, 32, 32, 96),
    'conv3': (2, 16, 16, 96),
    'conv4': (2, 16, 16, 192),
    'conv5': (2, 16, 16, 192),
    'conv6': (2, 8, 8, 192),
    'conv7': (2, 6, 6, 192),
    'conv8': (2, 6, 6, 192),
    'features': (2, 192),
  }
  assert names == list(expected)
  assert {name: x.shape for name, x in endpoints.items()} == expected


def test_width_multiplier(trace):
  _, endpoints, _ = trace(AllCnnC(width_multiplier=0.25), image_size=32)
  assert endpoints['conv3'].shape == (2, 16, 16, 24)
  assert endpoints['features'].shape == (2, 48)


@pytest.mark.parametrize('train', [False, True])
def test_forward_agrees_with_plain_convolutions(trace, train):
  model = AllCnnC(width_multiplier=1 / 24)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((8, 12, 12, 3)).astype(np.float32)
  variables = naive.random_variables(trace(model, image_size=12)[-1], rng)
  endpoints, updates = jax.jit(
    functools.partial(model.apply, train=train, mutable=['batch_stats'])
  )(variables, images)

  x = images
  strides, pads = (1, 1, 2, 1, 1, 2, 1, 1), (1, 1, 1, 1, 1, 1, 0, 0)
  for i, (stride, pad) in enumerate(zip(strides, pads, strict=True), start=1):
    kernel = variables['params'][f'conv{i}']['kernel']
    x = naive.conv(x, kernel, stride=stride, pad=pad)
    moments = variables['batch_stats'][f'bn{i}']
    if train:
      batch = naive.batch_moments(x)
      for name, value in batch.items():
        np.testing.assert_allclose(
          updates['batch_stats'][f'bn{i}'][name],
          0.9 * moments[name] + 0.1 * value,
          rtol=1e-5,
          atol=1e-5,
        )
      moments = batch
    x = naive.batch_norm(x, variables['params'][f'bn{i}'], moments)
    x = np.maximum(x, 0)
    assert naive.relative_error(endpoints[f'conv{i}'], x) < 1e-5, i
  assert naive.relative_error(endpoints['features'], x.mean((1, 2))) < 1e-5


def test_bfloat16_is_for_the_computation_only(trace):
  _, endpoints, variables = trace(AllCnnC(dtype=jnp.bfloat16), image_size=32)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  assert endpoints.pop('features').dtype == jnp.float32
  assert all(x.dtype == jnp.bfloat16 for x in endpoints.values())


def test_smallest_images_leave_one_pixel(trace):
  _, endpoints, _ = trace(AllCnnC(), image_size=AllCnnC.min_image_size)
  assert endpoints['conv8'].shape == (2, 1, 1, 192)


@pytest.mark.parametrize(('height', 'width'), [(8, 32), (32, 8)])
def test_too_small_images_are_named(height, width):
  with pytest.raises(ValueError, match=f'at least 9 .*got {height} x {width}'):
    jax.eval_shape(
      lambda key: AllCnnC().init(
        key, jnp.zeros((1, height, width, 3)), train=False
      ),
      jax.random.key(0),
    )
