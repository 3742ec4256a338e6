"""Comparisons of runs: against naive formulas on the stored outputs."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import special
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from lossbench.comparison.ensembles import (
  Ensemble,
  Group,
  Predictions,
  _shares,
  compare_ensembles,
)
from lossbench.comparison.runs import compare_runs
from lossbench.evaluation import outputs, scoring
from lossbench.metrics import cka
from lossbench.metrics.agreement import ensemble_log_probs, nested_ensembles
from lossbench.objectives import create_objective
from lossbench.runs.directory import read_json, write_json

NAMES = ('sigmoid_0', 'sigmoid_1', 'cosine_softmax_0')


@pytest.fixture(scope='module')
def runs(tiny_runs, tmp_path_factory):
  root = tmp_path_factory.mktemp('compare')
  for name in NAMES:
    shutil.copytree(tiny_runs[name], root / name)
  return [str(root / name) for name in NAMES]


@pytest.fixture(scope='module')
def result(runs, tmp_path_factory):
  output = tmp_path_factory.mktemp('comparison')
  returned = compare_runs(runs, output=str(output), minibatch_size=8)
  written = read_json(output / 'comparison.json')
  assert written == returned
  return written


@pytest.fixture(scope='module')
def stored(runs, result):
  found = []
  for run in runs:
    path = f'{run}/eval/digits-test'
    found.append(
      {
        kind: dict(np.load(f'{path}/{kind}.npz'))
        for kind in ('predictions', 'layers')
      }
    )
  return found


def test_agreement_by_loops(result, stored):
  labels = stored[0]['predictions']['label']
  top1 = [run['predictions']['logits'].argmax(1) for run in stored]
  for i, a in enumerate(top1):
    for j, b in enumerate(top1):
      wrong = [n for n, k in enumerate(labels) if a[n] != k and b[n] != k]
      found = {k: v[i][j] for k, v in result['agreement'].items()}
      assert found['same_top1'] == pytest.approx(np.mean(a == b))
      assert found['both_right_or_wrong'] == pytest.approx(
        np.mean((a == labels) == (b == labels))
      )
      assert found['same_when_both_wrong'] == pytest.approx(
        np.mean([a[n] == b[n] for n in wrong])
      )


def test_clustering_is_scipys(result):
  distances = 1 - np.array(result['agreement']['same_top1'])
  expected = hierarchy.linkage(
    squareform(distances), 'average', optimal_ordering=True
  )
  np.testing.assert_allclose(result['clustering']['linkage'], expected)


def test_ensembles_average_probabilities(result, stored):
  """Each member by its own map: sigmoids normalised, cosine logits softmax."""
  labels = stored[0]['predictions']['label']
  logits = [run['predictions']['logits'].astype(np.float64) for run in stored]
  sigmoids = []
  for values in logits[:2]:
    probs = special.expit(values)
    sigmoids.append(probs / probs.sum(1, keepdims=True))
  probs = {
    'sigmoid': np.mean(sigmoids, axis=0),
    'cosine_softmax': special.softmax(logits[2], axis=1),
  }
  found = result['ensembles']
  assert found['objectives'] == ['sigmoid', 'cosine_softmax']
  assert found['num_members'] == [2, 1]
  probs['first sigmoid'] = sigmoids[0]
  for i, j, mixed in [
    (0, 0, ['sigmoid']),
    (1, 1, ['cosine_softmax']),
    # One of each: no more members than the smaller group has is too few.
    (0, 1, ['first sigmoid', 'cosine_softmax']),
  ]:
    both = np.mean([probs[name] for name in mixed], axis=0)
    assert found['top1_accuracy'][i][j] == pytest.approx(
      np.mean(both.argmax(1) == labels)
    )
    nll = -np.log(both[np.arange(len(labels)), labels]).mean()
    assert found['nll'][i][j] == pytest.approx(nll, rel=1e-5)


def test_layers_against_plain_cka(result, stored):
  found = result['cka']['layers']
  assert found['runs'] == [0, 1]  # two seeds of one objective
  names = ['block1', 'block2', 'block3', 'features', 'logits']
  assert found['endpoints'] == names
  a, b = stored[0]['layers'], stored[1]['layers']
  for i, x in enumerate(names):
    for j, y in enumerate(names):
      assert found['linear_cka'][i][j] == pytest.approx(
        cka.linear_cka(a[f'pooled/{x}'], b[f'pooled/{y}']), abs=1e-5
      )
  features = [run['layers']['pooled/features'] for run in stored[:2]]
  assert found['minibatch_cka'][3][3] == pytest.approx(
    cka.minibatch_cka(*features, minibatch_size=8), abs=1e-4
  )


def test_corresponding_layers(result, stored):
  found = result['cka']['corresponding']
  assert np.shape(found['linear_cka']) == (5, 3, 3)
  assert np.shape(found['minibatch_cka']) == (5, 3, 3)
  pair = [stored[i]['layers']['pooled/block2'] for i in (0, 2)]
  assert found['linear_cka'][1][0][2] == pytest.approx(
    cka.linear_cka(*pair), abs=1e-5
  )
  features = result['cka']['features']
  assert features['num_examples'] == features['num_rbf_examples'] == 355
  pair = [stored[i]['layers']['pooled/features'] for i in (0, 2)]
  for name, expected in [
    ('linear_cka', cka.linear_cka(*pair)),
    ('debiased_cka', cka.linear_cka(*pair, debiased=True)),
    ('rbf_cka', cka.rbf_cka(*pair)),
  ]:
    assert features[name][0][2] == pytest.approx(expected), name


def test_again_without_a_forward_pass(runs, result, tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise AssertionError('a forward pass')

  monkeypatch.setattr(outputs, 'Evaluator', fail)
  again = compare_runs(runs, output=str(tmp_path), minibatch_size=8)
  assert again == result


def test_mixtures_have_the_size_of_the_smaller_group():
  """Three and two seeds: two members, one of each; three: both ways."""
  assert _shares(8) == [(4, 4)]
  assert _shares(3) == [(1, 2), (2, 1)]
  assert _shares(2) == _shares(1) == [(1, 1)]
  rng = np.random.default_rng(0)
  members = special.log_softmax(rng.normal(size=(2, 3, 20, 4)), axis=-1)
  labels = rng.integers(0, 4, 20)
  groups = [Group('a', (0, 1, 2)), Group('b', (3, 4, 5))]
  predictions = Predictions(
    labels=labels,
    top1=members.reshape(6, 20, 4).argmax(-1).T,
    top1_accuracy=np.zeros(6),
    whole=[Ensemble.create(ensemble_log_probs(m), labels) for m in members],
    parts=[nested_ensembles(m, {1, 2, 3}) for m in members],
  )
  found = compare_ensembles(groups, predictions)
  a, b = np.exp(members)
  nlls = [
    -np.log(mixed[np.arange(20), labels]).mean()
    for mixed in ((a[0] + b[0] + b[1]) / 3, (a[0] + a[1] + b[0]) / 3)
  ]
  assert found['nll'][0, 1] == pytest.approx(np.mean(nlls), rel=1e-5)
  alone = -np.log(a.mean(0)[np.arange(20), labels]).mean()
  assert found['nll'][0, 0] == pytest.approx(alone, rel=1e-5)


def test_ensembles_of_saturated_sigmoids_tell_classes_apart():
  """In float32 two of the classes tie, and the lower would always win."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 200).astype(np.int32)
  members = rng.uniform(-25, -20, size=(2, 200, 3))
  members[:, np.arange(200), labels] = rng.uniform(22, 25, size=(2, 200))
  other = (labels + rng.integers(1, 3, 200)) % 3
  members[:, np.arange(200), other] = rng.uniform(16, 19, size=(2, 200))
  members = members.astype(np.float32)
  sigmoid = create_objective('sigmoid')
  rounded = [scoring.log_probs_of(sigmoid, logits) for logits in members]
  assert np.mean(np.mean(rounded, axis=0).argmax(1) == labels) < 0.8
  exact = [
    scoring.log_probs_of(sigmoid, logits, exact=True) for logits in members
  ]
  probs = special.expit(members.astype(np.float64))
  probs /= probs.sum(axis=2, keepdims=True)
  np.testing.assert_allclose(exact, np.log(probs), rtol=1e-12, atol=1e-15)
  ensemble = Ensemble.create(ensemble_log_probs(exact), labels)
  assert ensemble.accuracy == np.mean(probs.mean(0).argmax(1) == labels) == 1.0
  found = nested_ensembles(exact, {1, 2})
  for size in (1, 2):
    assert np.mean(found[size].argmax(1) == labels) == 1.0


