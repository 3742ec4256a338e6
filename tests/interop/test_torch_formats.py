"""Networks of torchvision and timm give torch's logits, and come back as they were."""

import json

import jax
import numpy as np
import pytest
import tensorflow as tf

from lossbench import build
from lossbench.evaluation.outputs import RunOutputs
from lossbench.interop import formats, importing
from lossbench.interop.exporting import export_run
from tests.interop.test_timm import write_config

torch = pytest.importorskip('torch', reason='torch is not there: .[torch]')
networks = pytest.importorskip('tests.interop.torch_networks')


def _import(format_name, source, workdir, **options):
  importing.import_checkpoint(
    formats.get_format(format_name),
    str(source),
    workdir=str(workdir),
    options=options,
  )
  return RunOutputs(workdir, step='last')


def _forward(outputs, images):
  """Logits of images that are normalised already."""
  classifier = build.build_classifier(outputs.config, outputs.objective)
  forward = jax.jit(
    lambda x: classifier.apply(outputs.variables, x, train=False)['logits']
  )
  return np.asarray(forward(images))


def _images(side, count=2):
  """Of the colours that ImageNet's normalisation makes, uint8 before it."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def _normalized(images):
  mean, std = np.float32([0.485, 0.456, 0.406]), [0.229, 0.224, 0.225]
  return ((images / 255 - mean) / std).astype(np.float32)


def _relative(found, expected):
  return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope='module')
def resnet18():
  return networks.randomise(networks.create('resnet18'))


def test_a_resnet_of_torchvision_there_and_back(resnet18, tmp_path):
  path = tmp_path / 'resnet18.pth'
  torch.save(resnet18.state_dict(), path)
  outputs = _import(
    'torchvision', path, tmp_path / 'run', weights='IMAGENET1K_V1'
  )
  images = _images(64)
  expected = networks.logits(resnet18, _normalized(images))
  assert expected.std() > 0.3
  assert _relative(_forward(outputs, _normalized(images)), expected) < 1e-5
  # The other direction: torch reads what we write.
  exported = export_run(str(tmp_path / 'run'), step='last')
  assert exported.not_torch == ()
  card = (exported.path / 'README.md').read_text()
  assert 'library_name: "timm"' in card
  assert (
    'imported from a checkpoint of torchvision, for classes of imag' in card
  )
  assert 'the nearest that timm computes' not in card
  from safetensors.torch import load_file

  state = load_file(exported.path / 'model.safetensors')
  copy = networks.create('resnet18')
  assert state.keys() == copy.state_dict().keys()
  copy.load_state_dict(state)
  found = networks.logits(copy.eval(), _normalized(images))
  np.testing.assert_array_equal(found, expected)
  # And again ours, by the config.json beside it.
  again = _import('timm', exported.path, tmp_path / 'again')
  same = jax.tree.map(np.array_equal, again.variables, outputs.variables)
  assert all(jax.tree.leaves(same))
  for field in ('image_size', 'pixel_mean', 'pixel_std', 'model'):
    assert again.config[field] == outputs.config[field], field
  for field in ('eval_crop', 'resize_method', 'resize_antialias'):
    assert again.config[field] == outputs.config[field], field
  assert again.config.resize_ratio == pytest.approx(256 / 224, abs=1e-9)
  # A second import finds the first; another network is refused.
  _import('timm', exported.path, tmp_path / 'again')
  with pytest.raises(ValueError, match='Choose another --workdir'):
    _import('torchvision', path, tmp_path / 'again', weights='IMAGENET1K_V1')


def test_a_bottleneck_resnet_of_timm_is_torchs(tmp_path):
  from safetensors.torch import save_file

  network = networks.randomise(networks.create('resnet50', num_classes=10))
  save_file(network.state_dict(), tmp_path / 'model.safetensors')
  write_config(tmp_path, architecture='resnet50')
  outputs = _import('timm', tmp_path, tmp_path / 'run', dataset='cifar10')
  assert outputs.config.num_classes == 10
  images = _normalized(_images(64))
  expected = networks.logits(network, images)
  assert _relative(_forward(outputs, images), expected) < 1e-5


def test_inception_of_torchvision_is_torchs(tmp_path):
  """With the auxiliary head beside, and `transform_input` as torchvision does."""
  network = networks.randomise(networks.create('inception_v3'))
  path = tmp_path / 'inception.pth'
  torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
  outputs = _import(
    'torchvision', path, tmp_path / 'run', weights='IMAGENET1K_V1'
  )
  images = _images(107)
  normalize_fn = build.build_normalize_fn(outputs.config)
  transformed = _normalized(images)
  for channel, (mean, std) in enumerate(
    [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]
  ):
    transformed[..., channel] *= std / 0.5
    transformed[..., channel] += (mean - 0.5) / 0.5
  np.testing.assert_allclose(normalize_fn(images), transformed, atol=1e-6)
  expected = networks.logits(network, transformed)
  assert expected.std() > 0.1
  assert _relative(_forward(outputs, transformed), expected) < 1e-4


def test_what_is_missing_or_left_over_writes_nothing(resnet18, tmp_path):
  state = resnet18.state_dict()
  state['layer1.0.extra'] = state.pop('layer1.0.conv1.weight')
  path = tmp_path / 'resnet18.pth'
  torch.save(state, path)
  with pytest.raises(ValueError) as error:
    _import('torchvision', path, tmp_path / 'run', weights='IMAGENET1K_V1')
  assert str(error.value).startswith(
    f'{path} is not our resnet18: it lacks layer1.0.conv1.weight but has '
    'layer1.0.extra. Known: '
  )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'weights': 'IMAGENET1K_V2'}, 'is a resnet18, of which there are no such'),
    ({'weights': 'DEFAULT'}, '--weights=DEFAULT is none of IMAGENET1K_V1'),
  ],
)
def test_weights_that_torchvision_has_not_are_refused(
  resnet18, tmp_path, options, words
):
  path = tmp_path / 'resnet18.pth'
  torch.save(resnet18.state_dict(), path)
  with pytest.raises(ValueError, match=words):
    _import('torchvision', path, tmp_path / 'run', **options)
  assert not (tmp_path / 'run').exists()


def test_classes_that_are_not_imagenets_need_a_data_set(tmp_path):
  path = tmp_path / 'resnet18.pth'
  torch.save(networks.create('resnet18', num_classes=10).state_dict(), path)
  with pytest.raises(ValueError, match=r'has 10 classes, .*Say with --dataset'):
    _import('torchvision', path, tmp_path / 'run', weights='IMAGENET1K_V1')


@pytest.mark.parametrize(
  ('dataset', 'count'), [('cifar10', 10), ('folder:pets', 2)]
)
def test_a_data_set_of_other_classes_is_refused(
  resnet18, tmp_path, dataset, count
):
  for name in ('train/cat', 'train/dog', 'val/cat', 'val/dog'):
    (tmp_path / 'pets' / name).mkdir(parents=True)
    tf.io.write_file(
      str(tmp_path / 'pets' / name / 'a.png'),
      tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)),
    )
  path = tmp_path / 'resnet18.pth'
  torch.save(resnet18.state_dict(), path)
  with pytest.raises(ValueError) as error:
    importing.import_checkpoint(
      formats.get_format('torchvision'),
      str(path),
      workdir=str(tmp_path / 'run'),
      options={'weights': 'IMAGENET1K_V1', 'dataset': dataset},
      data_dir=str(tmp_path),
    )
  assert str(error.value) == (
    f'--dataset={dataset} has {count} classes, but the network tells 1000 apart. '
    'Name the data set that it was trained on.'
  )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('dataset', ['imagenet_r', 'imagenet_v2_topimages'])
def test_variants_of_imagenet_have_its_classes(resnet18, tmp_path, dataset):
  path = tmp_path / 'resnet18.pth'
  torch.save(resnet18.state_dict(), path)
  outputs = _import(
    'torchvision',
    path,
    tmp_path / 'run',
    weights='IMAGENET1K_V1',
    dataset=dataset,
  )
  assert outputs.config.dataset == dataset


@pytest.mark.parametrize(
  ('weights', 'architecture', 'resized', 'side'),
  [
    ('IMAGENET1K_V1', 'resnet50', 256, 224),
    ('IMAGENET1K_V2', 'resnet50', 232, 224),
    ('IMAGENET1K_V1', 'inception_v3', 342, 299),
  ],
)
def test_images_are_prepared_as_torchvision_says(
  tmp_path, weights, architecture, resized, side
):
  with torch.device('meta'):
    shapes = networks.create(architecture).state_dict()
  path = tmp_path / 'a.pth'
  torch.save(
    {k: torch.zeros_like(v, device='cpu') for k, v in shapes.items()}, path
  )
  source = formats.get_format('torchvision').open_source(
    str(path), weights=weights
  )
  fields = dict(source.fields)
  assert fields['image_size'] == side
  assert round(side * fields['resize_ratio']) == resized
  assert fields['eval_crop'] == 'resize_then_crop'
  assert (fields['resize_method'], fields['resize_antialias']) == (
    'bilinear',
    True,
  )
  assert json.dumps(source.about) == json.dumps({'architecture': architecture})
