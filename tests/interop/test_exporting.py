"""What is exported is what the run computes, for programs that have no lossbench."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml
from flax import traverse_util
from safetensors.numpy import load_file

from configs import digits_cnn
from lossbench import build, objectives
from lossbench.evaluation.outputs import RunOutputs
from lossbench.interop import exporting, stablehlo
from lossbench.interop.description import (
  FORMULAS,
  build_description,
  reasons_against_torch,
)
from lossbench.runs.directory import write_json

FILES = ['README.md', 'config.json', 'lossbench.safetensors', 'model.stablehlo']
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)

CHILD = """
import sys
import jax.export
import numpy as np
with open('model.stablehlo', 'rb') as file:
  network = jax.export.deserialize(bytearray(file.read()))
images = np.load(sys.argv[1])
for size in (1, len(images)):
  log_probs = network.call(images[:size])
np.save(sys.argv[2], log_probs)
assert 'lossbench' not in sys.modules
"""


@pytest.fixture(scope='module')
def exported(tiny_runs, tmp_path_factory):
  path = tmp_path_factory.mktemp('exports') / 'sigmoid'
  read, deserialize = [], jax.export.deserialize
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      'jax.export.deserialize', lambda file: read.append(1) or deserialize(file)
    )
    found = exporting.export_run(str(tiny_runs['sigmoid_0']), output=str(path))
  assert len(read) == 1  # for batches of all sizes
  assert found.path == path
  return found


@pytest.fixture
def outputs(tiny_runs):
  return RunOutputs(tiny_runs['sigmoid_0'])


def _log_probs(outputs, images):
  """As evaluation computes them: sigmoids, normalised over classes."""
  classifier = build.build_classifier(outputs.config, outputs.objective)
  normalized = (images / 255 - 0.3) / 0.37
  endpoints = classifier.apply(
    outputs.variables, normalized.astype(np.float32), train=False
  )
  sigmoids = 1 / (1 + np.exp(-np.asarray(endpoints['logits'], np.float64)))
  return np.log(sigmoids / sigmoids.sum(axis=1, keepdims=True))


def test_a_process_without_lossbench_computes_the_log_probabilities(
  exported, outputs, tmp_path
):
  np.save(tmp_path / 'images.npy', IMAGES)
  found = tmp_path / 'found.npy'
  subprocess.run(
    [sys.executable, '-I', '-c', CHILD, tmp_path / 'images.npy', found],
    cwd=exported.path,
    check=True,
  )
  np.testing.assert_allclose(
    np.load(found), _log_probs(outputs, IMAGES), rtol=1e-5, atol=1e-5
  )


def test_the_program_is_for_all_platforms(exported):
  content = (exported.path / 'model.stablehlo').read_bytes()
  found = jax.export.deserialize(bytearray(content))
  assert set(found.platforms) == {'cpu', 'cuda', 'tpu'}
  [images] = found.in_avals
  assert str(images.shape) == '(batch, 8, 8, 1)'
  assert images.dtype == np.uint8


def test_our_names_hold_our_arrays(exported, outputs):
  arrays = load_file(exported.path / 'lossbench.safetensors')
  flat = traverse_util.flatten_dict(outputs.variables, sep='/')
  assert arrays.keys() == flat.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, flat[name])
  assert sorted(exported.num_bytes) == FILES
  assert exported.not_torch == ('torchvision has no digits_cnn, width 4',)


def test_the_description_says_what_the_network_is_and_means(exported, outputs):
  content = json.loads((exported.path / 'config.json').read_text())
  assert content['architecture'] == 'digits_cnn'
  assert (content['num_classes'], content['num_features']) == (10, 16)
  about = content['lossbench']
  assert about['objective'] == 'sigmoid'
  assert about['hyperparameters'] == {'sigmoid': {}}
  assert about['step'] == outputs.step
  assert about['checkpoint'] == outputs.fingerprint
  assert about['model']['width'] == 4
  assert about['log_probs'] == [
    {
      'function': 'normalized_sigmoid_log_probs',
      'formula': FORMULAS['normalized_sigmoid_log_probs'],
    }
  ]
  assert about['preprocessing']['pixel_mean'] == [0.3]
  # Paths of this machine stay here.
  assert about['config']['data_dir'] == ''
  assert content['pretrained_cfg']['input_size'] == [1, 8, 8]


@pytest.mark.parametrize('name', objectives.known_parts())
def test_every_map_to_probabilities_has_its_formula(name):
  """By NumPy, of what `log_probs` computes."""
  part = objectives.get_part(name)
  parts = {name: {hparam: 0.5 for hparam in part.hparams}}
  if part.scale_by_temperature:
    parts['cosine'] = {'temperature': 0.5}
  for released in (False, True):
    built = objectives.create_objective(
      '+'.join(parts), parts, released=released
    )
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = np.float64(logits)
    for function, hparams in built.log_probs_stages():
      match FORMULAS[function]:
        case 'l_k - log sum_j exp(l_j)':
          found = found - np.log(np.exp(found).sum(1, keepdims=True))
        case 'log s_k - log sum_j s_j, where s_k = 1 / (1 + exp(-l_k))':
          s = 1 / (1 + np.exp(-found))
          found = np.log(s) - np.log(s.sum(1, keepdims=True))
        case 'l / (temperature * ||l||_2)':
          norm = np.linalg.norm(found, axis=1, keepdims=True)
          found = found / (hparams['temperature'] * norm)
        case 'l / temperature':
          found = found / hparams['temperature']
    np.testing.assert_allclose(built.log_probs(logits), found, rtol=1e-5)


def test_the_card_is_one_that_the_hub_reads(exported):
  text = (exported.path / 'README.md').read_text()
  _, front, body = text.split('---\n', 2)
  fields = yaml.safe_load(front)
  assert fields['pipeline_tag'] == 'image-classification'
  assert fields['library_name'] == 'lossbench'
  assert 'image-classification' in fields['tags']
  assert body.startswith('\n# Model card for digits_cnn, sigmoid\n')
  assert 'trained by lossbench with sigmoid on digits' in body
  assert 'has not been evaluated' in body
  assert 'torchvision has no digits_cnn' in body
  # Its code works as printed.
  [code] = re.findall(r'```python\n(.*?)```', body, re.DOTALL)
  subprocess.run(
    [sys.executable, '-I', '-c', code], cwd=exported.path, check=True
  )


def test_the_card_shows_what_was_measured_of_this_checkpoint(
  tiny_runs, tmp_path
):
  run = tmp_path / 'run'
  shutil.copytree(tiny_runs['sigmoid_0'], run)
  outputs = RunOutputs(run)
  records = [
    {'name': 'top1_accuracy', 'value': 0.75, 'endpoint': None},
    {'name': 'nll', 'value': None, 'endpoint': None},
    {'name': 'class_separation', 'value': 0.5, 'endpoint': 'features'},
  ]
  path = outputs.eval_path('digits', 'test') / 'metrics.json'
  content = {
    'checkpoint': outputs.fingerprint,
    'compute_dtype': 'float32',
    'metrics': records,
  }
  write_json(path, content)
  text = (exporting.export_run(str(run)).path / 'README.md').read_text()
  assert '| top1_accuracy | 0.7500 |' in text
  assert 'nll' not in text
  [model] = yaml.safe_load(text.split('---\n')[1])['model-index']
  [result] = model['results']
  assert result['metrics'] == [{'type': 'accuracy', 'value': 0.75}]
  # Of another checkpoint, or in another precision, they are not shown.
  for other in ({'checkpoint': '00000000'}, {'compute_dtype': 'bfloat16'}):
    write_json(path, content | other)
    output = tmp_path / next(iter(other))
    again = exporting.export_run(str(run), output=str(output))
    assert 'has not been evaluated' in (again.path / 'README.md').read_text()


@pytest.mark.parametrize(
  ('model', 'layer', 'reasons'),
  [
    ({'max_pool_padding': 'symmetric'}, {}, []),
    ({}, {}, ["its max_pool_padding is 'same', torchvision's is 'symmetric'"]),
    (
      {'max_pool_padding': 'symmetric', 'width': 32},
      {},
      ['torchvision has no resnet, depth 18, width 32'],
    ),
    (
      {'max_pool_padding': 'symmetric'},
      {'cosine': True},
      ['its output layer is not linear with a bias'],
    ),
  ],
)
def test_torchvisions_names_are_for_what_torchvision_computes(
  model, layer, reasons
):
  fields = {
    'name': 'resnet',
    'depth': 18,
    'width': 64,
    'max_pool_padding': 'same',
    'conv_padding': 'symmetric',
  }
  found = reasons_against_torch(
    {**fields, **model},
    {'cosine': False, 'use_bias': True, **layer},
    downscale=1,
    num_channels=3,
  )
  assert found == reasons


def test_networks_of_grey_images_have_no_names_of_torchvision():
  fields = {'depth': 18, 'width': 64, 'max_pool_padding': 'symmetric'}
  found = reasons_against_torch(
    {'name': 'resnet', 'conv_padding': 'symmetric', **fields},
    {'cosine': False, 'use_bias': True},
    downscale=1,
    num_channels=1,
  )
  assert found == ['its images have 1 channel(s) instead of 3']


def test_paths_of_a_machine_stay_there():
  config = digits_cnn.get_config()
  config.dataset = 'folder:/home/me/pets'
  config.class_weights = '/home/me/weights.json'
  config.data_dir = '/home/me'
  objective = objectives.create_objective('softmax')
  found = build_description(
    config, objective=objective, num_features=2, source={}
  )
  assert '/home' not in json.dumps(found)
  assert found['lossbench']['config']['dataset'].startswith('folder-pets-')


@pytest.mark.parametrize('damaged', ['program', 'arrays'])
def test_what_does_not_come_back_is_not_exported(
  tiny_runs, tmp_path, monkeypatch, damaged
):
  if damaged == 'program':
    load = stablehlo.load_program
    monkeypatch.setattr(
      stablehlo, 'load_program', lambda file: lambda x: load(file)(x) + 0.1
    )
    words = 'computes other log-probabilities than the run, by up to 0.1'
  else:
    altered = _altered(exporting._Export.write)
    monkeypatch.setattr(exporting._Export, 'write', altered)
    words = 'params/output_layer/bias differs'
  with pytest.raises(ValueError, match=words):
    exporting.export_run(
      str(tiny_runs['sigmoid_0']), output=str(tmp_path / 'out')
    )
  assert not list(tmp_path.iterdir())


def _altered(write):
  def write_and_alter(self, path):
    from safetensors.numpy import save_file

    write(self, path)
    arrays = load_file(path / exporting.OWN)
    arrays['params/output_layer/bias'][3] += 1e-6
    save_file(arrays, path / exporting.OWN)

  return write_and_alter


def test_mistakes_are_one_line_and_write_nothing(tiny_runs, tmp_path):
  there = tmp_path / 'there'
  there.mkdir()
  run = str(tiny_runs['sigmoid_0'])
  with pytest.raises(FileExistsError, match='is there already'):
    exporting.export_run(run, output=str(there))
  with pytest.raises(OSError, match='lies in a bucket'):
    exporting.export_run(run, output='gs://bucket/out')
  with pytest.raises(FileNotFoundError, match='is not a run directory'):
    exporting.export_run(str(there))
  with pytest.raises(FileNotFoundError, match='has no checkpoint of step 999'):
    exporting.export_run(run, step='999', output=str(tmp_path / 'out'))
  assert [path.name for path in tmp_path.iterdir()] == ['there']
  assert not list(there.iterdir())


def test_the_binary_says_what_it_wrote(tiny_runs, tmp_path, request):
  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'lossbench.export', *arguments],
      cwd=request.config.rootpath,
      capture_output=True,
      text=True,
      check=False,
    )

  output = tmp_path / 'out'
  found = run(str(tiny_runs['cosine_softmax_0']), f'--output={output}')
  assert found.returncode == 0, found.stderr
  lines = found.stdout.splitlines()
  assert [pathlib.Path(line.split('  ')[0]).name for line in lines[:4]] == FILES
  assert lines[4:] == [
    'No names of torchvision: torchvision has no digits_cnn, width 4.',
    'Done: every file was read again and holds what the run does.',
  ]
  card = (output / 'README.md').read_text()
  assert '`cos(W_k, x) / temperature + b_k`, temperature = 0.1' in card
  for arguments in ((), ('a', 'b')):
    found = run(*arguments)
    assert found.returncode == 1
    [line] = found.stderr.splitlines()
    assert line == (
      f'Error: Give one run directory, not {len(arguments)}: python -m '
      'lossbench.export RUN.'
    )
