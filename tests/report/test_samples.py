"""What runs measured, with values of examples only where they fit."""

import dataclasses

import numpy as np
import pytest

from lossbench.report.bootstrap import Sample, difference
from lossbench.report.looks import Key
from lossbench.report.reading import load_study
from lossbench.report.samples import create_samples, mean_samples

OWN = 'imagenet2012-validation'


def _samples(root, metric='top1_accuracy', **where):
  study = load_study(root)
  [group] = study.groups()
  return create_samples(
    {
      key: [
        (run, run.measured(metric, **where))
        for run in study.runs_of(group, key)
      ]
      for key in study.keys(group)
    }
  )


def _write(root, values_fn, ids=range(40)):
  for run in root.glob('runs/*/*/*'):
    np.savez(
      run / 'eval' / OWN / 'per_example.npz',
      **{'id': np.array(ids), 'about_step': 100} | values_fn(run),
    )


def test_top1_of_records_without_values_is_of_the_predictions(synthetic_study):
  samples = _samples(synthetic_study)
  assert {s.num_examples for s in samples.values()} == {1000}
  effect = difference(samples[Key('sigmoid')], samples[Key('softmax')])
  assert effect.over == 'seeds and examples'
  assert effect.estimate == pytest.approx(0.01)
  nll = _samples(synthetic_study, 'nll')
  assert nll[Key('softmax')].resampled is None


def test_values_of_examples_have_the_mean_of_the_record(synthetic_study):
  """Those of another checkpoint have another, and are left out."""
  rng = np.random.default_rng(0)

  def values(run, shift=0.0):
    deviations = rng.normal(size=40)
    deviations += shift - deviations.mean()
    place = ('softmax', 'sigmoid', 'dropout').index(run.parent.name)
    return {'nll': 0.9 + place + deviations}

  _write(synthetic_study, values)
  samples = _samples(synthetic_study, 'nll')
  sample = samples[Key('dropout')]
  assert sample.resampled.shape == (1000, 3)
  assert sample.num_examples == 40
  np.testing.assert_allclose(sample.resampled.mean(axis=0), 2.9, atol=0.05)
  assert difference(sample, samples[Key('softmax')]).over == (
    'seeds and examples'
  )
  _write(synthetic_study, lambda run: values(run, 0.01))
  study = load_study(synthetic_study)
  assert all(run.measured('nll').per_example is None for run in study.runs)


def test_layers_have_examples_of_their_own(synthetic_study):
  name = 'class_separation/features'
  _write(
    synthetic_study,
    lambda run: {name: np.full(5, 0.2), f'{name}/id': np.arange(5)},
  )
  run = load_study(synthetic_study).runs[0]
  found = run.measured('class_separation', endpoint='features').per_example
  np.testing.assert_array_equal(found.ids, np.arange(5))


def test_other_examples_are_not_paired(synthetic_study):
  """Of one run that left an image out; then seeds alone tell."""
  path = synthetic_study / 'runs/imagenet_resnet50/softmax/seed1/eval' / OWN
  with np.load(path / 'predictions.npz') as stored:
    arrays = dict(stored)
  arrays['id'] = arrays['id'][::-1]
  np.savez(path / 'predictions.npz', **arrays)
  samples = _samples(synthetic_study)
  assert all(sample.resampled is None for sample in samples.values())
  effect = difference(samples[Key('sigmoid')], samples[Key('softmax')])
  assert effect.over == 'seeds'


def test_damaged_values_are_named_and_left_out(synthetic_study):
  path = synthetic_study / 'runs/imagenet_resnet50/softmax/seed1/eval' / OWN
  (path / 'per_example.npz').write_bytes(b'PK')
  study = load_study(synthetic_study)
  [problem] = study.problems
  assert problem.startswith(f'{path / "per_example.npz"} is damaged')
  [run] = [r for r in study.runs if r.name.endswith('softmax/seed1')]
  assert run.measured('top1_accuracy').per_example is None


def test_means_over_data_sets():
  rng = np.random.default_rng(0)
  a, b = (
    {
      Key('softmax'): Sample(
        's', rng.random(3), rng.random((9, 3)), 10, seeds=(0, 1, 2)
      ),
      Key('sigmoid'): Sample('g', rng.random(2)),
    }
    for _ in range(2)
  )
  found = mean_samples([a, b])
  softmax = Key('softmax')
  np.testing.assert_allclose(
    found[softmax].values, (a[softmax].values + b[softmax].values) / 2
  )
  np.testing.assert_allclose(
    found[softmax].resampled, (a[softmax].resampled + b[softmax].resampled) / 2
  )
  assert found[softmax].num_examples == 20
  assert found[Key('sigmoid')].resampled is None
  # What was not measured on all of them has no mean.
  assert set(mean_samples([a, {softmax: b[softmax]}])) == {softmax}
  # As many seeds, but others.
  others = dataclasses.replace(b[softmax], seeds=(0, 1, 3))
  assert mean_samples([{softmax: a[softmax]}, {softmax: others}]) == {}
  assert mean_samples([]) == {}
