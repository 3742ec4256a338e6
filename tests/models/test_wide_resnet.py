import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.models.wide_resnet import WideResNet
from tests.models import naive


def count_params(trace, model, *, num_classes):
  _, endpoints, variables = trace(model, image_size=32)
  num_backbone = sum(x.size for x in jax.tree.leaves(variables['params']))
  return num_backbone + (endpoints['features'].shape[-1] + 1) * num_classes


# Published counts for 10 classes: github.com/osmr/imgclsmob, README of its
# PyTorch models. Zagoruyko & Komodakis, table 4, round them to a tenth of a
# million: 36.5, 17.1 and 35.7.
@pytest.mark.parametrize(
  ('depth', 'width', 'num_params'),
  [(28, 10, 36_479_194), (16, 10, 17_116_634), (40, 8, 35_748_314)],
)
def test_parameter_count_is_the_published_one(trace, depth, width, num_params):
  assert (
    count_params(trace, WideResNet(depth, width), num_classes=10) == num_params
  )


def test_parameter_count_of_the_paper_s_model(trace):
  # WRN-16-8, 11.0 M in table 4 of Zagoruyko & Komodakis, with 100 classes.
  stem = 9 * 3 * 16
  stage1 = 9 * (16 * 128 + 3 * 128 * 128) + 16 * 128
  stage2 = 9 * (128 * 256 + 3 * 256 * 256) + 128 * 256
  stage3 = 9 * (256 * 512 + 3 * 512 * 512) + 256 * 512
  batch_norm = 2 * (16 + 4 * (128 + 256 + 512))
  output_layer = 512 * 100 + 100
  by_hand = stem + stage1 + stage2 + stage3 + batch_norm + output_layer
  assert (
    count_params(trace, WideResNet(), num_classes=100) == by_hand == 11_007_540
  )


def test_endpoints_at_32(trace):
  names, endpoints, variables = trace(WideResNet(), image_size=32)
  assert set(variables) == {'params', 'batch_stats'}
  expected = {
    'stage1_block1': (2, 32, 32, 128),
    'stage1_block2': (2, 32, 32, 128),
    'stage2_block1': (2, 16, 16, 256),
    'stage2_block2': (2, 16, 16, 256),
    'stage3_block1': (2, 8, 8, 512),
    'stage3_block2': (2, 8, 8, 512),
    'features': (2, 512),
  }
  assert names == list(expected)
  assert {name: x.shape for name, x in endpoints.items()} == expected


@pytest.mark.parametrize('train', [False, True])
def test_forward_agrees_with_the_authors_order_of_layers(trace, train):
  """BN-ReLU first in each block, shared with the shortcut where it projects."""
  model = WideResNet(16, 1)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((8, 8, 8, 3)).astype(np.float32)
  variables = naive.random_variables(trace(model, image_size=8)[-1], rng)
  endpoints, _ = jax.jit(
    functools.partial(model.apply, train=train, mutable=['batch_stats'])
  )(variables, images)

  def bn_relu(x, name):
    moments = variables['batch_stats'][name]
    if train:
      moments = naive.batch_moments(x)
    return np.maximum(
      naive.batch_norm(x, variables['params'][name], moments), 0
    )

  def conv(x, name, stride=1):
    kernel = variables['params'][name]['kernel']
    return naive.conv(x, kernel, stride=stride, pad=kernel.shape[0] // 2)

  def block(x, name, *, bn1, stride=1, projects=False):
    a = bn_relu(x, bn1)
    y = conv(a, f'{name}_conv1', stride)
    y = conv(bn_relu(y, f'{name}_bn2'), f'{name}_conv2')
    return y + (conv(a, f'{name}_conv_shortcut', stride) if projects else x)

  x = conv(images, 'conv_stem')
  bn1 = 'bn_stem'
  # At width 1 the first stage keeps the stem's 16 channels.
  for name, stride in {
    'stage1_block1': 1,
    'stage1_block2': 1,
    'stage2_block1': 2,
    'stage2_block2': 1,
    'stage3_block1': 2,
    'stage3_block2': 1,
  }.items():
    x = block(x, name, bn1=bn1, stride=stride, projects=stride == 2)
    bn1 = f'{name}_bn_out'
    expected = bn_relu(x, bn1)
    assert naive.relative_error(endpoints[name], expected) < 1e-5, name
  features = expected.mean((1, 2))
  assert naive.relative_error(endpoints['features'], features) < 1e-5


def test_kernels_start_as_he_normal_by_fan_out():
  @jax.jit  # which initialises only what is returned
  def init(key):
    variables = WideResNet().init(key, jnp.zeros((1, 4, 4, 3)), train=False)
    return variables['params']['stage3_block1_conv1']['kernel']

  kernel = init(jax.random.key(0))
  assert np.var(kernel) == pytest.approx(2 / (9 * 512), rel=0.01)


def test_bfloat16_is_for_the_computation_only(trace):
  _, endpoints, variables = trace(WideResNet(dtype=jnp.bfloat16), image_size=32)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  assert endpoints.pop('features').dtype == jnp.float32
  assert all(x.dtype == jnp.bfloat16 for x in endpoints.values())


@pytest.mark.parametrize(('height', 'width'), [(3, 32), (32, 3)])
def test_too_small_images_are_named(height, width):
  with pytest.raises(ValueError, match=f'at least 4 .*got {height} x {width}'):
    jax.eval_shape(
      lambda key: WideResNet().init(
        key, jnp.zeros((1, height, width, 3)), train=False
      ),
      jax.random.key(0),
    )


@pytest.mark.parametrize('depth', [4, 15, 17])
def test_impossible_depth_says_which_are_possible(trace, depth):
  with pytest.raises(ValueError, match=f'6 [*] n [+] 4 .*got {depth}'):
    trace(WideResNet(depth), image_size=32)
