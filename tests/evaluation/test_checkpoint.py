"""Evaluations of a real run: numbers, invariance, files, refusals."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy import special, stats

from configs import digits_cnn
from lossbench import build
from lossbench.data import catalogue, datasets, pipeline, preprocess
from lossbench.data.examples import Examples
from lossbench.evaluation.checkpoint import evaluate_checkpoint
from lossbench.evaluation.printing import print_ood_table
from lossbench.metrics.separation import class_separation
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from tests.faults.processes import with_devices


@pytest.fixture(scope='module')
def run(tiny_runs, tmp_path_factory):
  """A run directory of our own."""
  workdir = tmp_path_factory.mktemp('evaluate') / 'tiny'
  shutil.copytree(tiny_runs['sigmoid_0'], workdir)
  return workdir


@pytest.fixture(scope='module')
def records(run):
  found = evaluate_checkpoint(str(run), ood=False)
  return {(r.name, r.endpoint): r for r in found.records}


def _predictions(run, split='test'):
  return dict(np.load(run / 'eval' / f'digits-{split}' / 'predictions.npz'))


def _values(run, split='test'):
  path = run / 'eval' / f'digits-{split}' / 'metrics.json'
  return {
    (m['name'], m['endpoint']): m['value']
    for m in json.loads(path.read_text())['metrics']
  }


def _metrics(run, directory):
  path = run / 'eval' / directory / 'metrics.json'
  return {
    m['name']: m['value'] for m in json.loads(path.read_text())['metrics']
  }


def test_predictions_cover_the_split_once(run, records):
  predictions = _predictions(run)
  assert predictions['logits'].shape == (355, 10)
  assert len(set(predictions['id'])) == 355
  assert list(predictions['id']) == sorted(predictions['id'])


def test_metrics_follow_from_the_predictions(run, records):
  """Against naive float64 formulas on the stored logits."""
  predictions = _predictions(run)
  logits = predictions['logits'].astype(np.float64)
  labels = predictions['label']
  rows = np.arange(len(labels))
  probs = special.expit(logits)
  probs /= probs.sum(1, keepdims=True)
  ranks = (logits > logits[rows, labels][:, None]).sum(1)
  expected = {
    'top1_accuracy': np.mean(ranks < 1),
    'top5_accuracy': np.mean(ranks < 5),
    'nll': -np.log(probs[rows, labels]).mean(),
  }
  confidence, correct = probs.max(1), logits.argmax(1) == labels
  bins = np.ceil(confidence * 15).astype(int)
  expected['ece'] = sum(
    abs(correct[bins == b].mean() - confidence[bins == b].mean())
    * np.mean(bins == b)
    for b in set(bins)
  )
  temperature = records['temperature', None].value
  tempered = special.log_softmax(np.log(probs) / temperature, axis=1)
  expected['tempered_nll'] = -tempered[rows, labels].mean()
  for name, value in expected.items():
    assert records[name, None].value == pytest.approx(value, rel=1e-4), name
  assert expected['tempered_nll'] <= expected['nll']


def _check_per_example(directory):
  """Every array's mean is the number that metrics.json has of it."""
  metrics = json.loads((directory / 'metrics.json').read_text())
  values = {(m['name'], m['endpoint']): m['value'] for m in metrics['metrics']}
  with np.load(directory / 'per_example.npz') as stored:
    arrays = dict(stored)
  assert int(arrays.pop('about_step')) == metrics['step']
  assert str(arrays.pop('about_checkpoint')) == metrics['checkpoint']
  ids = arrays.pop('id')
  for name, of_metric in arrays.items():
    if not name.endswith('/id'):
      metric, _, endpoint = name.partition('/')
      assert of_metric.shape == arrays.get(f'{name}/id', ids).shape
      assert of_metric.mean(dtype=np.float64) == pytest.approx(
        values[metric, endpoint or None], rel=1e-5
      )
  return set(arrays)


def test_values_of_examples_are_those_of_the_metrics(run, records):
  names = _check_per_example(run / 'eval' / 'digits-test')
  assert 'class_separation/features' in names
  holdout = records['held_out_tempered_nll', None]
  assert holdout.note.startswith('temperature fitted on the holdout, ')