def test_splits_of_any_kind_have_first_examples(runs, tmp_path):
  for split, num_examples in [
    ('train[:200]', 96),
    ('holdout', 96),
    ('test[-30:]+train[:170]', 96),
  ]:
    result = compare_runs(
      runs[:2],
      output=str(tmp_path),
      split=split,
      num_cka_examples=100,
      minibatch_size=32,
    )
    assert result['cka']['num_examples'] == num_examples
    assert result['cka']['features']['num_examples'] == num_examples


def test_too_few_examples_are_refused_before_a_pass(
  runs, tmp_path, monkeypatch
):
  monkeypatch.delattr(outputs, 'Evaluator')
  with pytest.raises(ValueError, match='smaller --minibatch_size'):
    compare_runs(
      runs, output=str(tmp_path), split='test[:40]', num_cka_examples=20
    )


def test_runs_that_cannot_be_compared(runs, tmp_path):
  with pytest.raises(ValueError, match='needs two runs or more; got 1'):
    compare_runs(runs[:1], output=str(tmp_path))
  with pytest.raises(ValueError, match='is given twice'):
    compare_runs([runs[0], runs[0]], output=str(tmp_path))
  with pytest.raises(
    ValueError, match='labels of --dataset=digits_low are not'
  ):
    compare_runs(runs, output=str(tmp_path), dataset='digits_low')
  copy = tmp_path / 'copy'
  shutil.copytree(runs[0], copy)
  with pytest.raises(ValueError, match='copy holds the same parameters as'):
    compare_runs([runs[0], str(copy)], output=str(tmp_path))
  other = tmp_path / 'other'
  shutil.copytree(runs[0], other)
  path = other / 'config.json'
  write_json(path, read_json(path) | {'dataset': 'cifar10'})
  with pytest.raises(ValueError, match="has dataset='cifar10'"):
    compare_runs([runs[0], str(other)], output=str(tmp_path))


def test_mismatched_examples_are_refused(runs, result, tmp_path):
  changed = tmp_path / 'changed'
  shutil.copytree(runs[1], changed)
  path = changed / 'eval' / 'digits-test' / 'predictions.npz'
  arrays = dict(np.load(path))
  arrays['id'][5] = b'another'
  np.savez(path, **arrays)
  with pytest.raises(ValueError, match='different examples: number 5'):
    compare_runs([runs[0], str(changed)], output=str(tmp_path))


def test_an_error_takes_one_line(tmp_path, root):
  result = subprocess.run(
    [sys.executable, '-m', 'lossbench.compare', str(tmp_path), 'nowhere'],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  assert 'is not a run directory' in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1
