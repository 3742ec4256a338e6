"""Checkpoints of Flax's ImageNet example give the numbers of such a network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from lossbench import build
from lossbench.evaluation.outputs import RunOutputs
from lossbench.interop import formats, importing

FORMAT = formats.get_format('flax_imagenet')


class _Block(nn.Module):
  """Convolutions and normalisations get Flax's own names, as in the example."""

  channels: int
  stride: int

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(self.channels, (3, 3), self.stride, use_bias=False)(x)
    y = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(y))
    y = nn.Conv(self.channels, (3, 3), use_bias=False)(y)
    y = nn.BatchNorm(use_running_average=True, epsilon=1e-5)(y)
    if x.shape != y.shape:
      x = nn.Conv(
        self.channels, (1, 1), self.stride, use_bias=False, name='conv_proj'
      )(x)
      x = nn.BatchNorm(
        use_running_average=True, epsilon=1e-5, name='norm_proj'
      )(x)
    return nn.relu(x + y)


class _ResNet18(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False, name='conv_init')(x)
    x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name='bn_init')(x)
    x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), 'SAME')
    for number in range(8):
      stride = 2 if number in (2, 4, 6) else 1
      name = f'ResNetBlock_{number}'
      x = _Block(64 * 2 ** (number // 2), stride, name=name)(x)
    return nn.Dense(1000)(x.mean((1, 2)))


@pytest.fixture(scope='module')
def variables():
  model = _ResNet18()
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    kind = path[-1].key
    if kind in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    fan_in = np.prod(leaf.shape[:-1])
    stddev = np.sqrt(2 / fan_in) if kind == 'kernel' else 0.1
    return (stddev * rng.normal(size=leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _write(path, variables, **more):
  state = {'step': 3, **variables, 'opt_state': {'0': {}}, **more}
  path.write_bytes(serialization.msgpack_serialize(state))
  return path


def _import(path, workdir):
  importing.import_checkpoint(
    FORMAT, str(path), workdir=str(workdir), options={}
  )


def test_logits_are_those_of_the_example(variables, tmp_path):
  path = _write(tmp_path / 'checkpoint_3', variables)
  _import(path, tmp_path / 'run')
  outputs = RunOutputs(tmp_path / 'run', step='last')
  assert outputs.config.resize_method == 'bicubic'
  assert outputs.config.resize_antialias is False
  assert outputs.config.eval_pixels == 'float32'
  classifier = build.build_classifier(outputs.config, outputs.objective)
  images = np.random.default_rng(1).normal(size=(2, 64, 64, 3))
  images = images.astype(np.float32)
  found = jax.jit(
    lambda x: classifier.apply(outputs.variables, x, train=False)['logits']
  )(images)
  expected = jax.jit(_ResNet18().apply)(variables, images)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, atol=1e-5 * scale)


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    (b'', 'is no msgpack of Flax, or a damaged one'),
    (b'not msgpack at all', 'is no msgpack of Flax|is no train state'),
    (serialization.msgpack_serialize({'params': {}}), 'is no train state'),
  ],
)
def test_other_files_are_refused(tmp_path, content, words):
  path = tmp_path / 'checkpoint_3'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=words):
    _import(path, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_truncated_and_absent_files_are_refused(variables, tmp_path):
  path = _write(tmp_path / 'checkpoint_3', variables)
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(ValueError, match='or a damaged one'):
    _import(path, tmp_path / 'run')
  with pytest.raises(FileNotFoundError, match='There is no file'):
    _import(tmp_path / 'checkpoint_4', tmp_path / 'run')


def test_another_network_is_refused_by_its_first_name(variables, tmp_path):
  params = dict(variables['params'])
  params['stem'] = params.pop('conv_init')
  path = _write(tmp_path / 'checkpoint_3', {**variables, 'params': params})
  with pytest.raises(ValueError) as error:
    _import(path, tmp_path / 'run')
  assert str(error.value).startswith(
    f'{path} is not our resnet18: it lacks params/conv_init/kernel but has '
    'params/stem/kernel. Known: resnet18, resnet34, '
  )
