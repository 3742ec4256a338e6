import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from lossbench.models.resnet import ResNet
from tests.models import naive

STAGE_SIZES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


# The `num_params` of torchvision's weights, docs.pytorch.org/vision/stable/
# models.html; they include the output layer of 1000 classes.
@pytest.mark.parametrize(
  ('depth', 'num_params'),
  [
    (18, 11_689_512),
    (34, 21_797_672),
    (50, 25_557_032),
    (101, 44_549_160),
    (152, 60_192_808),
  ],
)
def test_parameter_count_is_the_published_one(trace, depth, num_params):
  _, endpoints, variables = trace(ResNet(depth), image_size=224)
  num_backbone = sum(x.size for x in jax.tree.leaves(variables['params']))
  num_features = endpoints['features'].shape[-1]
  assert num_backbone + num_features * 1000 + 1000 == num_params


@pytest.mark.parametrize(('depth', 'expansion'), [(18, 1), (50, 4), (101, 4)])
def test_endpoints_at_224(trace, depth, expansion):
  names, endpoints, variables = trace(ResNet(depth), image_size=224)
  assert set(variables) == {'params', 'batch_stats'}
  expected = {
    f'stage{stage}_block{block}': (
      2,
      *2 * (56 // 2 ** (stage - 1),),
      expansion * 64 * 2 ** (stage - 1),
    )
    for stage, num_blocks in enumerate(STAGE_SIZES[depth], start=1)
    for block in range(1, num_blocks + 1)
  }
  expected['features'] = (2, expansion * 512)
  assert names == list(expected)
  assert {name: x.shape for name, x in endpoints.items()} == expected


def test_strides_are_in_the_3x3_convolution():
  # Endpoints and parameters of v1 and v1.5 have the same shapes.
  def forward(key):
    _, variables = ResNet(50).init_with_output(
      key,
      jnp.zeros((1, 224, 224, 3)),
      train=False,
      capture_intermediates=True,
      mutable=True,
    )
    return variables['intermediates']['stage2_block1']

  block = jax.eval_shape(forward, jax.random.key(0))
  sizes = [block[f'conv{i}']['__call__'][0].shape[1] for i in (1, 2, 3)]
  assert sizes == [56, 28, 28]


def test_kernels_start_with_variance_one_over_fan_in():
  @jax.jit  # which initialises only what is returned
  def init(key):
    variables = ResNet().init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    return variables['params']['stage4_block2']['conv2']['kernel']

  kernel = init(jax.random.key(0))
  assert np.var(kernel) == pytest.approx(1 / (9 * 512), rel=0.01)
  # Truncated at two standard deviations of the untruncated normal.
  assert np.abs(kernel).max() < 2.3 / np.sqrt(9 * 512)


def test_bfloat16_is_for_the_computation_only(trace):
  _, endpoints, variables = trace(
    ResNet(50, width=4, dtype=jnp.bfloat16), image_size=32
  )
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  assert endpoints.pop('features').dtype == jnp.float32
  assert all(x.dtype == jnp.bfloat16 for x in endpoints.values())


@pytest.mark.parametrize(('height', 'width'), [(31, 64), (64, 31)])
def test_too_small_images_are_named(height, width):
  with pytest.raises(ValueError, match=f'at least 32 .*got {height} x {width}'):
    jax.eval_shape(
      lambda key: ResNet().init(
        key, jnp.zeros((1, height, width, 3)), train=False
      ),
      jax.random.key(0),
    )


def test_unknown_depth_lists_the_known(trace):
  with pytest.raises(
    ValueError, match=r'depth 51\. Known: 18, 34, 50, 101, 152'
  ):
    trace(ResNet(51), image_size=224)


class NaiveResNet:
  """He et al. 2016, table 1, strides moved to the 3 x 3; NumPy float64.

  `pool_pads` are pixels (before, after) of the max pool, `strided_pads` of the
  3 x 3 convolutions with a stride; the images' sides are multiples of 32.
  """

  def __init__(
    self, variables, *, depth, train, pool_pads=(0, 1), strided_pads=(1, 1)
  ):
    self.params = flatten_dict(jax.tree.map(np.float64, variables['params']))
    self.stats = flatten_dict(
      jax.tree.map(np.float64, variables['batch_stats'])
    )
    self.new_stats = dict(self.stats)
    self.bottleneck = depth >= 50
    self.stage_sizes = STAGE_SIZES[depth]
    self.train = train
    self.pool_pads = pool_pads
    self.strided_pads = strided_pads

  def conv(self, x, *path, stride):
    kernel = self.params[*path, 'kernel']
    if stride == 2 and kernel.shape[0] == 3:
      pads = ((0, 0), self.strided_pads, self.strided_pads, (0, 0))
      return naive.conv(np.pad(x, pads), kernel, stride=stride)
    return naive.conv(x, kernel, stride=stride, pad=(kernel.shape[0] - 1) // 2)

  def bn(self, x, *path):
    moments = {name: self.stats[*path, name] for name in ('mean', 'var')}
    if self.train:
      running, moments = moments, naive.batch_moments(x)
      for name, value in moments.items():
        self.new_stats[*path, name] = 0.9 * running[name] + 0.1 * value
    affine = {name: self.params[*path, name] for name in ('scale', 'bias')}
    return naive.batch_norm(x, affine, moments)

  def block(self, x, name, *, stride):
    strides = (1, stride, 1) if self.bottleneck else (stride, 1)
    y = x
    for i, conv_stride in enumerate(strides, start=1):
      # ReLU between the convolutions; x itself is non-negative already.
      y = self.conv(np.maximum(y, 0), name, f'conv{i}', stride=conv_stride)
      y = self.bn(y, name, f'bn{i}')
    if (name, 'conv_shortcut', 'kernel') in self.params:
      x = self.conv(x, name, 'conv_shortcut', stride=stride)
      x = self.bn(x, name, 'bn_shortcut')
    return np.maximum(x + y, 0)

  def __call__(self, images):
    x = self.conv(images, 'conv_stem', stride=2)
    x = np.maximum(self.bn(x, 'bn_stem'), 0)
    pads = ((0, 0), self.pool_pads, self.pool_pads, (0, 0))
    x = np.pad(x, pads, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    x = windows[:, ::2, ::2].max(axis=(4, 5))
    endpoints = {}
    for stage, num_blocks in enumerate(self.stage_sizes, start=1):
      for block in range(1, num_blocks + 1):
        stride = 2 if stage > 1 and block == 1 else 1
        name = f'stage{stage}_block{block}'
        endpoints[name] = x = self.block(x, name, stride=stride)
    endpoints['features'] = x.mean(axis=(1, 2))
    return endpoints


def test_blocks_start_as_the_identity(trace):
  model = ResNet(50, width=4)
  rng = np.random.default_rng(0)
  images = rng.standard_normal((2, 64, 64, 3)).astype(np.float32)

  @jax.jit  # which initialises only what is returned
  def init_batch_norm(key):
    params = flatten_dict(model.init(key, images, train=False)['params'])
    return {path: x for path, x in params.items() if path[-1] != 'kernel'}

  variables = naive.random_variables(trace(model, image_size=64)[-1], rng)
  params = flatten_dict(variables['params'])
  params |= init_batch_norm(jax.random.key(0))
  variables['params'] = unflatten_dict(params)
  endpoints = jax.jit(functools.partial(model.apply, train=False))(
    variables, images
  )
  assert endpoints['stage3_block6'].any()
  for stage, num_blocks in enumerate(STAGE_SIZES[50], start=1):
    np.testing.assert_array_equal(
      endpoints[f'stage{stage}_block{num_blocks}'],
      endpoints[f'stage{stage}_block1'],
    )


@pytest.mark.parametrize(
  ('depth', 'train', 'tolerance'),
  # Statistics of 8 values at the end of training mode magnify the rounding.
  [(18, False, 1e-5), (50, False, 1e-5), (50, True, 1e-3)],
)
def test_forward_agrees_with_a_naive_implementation(
  trace, depth, train, tolerance
):
  rng = np.random.default_rng(0)
  model = ResNet(depth, width=16)
  variables = naive.random_variables(trace(model, image_size=64)[-1], rng)
  images = rng.standard_normal((2, 64, 64, 3)).astype(np.float32)
  endpoints, updates = jax.jit(
    lambda variables, images: model.apply(
      variables, images, train=train, mutable=['batch_stats']
    )
  )(variables, images)
  reference = NaiveResNet(variables, depth=depth, train=train)
  for name, expected in reference(images.astype(np.float64)).items():
    assert naive.relative_error(endpoints[name], expected) < tolerance, name
  new_stats = flatten_dict(updates['batch_stats'])
  assert new_stats.keys() == reference.new_stats.keys()
  for path, expected in reference.new_stats.items():
    np.testing.assert_allclose(
      new_stats[path], expected, rtol=1e-4, atol=1e-5, err_msg=str(path)
    )


@pytest.mark.parametrize(
  ('fields', 'pads'),
  [
    # SAME at even sizes: one row and column of padding, bottom and right.
    ({}, {'pool_pads': (0, 1), 'strided_pads': (1, 1)}),
    (
      {'max_pool_padding': 'symmetric'},
      {'pool_pads': (1, 1), 'strided_pads': (1, 1)},
    ),
    (
      {'conv_padding': 'same'},
      {'pool_pads': (0, 1), 'strided_pads': (0, 1)},
    ),
  ],
)
@pytest.mark.parametrize('depth', [18, 50])
def test_paddings_are_those_of_torchvision_and_flax(trace, depth, fields, pads):
  rng = np.random.default_rng(0)
  model = ResNet(depth, width=4, **fields)
  variables = naive.random_variables(trace(model, image_size=64)[-1], rng)
  images = rng.standard_normal((2, 64, 64, 3)).astype(np.float32)
  found = jax.jit(functools.partial(model.apply, train=False))(
    variables, images
  )
  reference = NaiveResNet(variables, depth=depth, train=False, **pads)
  for name, expected in reference(images.astype(np.float64)).items():
    assert naive.relative_error(found[name], expected) < 1e-5, name


@pytest.mark.parametrize('field', ['max_pool_padding', 'conv_padding'])
def test_unknown_paddings_list_the_known(trace, field):
  with pytest.raises(ValueError, match=r"'SAME'\. Known: same, symmetric"):
    trace(ResNet(18, **{field: 'SAME'}), image_size=64)
