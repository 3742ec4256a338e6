import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.models import inception_v3
from lossbench.models.inception_v3 import InceptionV3
from tests.models import naive


def test_parameter_count_is_the_published_one(trace):
  _, endpoints, variables = trace(InceptionV3(), image_size=299)
  num_backbone = sum(x.size for x in jax.tree.leaves(variables['params']))
  num_features = endpoints['features'].shape[-1]
  num_params = num_backbone + num_features * 1000 + 1000
  # torchvision's documentation: 27,161,264 with the auxiliary head, which is a
  # 1 x 1 convolution to 128 channels, a 5 x 5 to 768 and a linear layer.
  auxiliary = 768 * 128 + 25 * 128 * 768 + 2 * (128 + 768) + 768 * 1000 + 1000
  assert num_params == 27_161_264 - auxiliary == 23_834_568
  # Keras's summary: 23,817,352 trainable without batch normalisation's scale,
  # and 34,432 moving means and variances.
  moments = sum(x.size for x in jax.tree.leaves(variables['batch_stats']))
  assert moments == 34_432
  assert num_params == 23_817_352 + moments // 2


def test_endpoints_at_299(trace):
  names, endpoints, variables = trace(InceptionV3(), image_size=299)
  assert set(variables) == {'params', 'batch_stats'}
  # The comments of tf_slim/nets/inception_v3.py.
  expected = {
    'mixed_5b': (2, 35, 35, 256),
    'mixed_5c': (2, 35, 35, 288),
    'mixed_5d': (2, 35, 35, 288),
    'mixed_6a': (2, 17, 17, 768),
    'mixed_6b': (2, 17, 17, 768),
    'mixed_6c': (2, 17, 17, 768),
    'mixed_6d': (2, 17, 17, 768),
    'mixed_6e': (2, 17, 17, 768),
    'mixed_7a': (2, 8, 8, 1280),
    'mixed_7b': (2, 8, 8, 2048),
    'mixed_7c': (2, 8, 8, 2048),
    'features': (2, 2048),
  }
  assert names == list(expected)
  assert {name: x.shape for name, x in endpoints.items()} == expected


def test_forward_agrees_with_torchvision(trace):
  """Eval mode, against torchvision 0.29.2's inception_v3 in float64.

  Every variable was drawn as below, from a seed that is its name, and copied
  into torchvision's model by hand; so was count_include_pad=False into its
  average pools. With a renamed layer the references must be made again.
  """
  means = {
    'mixed_5b': 2.23829,
    'mixed_5c': 2.6705,
    'mixed_5d': 3.15107,
    'mixed_6a': 3.98367,
    'mixed_6b': 3.32096,
    'mixed_6c': 2.6421,
    'mixed_6d': 2.65557,
    'mixed_6e': 2.36878,
    'mixed_7a': 3.91983,
    'mixed_7b': 3.04574,
    'mixed_7c': 2.60622,
    'features': 2.60622,
  }

  def draw(path, leaf):
    name = '/'.join(key.key for key in path)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return naive.random_variable(path, leaf, rng)

  model = InceptionV3()
  _, _, shapes = trace(model, image_size=107)
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  images = np.random.default_rng(0).standard_normal((1, 107, 107, 3))
  endpoints = jax.jit(functools.partial(model.apply, train=False))(
    variables, images.astype(np.float32)
  )
  for name, x in endpoints.items():
    assert np.mean(x) == pytest.approx(means[name], rel=1e-5), name
  np.testing.assert_allclose(
    endpoints['features'][0, :4],
    [14.682801, 0.0, 14.467724, 31.544393],
    rtol=1e-5,
  )


def _average(x, *, count_include_pad):
  """Of the 3 x 3 pixels around each of x [B, H, W, C]."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (3, 3), axis=(1, 2)
  )
  count = 9
  if not count_include_pad:
    inside = np.pad(np.ones(x.shape[1:3]), 1)
    windows_inside = np.lib.stride_tricks.sliding_window_view(inside, (3, 3))
    count = windows_inside.sum((2, 3))[None, :, :, None]
  return windows.sum((4, 5)) / count


@pytest.mark.parametrize('count_include_pad', [False, True])
def test_average_pools_count_their_padding_if_asked(count_include_pad):
  """In a block whose one branch is the pool."""
  x = np.random.default_rng(0).standard_normal((1, 5, 4, 2))
  found = jax.jit(
    lambda x: inception_v3._Block(
      ((inception_v3._AVG_POOL,),), count_include_pad, None, None
    ).apply({}, x)
  )(x.astype(np.float32))
  expected = _average(x, count_include_pad=count_include_pad)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bfloat16_is_for_the_computation_only(trace):
  _, endpoints, variables = trace(
    InceptionV3(dtype=jnp.bfloat16), image_size=75
  )
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  assert endpoints.pop('features').dtype == jnp.float32
  assert all(x.dtype == jnp.bfloat16 for x in endpoints.values())


def test_smallest_images_leave_one_pixel(trace):
  _, endpoints, _ = trace(InceptionV3(), image_size=InceptionV3.min_image_size)
  assert endpoints['mixed_7c'].shape == (2, 1, 1, 2048)


@pytest.mark.parametrize(('height', 'width'), [(74, 299), (299, 74)])
def test_too_small_images_are_named(height, width):
  with pytest.raises(ValueError, match=f'at least 75 .*got {height} x {width}'):
    jax.eval_shape(
      lambda key: InceptionV3().init(
        key, jnp.zeros((1, height, width, 3)), train=False
      ),
      jax.random.key(0),
    )