def test_representations_follow_from_the_features(run, records, digits_dir):
  config = RunDirectory(run).read_config()
  checkpoint = load_checkpoint(RunDirectory(run), 'best')
  builder = datasets.open_dataset('digits', data_dir=digits_dir)
  images, labels = pipeline.load_examples(
    Examples(builder, 'test'), image_fn=preprocess.build_eval_image_fn(config)
  )
  classifier = build.build_classifier(config, build.build_objective(config))
  endpoints = jax.jit(lambda v, x: classifier.apply(v, x, train=False))(
    checkpoint.eval_variables, build.build_normalize_fn(config)(images)
  )
  assert [e for n, e in records if n == 'class_separation'] == [
    'block1',
    'block2',
    'block3',
    'features',
    'logits',
  ]
  for name in ('block2', 'features'):
    values = np.asarray(endpoints[name])
    axes = tuple(range(1, values.ndim - 1))
    assert records['class_separation', name].value == pytest.approx(
      float(class_separation(values.mean(axes), labels)), abs=1e-5
    )
    assert records['nonzero_fraction', name].value == pytest.approx(
      np.mean(values != 0), abs=1e-4
    )
  np.testing.assert_allclose(
    np.sort(_predictions(run)['logits'], axis=0),
    np.sort(np.asarray(endpoints['logits']), axis=0),
    atol=1e-4,
  )


@pytest.mark.parametrize(('num_devices', 'batch_size'), [(1, 100), (8, 104)])
def test_same_numbers_on_other_devices_and_batch_sizes(
  num_devices, batch_size, run, records, root
):
  expected = _values(run)
  logits = _predictions(run)['logits']
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'lossbench.evaluate',
      f'--workdir={run}',
      f'--batch_size={batch_size}',
      '--noood',
    ],
    cwd=root,
    env={**os.environ, 'XLA_FLAGS': with_devices(num_devices)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert 'top1_accuracy' in result.stdout
  found = _values(run)
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
  np.testing.assert_allclose(_predictions(run)['logits'], logits, atol=1e-4)


def test_other_steps_and_splits(run):
  records = evaluate_checkpoint(str(run), step='last', split='holdout').records
  assert records[0].n == 142
  assert (run / 'eval' / 'digits-holdout' / 'metrics.json').exists()
  history = json.loads((run / 'history.json').read_text())
  by_name = {r.name: r.value for r in records if r.endpoint is None}
  assert by_name['top1_accuracy'] == pytest.approx(history[-1]['top1_accuracy'])
  assert by_name['nll'] == pytest.approx(history[-1]['nll'], rel=1e-5)


def test_training_images_are_those_of_the_run_and_the_same_for_all(
  run, tiny_runs, digits_dir, tmp_path
):
  """Without its holdout; of some, a sample that no run has for itself."""
  evaluate_checkpoint(str(run), split='train[:1300]')
  evaluate_checkpoint(str(run), split='training')
  assert _values(run, 'training') == _values(run, 'train_-1300')
  other = tmp_path / 'other'
  shutil.copytree(tiny_runs['sigmoid_1'], other)
  ids = []
  for workdir in (run, other):
    found = evaluate_checkpoint(
      str(workdir), split='training', num_train_examples=300
    ).records
    assert found[0].n == 300
    path = workdir / 'eval' / 'digits-training'
    assert json.loads((path / 'metrics.json').read_text())['num_wanted'] == 300
    _check_per_example(path)
    assert not (path / 'predictions.npz').exists()
    with np.load(path / 'per_example.npz') as stored:
      ids.append(list(stored['id']))
  assert ids[0] == ids[1]
  # Classes are as frequent as by chance: the order of the files is random.
  labels = _predictions(run, 'train_-1300')
  labels = dict(zip(labels['id'], labels['label'], strict=True))
  counts = np.bincount([labels[key] for key in ids[0]], minlength=10)
  assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
  ('arguments', 'error', 'text'),
  [
    (
      {'step': '7'},
      FileNotFoundError,
      'no checkpoint of step 7. It has: 20, 40',
    ),
    ({'step': 'newest'}, ValueError, "'best', 'last' or a number"),
    ({'split': 'validation'}, ValueError, "has no split 'validation'"),
    ({'num_train_examples': 9}, ValueError, 'is of --split=training; of the'),
    ({'batch_size': 30}, ValueError, 'not divisible by the 4 devices'),
    (
      {'split': 'test', 'ood_sets': ['digits_high']},
      ValueError,
      '--ood_set=digits_high is evaluated after the test split, without --split',
    ),
  ],
)
def test_refusals(run, arguments, error, text):
  with pytest.raises(error, match=text):
    evaluate_checkpoint(str(run), **arguments)


