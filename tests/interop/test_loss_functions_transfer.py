"""Published TensorFlow checkpoints give the numbers that TensorFlow computes."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from lossbench import build
from lossbench.evaluation.outputs import RunOutputs
from lossbench.interop import formats, importing
from lossbench.runs.directory import RunDirectory
from tests.interop import released

FORMAT = formats.get_format('loss_functions_transfer')
BATCH, SIDE = 2, 64


@pytest.fixture(scope='module')
def backbone():
  return released.backbone_arrays()


@pytest.fixture(scope='module')
def prefix(backbone, tmp_path_factory):
  """A checkpoint of softmax, among decoys."""
  path = tmp_path_factory.mktemp('published') / 'softmax/seed3/model.ckpt'
  return released.write(path, backbone | released.head_arrays('softmax'))


@pytest.fixture(scope='module')
def run(prefix, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('imported') / 'run'
  importing.import_checkpoint(
    FORMAT,
    prefix,
    workdir=str(workdir),
    options={'objective': 'softmax', 'seed': 3},
    data_dir='/data/tfds',
  )
  return workdir


def _relative(found, expected):
  return np.abs(found - expected).max() / np.abs(expected).max()


def test_every_block_and_the_logits_are_tensorflows(run, backbone):
  outputs = RunOutputs(run, step='last')
  classifier = build.build_classifier(outputs.config, outputs.objective)
  images = np.random.default_rng(1).normal(size=(BATCH, SIDE, SIDE, 3))
  found = jax.jit(
    lambda images: classifier.apply(outputs.variables, images, train=False)
  )(np.float32(images))
  expected = released.Network(backbone).endpoints(np.float32(images))
  names = [*sorted(name for name in found if '_' in name), 'features']
  assert len(names) == 17
  for name, values in zip(names, expected, strict=True):
    assert _relative(found[name], values) < 2e-5, name
    assert values.std() > 0.5
  logits = released.outputs(
    'softmax', expected[-1].astype(np.float64), released.head_arrays('softmax')
  )
  assert _relative(found['logits'], logits) < 2e-5


class _Stored:
  """A checkpoint in memory, in place of TensorFlow's reader."""

  def __init__(self, arrays):
    self._arrays = {
      name + released.SUFFIX: array for name, array in arrays.items()
    }

  def get_variable_to_shape_map(self):
    return {name: array.shape for name, array in self._arrays.items()}

  def get_tensor(self, name):
    return self._arrays[name]


@pytest.mark.parametrize('objective', released.OBJECTIVES)
def test_outputs_of_all_nine_are_the_authors(objective, monkeypatch):
  """Without the output of no class, which counts in the norm before."""
  arrays = released.head_arrays(objective)
  module = 'lossbench.interop.loss_functions_transfer._open'
  monkeypatch.setattr(module, lambda path: _Stored(arrays))
  source = FORMAT.open_source('model.ckpt', objective=objective, seed=0)
  config = importing.build_import_config(source)
  built = build.build_objective(config)
  layer = built.output_layer(num_classes=1000)
  features = np.random.default_rng(2).uniform(
    size=(BATCH, released.NUM_FEATURES)
  )
  shapes = jax.eval_shape(
    lambda: layer.init(jax.random.key(0), np.float32(features), train=False)
  )['params']
  params = {}
  for path, leaf in traverse_util.flatten_dict(shapes, sep='/').items():
    origin = source.origin_fn(f'params/output_layer/{path}')
    params[path] = origin.convert_fn(source.read_fn(origin.name))
    assert params[path].shape == leaf.shape
    assert params[path].dtype == np.float32
  params = traverse_util.unflatten_dict(params, sep='/')
  logits = layer.apply({'params': params}, np.float32(features), train=False)
  expected = released.outputs(objective, features, arrays)
  assert _relative(built.seen_logits(logits), expected) < 2e-5
  probs = np.exp(built.log_probs(logits))
  np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)


def test_the_run_says_what_it_is_and_where_it_came_from(run, prefix):
  config = RunOutputs(run, step='last').config
  assert config.objective.name == 'softmax'
  assert (config.seed, config.num_classes, config.num_holdout) == (3, 1000, 0)
  assert (config.model.name, config.model.depth) == ('resnet', 50)
  assert config.resize_method == 'bicubic_tf1'
  assert config.resize_ratio == 1 / 0.875
  assert config.data_dir == '/data/tfds'
  source = RunDirectory(run).imported_from
  assert source['format'] == 'loss_functions_transfer'
  assert source['path'] == prefix


def _refused(path, objective='softmax', seed=3):
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    FORMAT.open_source(str(path), objective=objective, seed=seed)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_what_is_no_checkpoint_is_named(tmp_path, prefix):
  assert "Did you mean 'sigmoid'?" in _refused(prefix, 'sigmiod')
  assert 'is of objective softmax and seed 3, but' in _refused(prefix, seed=4)
  assert 'but --objective=sigmoid' in _refused(prefix, 'sigmoid')
  assert f'{prefix}0.index is not there' in _refused(f'{prefix}0')
  raw = released.write(tmp_path / 'a/model.ckpt', {})
  assert 'has no moving averages' in _refused(raw)
  (tmp_path / 'b.index').write_bytes(b'nonsense')
  assert 'b cannot be read: ' in _refused(tmp_path / 'b')


def test_all_names_and_shapes_that_do_not_fit_are_listed(tmp_path, backbone):
  arrays = backbone | released.head_arrays('softmax')
  del arrays['conv2d_52/kernel'], arrays['batch_normalization/moving_mean']
  arrays['dense/bias'] = np.zeros(1000, np.float32)
  arrays['conv2d_53/kernel'] = np.zeros(3, np.float32)
  path = released.write(tmp_path / 'model.ckpt', arrays, decoys=False)
  with pytest.raises(ValueError) as error:
    importing.import_checkpoint(
      FORMAT,
      path,
      workdir=str(tmp_path / 'run'),
      options={'objective': 'softmax', 'seed': 0},
    )
  average = released.SUFFIX
  assert str(error.value) == (
    f'{path} does not hold this model: missing (2): '
    f'batch_normalization/moving_mean{average}, conv2d_52/kernel{average}; left '
    f'over (1): conv2d_53/kernel{average}; shapes differ (1): '
    f'dense/bias{average} (1000,) gives (999,), but params/output_layer/bias is '
    '(1000,). Nothing was imported: give the format and the options that it was '
    'written with.'
  )
  assert not (tmp_path / 'run').exists()


def test_another_objectives_head_is_told_by_its_names(prefix, tmp_path):
  path = tmp_path / 'model.ckpt'
  for file in ('index', 'data-00000-of-00001'):
    (tmp_path / f'model.ckpt.{file}').symlink_to(f'{prefix}.{file}')
  with pytest.raises(ValueError) as error:
    importing.import_checkpoint(
      FORMAT,
      str(path),
      workdir=str(tmp_path / 'run'),
      options={'objective': 'cosine_softmax', 'seed': 3},
    )
  assert 'missing (1): dense/normalized_kernel/Exp' in str(error.value)
  assert 'left over (1): dense/kernel/Exp' in str(error.value)
