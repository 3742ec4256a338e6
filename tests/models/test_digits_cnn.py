import functools

import jax
import numpy as np
import pytest

from lossbench.models.digits_cnn import DigitsCnn
from tests.models import naive


@pytest.mark.parametrize(
  ('train', 'fields'),
  [(False, {}), (True, {}), (True, {'strides': (1, 2, 2, 2)})],
)
def test_forward_agrees_with_plain_convolutions(train, fields):
  model = DigitsCnn(width=4, **fields)
  strides = fields.get('strides', (1, 1, 2))
  rng = np.random.default_rng(0)
  images = rng.standard_normal((8, 8, 8, 1)).astype(np.float32)
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), images
  )
  variables = naive.random_variables(shapes, rng)
  endpoints, updates = jax.jit(
    functools.partial(model.apply, train=train, mutable=['batch_stats'])
  )(variables, images)
  blocks = [f'block{i}' for i, _ in enumerate(strides, start=1)]
  assert list(endpoints) == [*blocks, 'features']

  x, side, channels = images, 8, 2
  for i, stride in enumerate(strides, start=1):
    kernel = variables['params'][f'conv{i}']['kernel']
    x = naive.conv(x, kernel, stride=stride, pad=1)
    side, channels = side // stride, channels * 2
    assert x.shape == (8, side, side, channels)
    running = moments = variables['batch_stats'][f'bn{i}']
    if train:
      moments = naive.batch_moments(x)
      for name, value in moments.items():
        np.testing.assert_allclose(
          updates['batch_stats'][f'bn{i}'][name],
          0.9 * running[name] + 0.1 * value,
          rtol=1e-5,
          atol=1e-5,
        )
    x = naive.batch_norm(x, variables['params'][f'bn{i}'], moments)
    x = np.maximum(x, 0)
    assert naive.relative_error(endpoints[f'block{i}'], x) < 1e-5, i
  assert naive.relative_error(endpoints['features'], x.mean((1, 2))) < 1e-5