def test_empty_classes_cost_only_the_measures_of_classes(run):
  records = evaluate_checkpoint(str(run), split='test[:3]').records
  by_name = {r.name: r for r in records if r.endpoint is None}
  assert by_name['participation_ratio'].value > 0
  for name in ('nc1', 'nc2_kernel_norms', 'nc3', 'nc4'):
    assert by_name[name].value is None
    assert 'classes have no examples' in by_name[name].note
  with np.load(run / 'eval' / 'digits-test_-3' / 'curves.npz') as curves:
    assert 'activation_singular_values' in curves
    assert 'centroid_singular_values' not in curves


def test_density_of_hardness_averages_to_its_mean(run, records):
  with np.load(run / 'eval' / 'digits-test' / 'curves.npz') as curves:
    counts, edges = curves['hardness'], curves['hardness_edges']
  assert counts.sum() == 355  # all are sampled, none beyond the edges
  mean = (counts * (edges[:-1] + edges[1:]) / 2).sum() / counts.sum()
  expected = _values(run)['angular_visual_hardness', None]
  assert mean == pytest.approx(expected, abs=np.diff(edges)[0])


def test_directories_without_runs_or_checkpoints(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a run directory'):
    evaluate_checkpoint(str(tmp_path))
  RunDirectory(tmp_path).claim(digits_cnn.get_config(), num_steps=26)
  with pytest.raises(FileNotFoundError, match='has no checkpoints'):
    evaluate_checkpoint(str(tmp_path))


def test_labels_outside_the_classes_are_named(run, digits_dir, monkeypatch):
  read = pipeline.eval_batches

  def with_bad_label(*args, **kwargs):
    for batch in read(*args, **kwargs):
      labels = batch['label'].copy()
      labels[2] = 10
      yield {**batch, 'label': labels}

  monkeypatch.setattr(pipeline, 'eval_batches', with_bad_label)
  with pytest.raises(ValueError, match=r'has label 10, outside \[0, 10\)'):
    evaluate_checkpoint(str(run))


def test_out_of_distribution_sets(run, digits_dir, monkeypatch, capsys):
  """Two corruptions are there, one is not: a family of three has no mean."""
  suite = (
    catalogue.OodSet('digits_c_contrast_1', family='digits_c'),
    catalogue.OodSet('digits_c_contrast_5', family='digits_c'),
    catalogue.OodSet('digits_high', shifted=False),
    catalogue.OodSet('cifar10_1_v4'),
    catalogue.OodSet('cifar10_c_fog_1', family='cifar10_c'),
    catalogue.OodSet('cifar10_c_fog_2', family='cifar10_c'),
  )
  monkeypatch.setitem(catalogue.OOD_SUITES, 'digits', suite)
  found = evaluate_checkpoint(str(run))
  assert len(found.not_available) == 3
  print_ood_table(found.ood, found.not_available)
  printed = capsys.readouterr().out
  assert 'cifar10_1_v4: not available: python -c' in printed
  assert 'cifar10_c (2 sets, for example cifar10_c_fog_1): not' in printed
  assert printed.count('cifar10_corrupted/fog') == 1
  corrupted = [
    _metrics(run, f'digits_c_contrast_{severity}-test') for severity in (1, 5)
  ]
  mean = _metrics(run, 'digits_c-test')
  for name in ('top1_accuracy', 'nll', 'energy_auroc'):
    assert mean[name] == pytest.approx(
      np.mean([values[name] for values in corrupted])
    )
  sizes = json.loads(
    (run / 'eval' / 'digits_c-test' / 'metrics.json').read_text()
  )['metrics']
  sizes = {record['name']: record['n'] for record in sizes}
  assert sizes['top1_accuracy'] == 2 * 355
  assert sizes['energy_auroc'] == 3 * 355  # its own test images once
  assert corrupted[0]['top1_accuracy'] > corrupted[1]['top1_accuracy']
  for name in ('digits_c_contrast_1-test', 'digits_c-test'):
    assert 'nll' in _check_per_example(run / 'eval' / name)
  unrelated = _metrics(run, 'digits_high-test')
  assert set(unrelated) == {
    'max_probability_auroc',
    'max_probability_fpr_at_95_tpr',
    'energy_auroc',
    'energy_fpr_at_95_tpr',
  }
