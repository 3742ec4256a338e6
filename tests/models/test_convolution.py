"""Convolutions: on the CPU gradients of our own, elsewhere JAX's program."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lossbench import models
from lossbench.models import (
  Classifier,
  all_cnn_c,
  create_backbone,
  digits_cnn,
  inception_v3,
  known_backbones,
  resnet,
  wide_resnet,
)
from lossbench.models.convolution import (
  Conv,
  conv_general_dilated,
  tracing_for,
)
from lossbench.objectives import create_objective

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Model -> side and channels of the images of its recipe.
IMAGES = {
  'digits_cnn': (8, 1),
  'all_cnn_c': (32, 3),
  'wide_resnet': (32, 3),
  'resnet': (224, 3),
  'inception_v3': (299, 3),
}
MODULES = (all_cnn_c, digits_cnn, inception_v3, resnet, wide_resnet)


def _geometries():
  """Sizes, kernel, strides and padding of all convolutions of all models."""
  found = set()

  def record(x, kernel, strides, padding, **options):
    if not isinstance(padding, str):
      padding = tuple(padding)
    found.add((x.shape[1:3], kernel.shape[:2], tuple(strides), padding))
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)

  def intercept(next_fn, args, kwargs, context):
    if isinstance(context.module, nn.Conv):
      context.module.__dict__['conv_general_dilated'] = record
    return next_fn(*args, **kwargs)

  for name, (side, channels) in IMAGES.items():
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    backbone = create_backbone(name, image_size=side)
    init = functools.partial(backbone.init, train=False)
    with nn.intercept_methods(intercept):
      jax.eval_shape(init, jax.random.key(0), images)
  return sorted(found, key=str)


def _gradients(conv_fn, x, kernel, strides, padding):
  numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, LAYOUT)

  def loss(x, kernel):
    y = conv_fn(x, kernel, strides, padding, dimension_numbers=numbers)
    return jnp.sum(jnp.sin(y))

  return jax.grad(loss, argnums=(0, 1))(x, kernel)


def test_gradients_are_those_of_jax_on_all_shapes_of_all_models():
  """Of all sizes, kernels, strides and paddings; 3 and 4 channels stand for more.

  Kernels of one pixel have gradients of their own for fewer channels than before.
  """
  assert set(IMAGES) == set(known_backbones())
  geometries = [
    (*geometry, channels)
    for geometry in _geometries()
    for channels in ((3, 4), (4, 3))
    if channels == (3, 4) or geometry[1] == (1, 1)
  ]
  assert len(geometries) > 30
  rng = np.random.default_rng(0)
  arrays = [
    (
      rng.normal(size=(2, *sizes, channels[0])).astype(np.float32),
      rng.normal(size=(*kernel, *channels)).astype(np.float32),
    )
    for sizes, kernel, *_, channels in geometries
  ]

  def of_all(conv_fn, arrays):
    return [
      _gradients(conv_fn, x, kernel, strides, padding)
      for (x, kernel), (_, _, strides, padding, _) in zip(
        arrays, geometries, strict=True
      )
    ]

  ours, jaxs = (
    jax.jit(functools.partial(of_all, conv_fn))(arrays)
    for conv_fn in (conv_general_dilated, lax.conv_general_dilated)
  )
  for geometry, found, wanted in zip(geometries, ours, jaxs, strict=True):
    for a, b in zip(found, wanted, strict=True):
      error = np.max(np.abs(a - b)) / np.max(np.abs(b))
      assert error < 1e-5, geometry


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((0, 3), (2, 1))])
def test_gradients_against_float64(stride, padding):
  """Paddings and strides beyond those of the models, by the definition."""
  rng = np.random.default_rng(1)
  x, kernel = rng.normal(size=(2, 7, 8, 2)), rng.normal(size=(3, 2, 2, 3))
  strides = (stride, stride)
  pads = padding
  if isinstance(padding, str):
    pads = lax.padtype_to_pads((7, 8), (3, 2), strides, padding)
  padded = np.pad(x, ((0, 0), *pads, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 2), (1, 2))
  windows = windows[:, ::stride, ::stride]  # [N, H', W', C, h, w]
  slopes = np.cos(np.einsum('nijchw,hwco->nijo', windows, kernel))
  of_kernel = np.einsum('nijchw,nijo->hwco', windows, slopes)
  of_padded = np.zeros_like(padded)
  for i, j in np.ndindex(slopes.shape[1:3]):
    rows, columns = i * stride, j * stride
    of_padded[:, rows : rows + 3, columns : columns + 2] += np.einsum(
      'no,hwco->nhwc', slopes[:, i, j], kernel
    )
  (top, _), (left, _) = pads
  of_x = of_padded[:, top : top + 7, left : left + 8]
  found = _gradients(
    conv_general_dilated,
    x.astype(np.float32),
    kernel.astype(np.float32),
    strides,
    padding,
  )
  np.testing.assert_allclose(found[0], of_x, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found[1], of_kernel, rtol=1e-4, atol=1e-4)


def test_other_convolutions_are_those_of_jax():
  x, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 2, 4))
  numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, LAYOUT)
  for options in ({'feature_group_count': 2}, {'rhs_dilation': (2, 2)}):
    weights = (
      kernel if 'feature_group_count' in options else jnp.ones((3, 3, 4, 4))
    )
    found, wanted = (
      fn(x, weights, (1, 1), 'SAME', dimension_numbers=numbers, **options)
      for fn in (conv_general_dilated, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(found, wanted)


def _lowered(name, platform, **fields):
  """The gradient's program of a model, for a platform."""
  side, channels = IMAGES[name]
  if name == 'inception_v3':
    side = 75
  model = Classifier(
    create_backbone(name, image_size=side, **fields),
    create_objective('softmax').output_layer(num_classes=5),
  )
  images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
  variables = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), images
  )

  def loss(params, stats, images):
    endpoints, _ = model.apply(
      {'params': params, 'batch_stats': stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return jnp.sum(endpoints['logits'])

  with tracing_for(platform):
    traced = jax.jit(jax.grad(loss)).trace(
      variables['params'], variables['batch_stats'], images
    )
    backend = {'gpu': 'cuda'}.get(platform, platform)
    return traced.lower(lowering_platforms=(backend,)).as_text()


@pytest.mark.parametrize('name', ['all_cnn_c', 'resnet', 'inception_v3'])
@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_programs_of_accelerators_are_those_of_flax(
  name, platform, monkeypatch
):
  ours = _lowered(name, platform)
  for module in MODULES:
    monkeypatch.setattr(module, 'Conv', nn.Conv)
  assert ours == _lowered(name, platform)


@pytest.mark.parametrize('precision', ['default', 'high', 'highest'])
@pytest.mark.parametrize('platform', ['tpu', 'cpu'])
def test_precision_is_that_of_forward_and_backward_convolutions(
  platform, precision
):
  """The output layer's products are of float32 whatever it is."""
  text = _lowered('digits_cnn', platform, precision=precision)

  def precisions(operation):
    lines = [line for line in text.splitlines() if operation in line]
    return [re.findall('DEFAULT|HIGHEST|HIGH', line) for line in lines]

  convolutions = precisions('stablehlo.convolution')
  # Three layers, two gradients each but of the images.
  assert len(convolutions) >= 3 + 5
  for found in convolutions:
    assert found in ([precision.upper()] * 2, [] * (precision == 'default'))
  for found in precisions('stablehlo.dot_general'):
    assert found == ['HIGHEST'] * 2


def test_gradients_on_the_cpu_stay_in_the_fast_layouts():
  """XLA's pass that would mend others does not look into loops."""
  text = _lowered('all_cnn_c', 'cpu')
  layouts = {
    line.split('dim_numbers = ')[1].split(',  window')[0].split(', window')[0]
    for line in text.splitlines()
    if 'stablehlo.convolution' in line
  }
  assert layouts == {'[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]'}
  assert 'lhs_dilate = [2, 2]' not in text


def test_every_convolution_of_the_models_is_ours():
  kinds = set()

  def intercept(next_fn, args, kwargs, context):
    if isinstance(context.module, nn.Conv):
      kinds.add(type(context.module))
    return next_fn(*args, **kwargs)

  for name, (side, channels) in IMAGES.items():
    backbone = models.create_backbone(name, image_size=side)
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    init = functools.partial(backbone.init, train=False)
    with nn.intercept_methods(intercept):
      jax.eval_shape(init, jax.random.key(0), images)
  assert kinds == {Conv}
