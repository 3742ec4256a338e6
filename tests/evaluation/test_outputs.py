"""Outputs are computed once and stored with their source."""

import shutil

import jax
import numpy as np
import pytest

from lossbench.data import pipeline
from lossbench.evaluation import files, outputs
from lossbench.evaluation.outputs import RunOutputs
from lossbench.objectives import create_objective
from lossbench.probe.transfer import build_image_fn
from lossbench.runs.checkpoints import Checkpointer, load_checkpoint, to_host
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runtime import devices
from lossbench.train.state import TrainState


@pytest.fixture
def run(tiny_runs, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(tiny_runs['sigmoid_0'], workdir)
  shutil.rmtree(workdir / 'eval', ignore_errors=True)
  return workdir


@pytest.fixture
def num_passes(monkeypatch):
  """How often a forward pass was begun."""
  begun = []
  create = outputs.Evaluator

  def counting(*args, **kwargs):
    begun.append(args)
    return create(*args, **kwargs)

  monkeypatch.setattr(outputs, 'Evaluator', counting)
  return lambda: len(begun)


def _read_all(run):
  return {
    'predictions': run.predictions('digits', 'test'),
    'sample': run.sample('digits', 'test', num_sampled=30),
    'layers': run.layers('digits', 'test', num_examples=64, minibatch_size=8),
  }


def test_nothing_is_computed_twice(run, num_passes):
  first = _read_all(RunOutputs(run))
  assert num_passes() == 3
  second = _read_all(RunOutputs(run))
  assert num_passes() == 3
  for name, expected in first.items():
    np.testing.assert_array_equal(second[name].ids, expected.ids)
    for key, values in expected.arrays.items():
      np.testing.assert_array_equal(second[name].arrays[key], values)


def test_images_to_transfer_to_are_decoded_once_for_all_runs(
  run, monkeypatch, tmp_path
):
  num_reads = 0
  eval_batches = pipeline.eval_batches

  def counting(*args, **kwargs):
    nonlocal num_reads
    num_reads += 1
    return eval_batches(*args, **kwargs)

  monkeypatch.setattr(pipeline, 'eval_batches', counting)
  other = shutil.copytree(run, tmp_path / 'other')

  def features(path, name):
    outputs = RunOutputs(path)
    image_fn, preprocessing = build_image_fn(outputs.config, 'digits_high')
    return outputs.features(
      'digits_high',
      'test',
      image_fn=image_fn,
      preprocessing={**preprocessing, 'name': name},
    ).arrays['features']

  first = features(run, 'a')
  np.testing.assert_array_equal(features(other, 'a'), first)
  assert num_reads == 1
  np.testing.assert_array_equal(features(other, 'b'), first)
  assert num_reads == 2  # as if it were another preprocessing


def test_another_checkpoint_is_another_source(run, num_passes):
  at_last = RunOutputs(run, step='last')
  at_first = RunOutputs(run, step='20')
  assert at_last.step == 40
  last = at_last.predictions('digits', 'test').arrays['logits']
  first = at_first.predictions('digits', 'test').arrays['logits']
  assert num_passes() == 2
  assert not np.allclose(first, last)


def test_files_beside_metrics_are_of_their_step(run, num_passes):
  directory = run / 'eval' / 'digits-test'
  RunOutputs(run, step='last').predictions('digits', 'test')
  (directory / 'metrics.json').write_text('{"step": 40}')
  measured = (directory / 'predictions.npz').read_bytes()
  first = RunOutputs(run, step='20').predictions('digits', 'test')
  assert (directory / 'predictions.npz').read_bytes() == measured
  again = RunOutputs(run, step='20').predictions('digits', 'test')
  assert num_passes() == 2
  np.testing.assert_array_equal(again.arrays['logits'], first.arrays['logits'])


def test_damaged_and_deleted_checkpoints_name_the_remedy(run):
  at_last, at_first = RunOutputs(run, step='last'), RunOutputs(run, step='20')
  for path in (run / 'checkpoints' / '000000040').rglob('*'):
    if path.is_file() and path.stat().st_size > 1000:
      path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(
    ValueError, match=r'damaged: .*Remedy: --step=20, or train'
  ):
    _ = at_last.variables
  shutil.rmtree(run / 'checkpoints' / '000000020')
  with pytest.raises(FileNotFoundError, match='was deleted while it was'):
    _ = at_first.variables


def test_a_damaged_file_is_computed_again(run, num_passes):
  expected = RunOutputs(run).predictions('digits', 'test')
  path = run / 'eval' / 'digits-test' / 'predictions.npz'
  path.write_bytes(path.read_bytes()[:-100])
  found = RunOutputs(run).predictions('digits', 'test')
  assert num_passes() == 2
  np.testing.assert_array_equal(
    found.arrays['logits'], expected.arrays['logits']
  )
  assert RunOutputs(run).predictions('digits', 'test').ids.shape == (355,)
  assert num_passes() == 2


def test_some_of_the_arrays_of_layers(run, num_passes):
  options = {'num_examples': 64, 'minibatch_size': 8}
  runs = RunOutputs(run)
  everything = runs.layers('digits', 'test', **options)
  only = runs.layers('digits', 'test', only=['gram/block1'], **options)
  assert list(only.arrays) == ['gram/block1']
  np.testing.assert_array_equal(
    only.arrays['gram/block1'], everything.arrays['gram/block1']
  )
  assert everything.arrays['gram/block1'].shape == (64, 8)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_diverged_checkpoints_are_refused(run, value):
  """One broken number in one parameter that evaluation uses is enough."""
  last = load_checkpoint(RunDirectory(run), 'last')
  arrays = jax.tree.map(np.array, last.arrays)
  arrays['ema']['params']['output_layer']['kernel'][3, 5] = value
  arrays['step'] = np.int32(60)
  with Checkpointer(run / 'checkpoints', keep_last=3) as checkpointer:
    checkpointer.save(
      to_host(devices.replicate(TrainState(**arrays))),
      history=last.history,
    )
  with pytest.raises(
    ValueError, match=r'^1 of \d+ parameter arrays of step 60 .* diverged'
  ):
    RunOutputs(run, step='60').predictions('digits', 'test')
  assert RunOutputs(run, step='40').predictions('digits', 'test')


def test_images_that_are_stored_cropped_are_not_cropped_again(run):
  runs = RunOutputs(run)
  runs.config.resize_ratio = 256 / 224
  assert runs._image_config('imagenet_c_fog_1').resize_ratio == 1.0
  assert runs._image_config('imagenet_a') is runs.config
  assert runs.config.resize_ratio == 256 / 224


def test_the_kernel_of_cosines_has_unit_columns(tiny_runs):
  runs = RunOutputs(tiny_runs['sigmoid_0'])
  norms = np.linalg.norm(runs.kernel, axis=0)
  assert not np.allclose(norms, 1)
  runs.objective = create_objective(
    'cosine_softmax', {'cosine_softmax': {'temperature': 0.05}}
  )
  np.testing.assert_allclose(
    runs.kernel * norms,
    np.asarray(runs.variables['params']['output_layer']['kernel']),
    rtol=1e-6,
  )


def test_refusals(run, tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a run directory'):
    RunOutputs(tmp_path)
  with pytest.raises(FileNotFoundError, match='no checkpoint of step 7'):
    RunOutputs(run, step='7')
  with pytest.raises(ValueError, match='not divisible by the 4 devices'):
    RunOutputs(run, batch_size=30)
  with pytest.raises(ValueError, match="has no split 'validation'"):
    RunOutputs(run).predictions('digits', 'validation')
  with pytest.raises(ValueError, match='smaller --minibatch_size'):
    RunOutputs(run).layers('digits', 'test', num_examples=16, minibatch_size=32)


def test_outputs_of_another_type_are_not_mixed(run, num_passes):
  """Beside metrics in float32, bfloat16 has files of its own."""
  own = RunOutputs(run)
  files.write_metrics(
    own.eval_path('digits', 'test'),
    [],
    step=own.step,
    compute_dtype=own.config.compute_dtype,
  )
  full = own.predictions('digits', 'test').arrays['logits']
  half = RunOutputs(run, compute_dtype='bfloat16')
  rounded = half.predictions('digits', 'test').arrays['logits']
  assert num_passes() == 2
  assert 0 < np.abs(rounded - full).max() < 0.2
  again = [
    RunOutputs(run, compute_dtype=dtype).predictions('digits', 'test')
    for dtype in (None, 'float32', 'bfloat16')
  ]
  assert num_passes() == 2
  for found, expected in zip(again, (full, full, rounded), strict=True):
    np.testing.assert_array_equal(found.arrays['logits'], expected)


def test_images_of_another_data_set_are_of_any_size(run):
  """To a run that leaves bad images out they are not bad for their size."""
  path = run / 'config.json'
  config = read_json(path)
  config |= {'on_bad_image': 'skip', 'image_size': 9}
  write_json(path, config)
  source = RunOutputs(run)
  image_fn, preprocessing = build_image_fn(source.config, 'digits_low')
  found = source.features(
    'digits_low', 'test', image_fn=image_fn, preprocessing=preprocessing
  )
  builder = source.open_dataset('digits_low')
  assert len(found) == builder.info.splits['test'].num_examples
  bad = read_json(run / 'bad_images.json')
  assert bad == {'digits_low test': {}}
