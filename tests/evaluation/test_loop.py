"""The evaluation loop: the same whatever the batches, and what it keeps."""

import zlib

import jax
import numpy as np
import pytest

from lossbench import build
from lossbench.data import datasets, pipeline, preprocess
from lossbench.data.examples import Examples
from lossbench.evaluation.collected import Collect
from lossbench.evaluation.loop import Evaluator
from lossbench.metrics import cka, cka_minibatches
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from lossbench.runtime import devices

N = 50
SPLIT = f'test[:{N}]'


@pytest.fixture(scope='module')
def run(tiny_runs):
  return RunDirectory(tiny_runs['sigmoid_0'])


@pytest.fixture(scope='module')
def builder(digits_dir):
  return datasets.open_dataset('digits', data_dir=digits_dir)


@pytest.fixture(scope='module')
def pass_fn(run, builder):
  """Runs a pass over the split with the run's best checkpoint."""
  variables = load_checkpoint(run, 'best').eval_variables

  def run_pass(**options):
    evaluator = Evaluator(
      run.read_config(), Examples(builder, SPLIT), **options
    )
    return evaluator.run(devices.replicate(variables))

  return run_pass


@pytest.fixture(scope='module')
def endpoints(run, builder):
  """By plain jit, in the order of reading, with ids."""
  config = run.read_config()
  batches = list(
    pipeline.eval_batches(
      Examples(builder, SPLIT),
      batch_size=N,
      image_fn=preprocess.build_eval_image_fn(config),
    )
  )
  classifier = build.build_classifier(config, build.build_objective(config))
  values = jax.jit(lambda v, x: classifier.apply(v, x, train=False))(
    load_checkpoint(run, 'best').eval_variables,
    build.build_normalize_fn(config)(batches[0]['image']),
  )
  return batches[0]['id'].astype(bytes), jax.device_get(values)


EVERYTHING = Collect(logits=True, features=True, pooled=True, num_sampled=20)


@pytest.mark.parametrize('batch_size', [8, 64])
def test_collected_rows_are_the_models(pass_fn, endpoints, batch_size):
  ids, values = endpoints
  result = pass_fn(collect=EVERYTHING, batch_size=batch_size)
  found = result.collected
  assert list(found.ids) == list(ids)
  for name in ('logits', 'features'):
    np.testing.assert_allclose(found.arrays[name], values[name], atol=1e-4)
  np.testing.assert_allclose(
    found.arrays['pooled/block2'], values['block2'].mean((1, 2)), atol=1e-4
  )


def test_the_sample_has_the_smallest_hashes(pass_fn, endpoints):
  ids, values = endpoints
  sample = pass_fn(collect=EVERYTHING, batch_size=8).sample
  wanted = sorted(ids, key=zlib.crc32)[:20]
  assert list(sample.ids) == sorted(wanted)
  rows = [list(ids).index(name) for name in sample.ids]
  np.testing.assert_allclose(
    sample.arrays['features'], values['features'][rows], atol=1e-5
  )


def test_a_sample_of_more_than_there_is_has_all(pass_fn):
  sample = pass_fn(collect=Collect(num_sampled=1000)).sample
  assert len(sample) == N


def test_grams_are_those_of_consecutive_examples(pass_fn, endpoints):
  """cka_of_grams on them equals minibatch_cka of the feature maps."""
  _, values = endpoints
  keep = Collect(gram_size=4)
  found = pass_fn(collect=keep, batch_size=32).collected.arrays
  names = ['block1', 'block3', 'logits']
  matrix = cka_minibatches.cka_of_grams(
    [found[f'gram/{name}'] for name in names], minibatch_size=4
  )
  for i, a in enumerate(names):
    for j, b in enumerate(names):
      expected = cka.minibatch_cka(values[a], values[b], minibatch_size=4)
      assert matrix[i, j] == pytest.approx(expected, abs=1e-3), (a, b)
  again = pass_fn(collect=keep, batch_size=16).collected.arrays
  for name in names:
    np.testing.assert_allclose(
      again[f'gram/{name}'], found[f'gram/{name}'], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize('suite', ['predictions', 'representations'])
def test_measurements_do_not_depend_on_batches(pass_fn, suite):
  first, second = (
    pass_fn(suite=suite, batch_size=size).accumulators for size in (8, 64)
  )
  assert list(first) == list(second)
  for name in first:
    try:
      expected = first[name].compute()
    except ValueError:  # a class is missing among so few
      continue
    assert second[name].compute() == pytest.approx(expected, rel=1e-4), name


def test_minibatches_must_fit_into_a_devices_batch(pass_fn):
  with pytest.raises(ValueError, match='4 devices x minibatches of 8'):
    pass_fn(collect=Collect(gram_size=8), batch_size=16)
