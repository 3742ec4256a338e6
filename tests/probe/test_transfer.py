"""Transfer of a real run: protocol, oracles, files, refusals."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from configs import digits_cnn
from lossbench import build
from lossbench.data import datasets, pipeline, preprocess
from lossbench.data.examples import Examples
from lossbench.evaluation.collected import Collected
from lossbench.probe import logistic_regression as regression
from lossbench.probe import protocol
from lossbench.probe.transfer import build_image_fn, transfer_checkpoint
from lossbench.runs.checkpoints import Checkpointer, load_checkpoint
from lossbench.runs.directory import RunDirectory
from tests.faults.processes import with_devices


@pytest.fixture(scope='module')
def run(tiny_runs, tmp_path_factory):
  """A run directory of our own."""
  workdir = tmp_path_factory.mktemp('transfer') / 'tiny'
  shutil.copytree(tiny_runs['sigmoid_0'], workdir)
  return workdir


@pytest.fixture(scope='module')
def records(run):
  found = transfer_checkpoint(str(run), 'digits')
  return {record.name: record for record in found.records}


def _metrics(run, name='transfer-digits'):
  return json.loads((run / 'eval' / name / 'metrics.json').read_text())


@pytest.fixture(scope='module')
def features(run, digits_dir):
  """Features by plain `jit`, and labels, of train and test."""
  config = RunDirectory(run).read_config()
  checkpoint = load_checkpoint(RunDirectory(run), 'best')
  builder = datasets.open_dataset('digits', data_dir=digits_dir)
  classifier = build.build_classifier(config, build.build_objective(config))
  normalize_fn = build.build_normalize_fn(config)
  found = {}
  for split in ('train', 'test'):
    images, labels = pipeline.load_examples(
      Examples(builder, split), image_fn=preprocess.build_eval_image_fn(config)
    )
    endpoints = jax.jit(lambda v, x: classifier.apply(v, x, train=False))(
      checkpoint.eval_variables, normalize_fn(images)
    )
    found[split] = np.asarray(endpoints['features'], np.float64), labels
  return found


def test_accuracy_and_objective_against_scikit_learn(run, records, features):
  x, y = features['train']
  l2 = records['l2'].value
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    theirs = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000).fit(x, y)
  their_accuracy = theirs.score(*features['test'])
  assert records['top1_accuracy'].value == pytest.approx(
    their_accuracy, abs=0.005
  )
  log_probs = special.log_softmax(x @ theirs.coef_.T + theirs.intercept_, 1)
  their_objective = -log_probs[np.arange(len(y)), y].sum()
  their_objective += l2 / 2 * np.sum(theirs.coef_**2)
  # The features differ in float32's last digits.
  assert records['train_objective'].value <= their_objective * (1 + 1e-5)


def test_neighbours_against_scikit_learn(records, features):
  k = records['num_neighbours'].value
  theirs = KNeighborsClassifier(k, metric='cosine').fit(*features['train'])
  # Votes may be ties, which are not broken alike.
  assert records['knn_top1_accuracy'].value == pytest.approx(
    theirs.score(*features['test']), abs=0.02
  )


def test_l2_is_chosen_on_the_holdout_only(run, records, features):
  x, y = features['train']
  # In the order of the ids, as the binary sees them.
  held = protocol.holdout_mask(y)
  path = _metrics(run)['path']
  assert [entry['l2'] for entry in path] == list(regression.L2_VALUES)
  assert all(entry['relative_gap_bound'] <= 1e-6 for entry in path)
  assert all(np.isfinite(entry['gradient_norm']) for entry in path)
  accuracies = np.array([entry['holdout_accuracy'] for entry in path])
  equal = np.flatnonzero(accuracies == accuracies.max())
  best = min(equal, key=lambda i: path[i]['holdout_nll'])
  assert records['l2'].value == path[best]['l2']
  assert records['num_equal_l2'].value == len(equal)
  assert records['holdout_accuracy'].value == accuracies.max()
  for index in (10, best):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      theirs = LogisticRegression(
        C=1 / path[index]['l2'], tol=1e-6, max_iter=5000
      ).fit(x[~held], y[~held])
    assert theirs.score(x[held], y[held]) == pytest.approx(
      accuracies[index], abs=1.5 / held.sum()
    )


def test_files(run, records):
  metrics = _metrics(run)
  assert metrics['dataset'] == 'digits'
  assert metrics['main_metric'] == 'top1_accuracy'
  assert metrics['train_split'] == 'train'
  assert metrics['num_seen_by_network'] == 1300  # all but the holdout
  by_name = {m['name']: m for m in metrics['metrics']}
  assert by_name['top1_accuracy']['n'] == 355
  assert by_name['top1_accuracy']['direction'] == 'higher'
  assert by_name['train_objective']['n'] == 1442
  folder = run / 'eval' / 'transfer-digits'
  predictions = np.load(folder / 'predictions.npz')
  assert list(predictions['id']) == sorted(predictions['id'])
  right = predictions['prediction'] == predictions['label']
  assert np.mean(right) == pytest.approx(records['top1_accuracy'].value)
  labels = predictions['label']
  assert records['mean_class_accuracy'].value == pytest.approx(
    np.mean([right[labels == k].mean() for k in range(10)])
  )
  values = np.load(folder / 'per_example.npz')
  for prefix in ('', 'knn_', 'few_shot_1_', 'few_shot_5_', 'few_shot_10_'):
    for name in (f'{prefix}top1_accuracy', f'{prefix}mean_class_accuracy'):
      assert values[name].mean() == pytest.approx(records[name].value)
  classifier = np.load(folder / 'classifier.npz')
  assert classifier['l2'] == records['l2'].value
  assert classifier['bias'].shape == (10,)


def test_relearns_the_source_task_from_its_holdout(run):
  records = transfer_checkpoint(
    str(run), 'digits', split='holdout', step='last'
  ).records
  by_name = {record.name: record for record in records}
  assert by_name['train_objective'].n == 142
  metrics = _metrics(run, 'transfer-digits-holdout')
  assert metrics['train_split'] == 'holdout'
  assert metrics['num_seen_by_network'] == 0
  assert metrics['step'] == 40


def test_the_command_on_one_device(run, records, root):
  before = _metrics(run)
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'lossbench.transfer',
      f'--workdir={run}',
      '--dataset=digits',
      '--batch_size=100',
    ],
    cwd=root,
    env={**os.environ, 'XLA_FLAGS': with_devices(1)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert 'top1_accuracy (main)' in result.stdout
  assert 'L2 values 45/45 (100%)' in result.stderr
  after = _metrics(run)
  for old, new in zip(before['metrics'], after['metrics'], strict=True):
    if old['name'] not in ('gradient_norm', 'relative_gap_bound'):
      # Features differ in float32's last digits.
      assert new['value'] == pytest.approx(old['value'], rel=1e-3, abs=1e-2)


def test_an_error_takes_one_line(run, root):
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'lossbench.transfer',
      f'--workdir={run}',
      '--dataset=digitz',
    ],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  assert "Did you mean 'digits'?" in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
  ('arguments', 'error', 'text'),
  [
    (
      {'dataset': 'cifar10', 'data_dir': '/nowhere'},
      FileNotFoundError,
      'cifar',
    ),
    ({'step': '7'}, FileNotFoundError, 'no checkpoint of step 7'),
    ({'split': 'validation'}, ValueError, "has no split 'validation'"),
    ({'split': 'train[:1]'}, ValueError, 'at least 2 examples'),
    ({'split': 'train[:5]'}, ValueError, 'classes have no training example'),
    ({'split': 'train+test'}, ValueError, '355 examples of .* also in .test'),
    ({'split': 'test[:40]'}, ValueError, '40 examples of .* also in .test'),
    ({'batch_size': 30}, ValueError, 'not divisible by the 4 devices'),
  ],
)
def test_refusals(run, arguments, error, text):
  with pytest.raises(error, match=text):
    transfer_checkpoint(str(run), **{'dataset': 'digits', **arguments})


def test_holdout_of_another_data_set_is_refused(run, real_data_dir):
  with pytest.raises(ValueError, match="it has none of 'caltech101'"):
    transfer_checkpoint(
      str(run),
      'caltech101',
      split='holdout',
      data_dir=real_data_dir,
    )


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (np.nan, 'parameter arrays of step 40 of .* hold NaN'),
    # Finite, but the convolutions overflow.
    (3e38, 'of 1442 rows of features hold NaN or infinity'),
  ],
)
def test_broken_checkpoints_are_refused(
  tiny_runs, tmp_path, monkeypatch, value, text
):
  restore = Checkpointer.restore

  def diverged(*args):
    checkpoint = restore(*args)
    arrays = jax.tree.map(
      lambda x: np.full_like(x, value), checkpoint.arrays['ema']
    )
    return dataclasses.replace(checkpoint, arrays={'ema': arrays})

  run = tmp_path / 'tiny'
  shutil.copytree(tiny_runs['sigmoid_0'], run)
  shutil.rmtree(run / 'eval', ignore_errors=True)
  monkeypatch.setattr(Checkpointer, 'restore', diverged)
  with pytest.raises(ValueError, match=text):
    transfer_checkpoint(str(run), 'digits')


@pytest.mark.parametrize(
  ('broken', 'text'),
  [
    ('features', '1 of 20 rows of features hold NaN'),
    ('label', r'Label 3 is not a class id in \[0, 3\)'),
  ],
)
def test_broken_test_examples_are_refused(broken, text):
  rng = np.random.default_rng(0)

  def examples(num):
    return Collected(
      ids=np.arange(num),
      labels=np.arange(num, dtype=np.int32) % 3,
      arrays={'features': rng.normal(size=(num, 4)).astype(np.float32)},
    )

  train, test = examples(60), examples(20)
  if broken == 'features':
    test.arrays['features'][5, 1] = np.nan
  else:
    test.labels[7] = 3
  with pytest.raises(ValueError, match=text):
    protocol.fit_and_test(
      train, test, num_classes=3, main_metric='top1_accuracy'
    )


def test_holdout_has_the_same_share_of_every_class():
  labels = np.repeat([0, 1, 2], [10, 5, 1])
  held = protocol.holdout_mask(labels)
  assert list(np.bincount(labels[held], minlength=3)) == [2, 1, 0]
  np.testing.assert_array_equal(held, protocol.holdout_mask(labels))
  with pytest.raises(ValueError, match='leave none for a holdout'):
    protocol.holdout_mask(np.arange(4))


def test_equal_accuracies_go_to_the_lowest_cross_entropy():
  values, accuracies = [1e-3, 0.1, 1.0, 10.0], [0.5, 0.9, 0.9, 0.9]
  assert protocol.best_l2(values, accuracies, [0.1, 0.3, 0.2, 0.4]) == (1.0, 3)
  # The largest only where that is equal too.
  assert protocol.best_l2(values, accuracies, [0.1, 0.2, 0.2, 0.4]) == (1.0, 3)
  assert protocol.best_l2(values, [0.5, 0.6, 0.7, 0.9], [1, 1, 1, 9]) == (10, 1)


def test_l2_of_a_small_holdout_against_scikit_learn():
  """Many values are equal by accuracy; the cross-entropy decides."""
  rng = np.random.default_rng(4)
  labels = np.repeat([0, 1, 2], 20).astype(np.int32)
  features = (rng.normal(size=(60, 4)) + 3.5 * np.eye(3, 4)[labels]).astype(
    np.float32
  )
  examples = Collected(
    ids=np.arange(60), labels=labels, arrays={'features': features}
  )
  values = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
  records, path, _ = protocol.fit_and_test(
    examples,
    examples,
    num_classes=3,
    main_metric='top1_accuracy',
    l2_values=values,
    tolerance=1e-10,
  )
  held = protocol.holdout_mask(labels)
  scores = []
  for entry in path:
    theirs = LogisticRegression(C=1 / entry['l2'], tol=1e-10, max_iter=10_000)
    theirs.fit(features[~held].astype(np.float64), labels[~held])
    probs = theirs.predict_proba(features[held])
    nll = log_loss(labels[held], probs)
    assert entry['holdout_nll'] == pytest.approx(nll, rel=1e-4)
    scores.append((theirs.score(features[held], labels[held]), -nll))
  by_name = {record.name: record.value for record in records}
  [note] = [record.note for record in records if record.name == 'num_equal_l2']
  assert note.startswith(f'{by_name["num_equal_l2"]} of 5 L2 values have')
  assert by_name['l2'] == path[max(range(5), key=scores.__getitem__)]['l2']
  best = max(scores)[0]
  assert by_name['num_equal_l2'] == sum(s[0] == best for s in scores) > 1
  assert by_name['l2'] < max(
    value for value, s in zip(values, scores, strict=True) if s[0] == best
  )


def test_mean_class_accuracy_weighs_classes_alike():
  labels = np.array([0, 0, 0, 2])
  assert protocol.mean_class_accuracy(np.array([0, 0, 1, 2]), labels) == (
    pytest.approx((2 / 3 + 1) / 2)
  )


def test_images_of_other_data_sets_are_resized_and_cropped():
  """Shorter side to the image size, centre; grey for a grey model."""
  config = digits_cnn.get_config()
  image = np.zeros((20, 40, 3), np.uint8)
  image[:, 10:30] = 200  # the central square
  encoded = tf.io.encode_png(image)
  image_fn, _ = build_image_fn(config, 'cifar10')
  found = image_fn(encoded).numpy()
  assert found.shape == (8, 8, 1)
  assert (found == 200).all()
  config.pixel_mean = config.pixel_std = (0.5, 0.5, 0.5)
  image_fn, _ = build_image_fn(config, 'cifar10')
  found = image_fn(encoded).numpy()
  assert found.shape == (8, 8, 3)


@pytest.mark.slow
def test_per_class_mean_is_main_where_the_field_uses_it(run, real_data_dir):
  """Digits features of Caltech-101: poor, but the whole protocol."""
  records = transfer_checkpoint(
    str(run), 'caltech101', data_dir=real_data_dir
  ).records
  assert records[0].name == 'mean_class_accuracy'
  assert records[0].n == 612
  metrics = _metrics(run, 'transfer-caltech101')
  assert metrics['main_metric'] == 'mean_class_accuracy'
  assert max(e['relative_gap_bound'] for e in metrics['path']) <= 1e-6
