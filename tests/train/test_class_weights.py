"""Weights of classes: scikit-learn's, files, and what the step does with them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils import class_weight

from configs import digits_cnn
from lossbench.data import datasets, labels
from lossbench.data.examples import Examples
from lossbench.objectives import create_objective
from lossbench.runs.directory import RunDirectory
from lossbench.train import class_weights, label_counts, loop
from tests.data.pictures import write_folders


@pytest.fixture
def config(digits_dir):
  config = digits_cnn.get_config('softmax')
  config.data_dir = digits_dir
  return config


def test_balanced_weights_are_those_of_scikit_learn():
  rng = np.random.default_rng(0)
  drawn = rng.choice(6, 500, p=np.arange(1, 7) / 21)
  found = class_weights.balanced(np.bincount(drawn))
  expected = class_weight.compute_class_weight(
    'balanced', classes=np.arange(6), y=drawn
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert found[drawn].mean() == pytest.approx(1, rel=1e-6)


def test_balanced_weights_need_an_example_of_every_class():
  with pytest.raises(ValueError, match=r'class 1 has no .*\(2 of 4 classes'):
    class_weights.balanced(np.array([1, 0, 2, 0]))
  with pytest.raises(ValueError, match=r'label 4, outside \[0, 4\)'):
    label_counts.count_labels(np.array([0, 4]), num_classes=4)


def test_labels_are_counted_where_a_run_trains(
  config, tmp_path, caplog, monkeypatch
):
  builder = datasets.open_dataset('digits', data_dir=config.data_dir)
  examples = Examples(builder, 'train[:1300]')
  expected = [r['label'] for r in builder.as_dataset(split='train[:1300]')]
  np.testing.assert_array_equal(
    np.sort(labels.read_labels(examples)), np.sort(expected)
  )
  config.class_weights = 'balanced'
  monkeypatch.setattr(label_counts.LOGGER, 'propagate', True)
  with caplog.at_level('INFO', logger='lossbench'):
    counts = class_weights.build_label_counts(
      config,
      examples,
      directory=RunDirectory(tmp_path),
      dataset=datasets.describe(builder),
    )
  found = class_weights.build_class_weights(config, counts)
  assert 'Counting the labels of train[:1300].' in caplog.messages
  np.testing.assert_allclose(
    found,
    class_weight.compute_class_weight(
      'balanced', classes=np.arange(10), y=np.array(expected)
    ),
    rtol=1e-6,
  )
  root = write_folders(tmp_path / 'x', {'train/a': 3, 'train/b': 2})
  builder = datasets.open_dataset(f'folder:{root}', data_dir='')
  left = Examples(builder, 'train', bad_ids=('train/a/001.png',))
  assert sorted(labels.read_labels(left)) == [0, 0, 1, 1]


@pytest.fixture
def counted_splits(monkeypatch):
  """The splits whose labels were read."""
  splits, read_labels = [], labels.read_labels

  def read(examples):
    splits.append(examples.split)
    return read_labels(examples)

  monkeypatch.setattr(labels, 'read_labels', read)
  return splits


def test_labels_are_counted_once_and_again_for_other_data(
  config, tmp_path, counted_splits
):
  builder = datasets.open_dataset('digits', data_dir=config.data_dir)
  directory = RunDirectory(tmp_path)

  def find(split='train[:1300]', *, bad_ids=(), **dataset):
    return label_counts.find_label_counts(
      Examples(builder, split, bad_ids=bad_ids),
      num_classes=10,
      directory=directory,
      dataset={**datasets.describe(builder), **dataset},
    )

  record = find()
  label_counts.write_label_counts(directory, record)
  assert find() == record
  assert counted_splits == ['train[:1300]']
  find('train[:1200]')
  find(bad_ids=('digits-train.tfrecord-00000-of-00001__0',))
  find(fingerprint='00000000')
  assert len(counted_splits) == 4
  text = directory.label_counts_path.read_text()
  count = record['counts'][0]
  directory.label_counts_path.write_text(
    text.replace(f'{count}', f'{count + 1}')
  )
  assert find() == record
  assert len(counted_splits) == 5


def _write(path, content):
  if path.suffix == '.npy':
    np.save(path, content)
  else:
    path.write_text(
      content if isinstance(content, str) else json.dumps(content)
    )
  return str(path)


def test_weights_come_from_files_as_they_are(tmp_path):
  for name in ('w.json', 'w.npy'):
    path = _write(tmp_path / name, [0.5, 2, 0])
    found = class_weights.read_weights(path, num_classes=3)
    np.testing.assert_array_equal(found, np.float32([0.5, 2, 0]))


@pytest.mark.parametrize(
  ('content', 'text'),
  [
    ([1, 2], r'holds int64 \[2\]; expected 3 numbers'),
    ([[1, 2, 3]], r'int64 \[1, 3\]'),
    (['1', '2', '3'], 'expected 3 numbers'),
    ([1, -1, 1], 'has -1 for class 1'),
    ([1, float('nan'), 1], 'has nan for class 1'),
    ([0, 0, 0], 'no weight above 0'),
    ({'a': 1}, 'expected 3 numbers'),
    ('[1, 2', 'neither a JSON list nor an .npy array'),
  ],
)
def test_files_of_anything_else_are_refused(tmp_path, content, text):
  path = _write(tmp_path / 'w.json', content)
  with pytest.raises(ValueError, match=text) as error:
    class_weights.read_weights(path, num_classes=3)
  assert f'--config.class_weights={path}' in str(error.value)
  assert '\n' not in str(error.value)


def test_pickles_and_missing_files_are_refused(tmp_path):
  np.save(tmp_path / 'w.npy', np.array([{}], object), allow_pickle=True)
  with pytest.raises(ValueError, match='neither a JSON list nor'):
    class_weights.read_weights(str(tmp_path / 'w.npy'), num_classes=3)
  with pytest.raises(FileNotFoundError, match='there is no such file'):
    class_weights.read_weights(str(tmp_path / 'no.npy'), num_classes=3)


@pytest.mark.parametrize(
  'spec', ['softmax', 'sigmoid+logit_penalty', 'label_smoothing']
)
def test_the_loss_of_an_example_is_multiplied_and_no_penalty(spec):
  hparams = {'logit_penalty': {'beta': 0.1}, 'label_smoothing': {'alpha': 0.2}}
  objective = create_objective(
    spec, {k: v for k, v in hparams.items() if k in spec}
  )
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
  # One-hot, and mixtures of two classes.
  targets = jnp.asarray(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.25, 0.75, 0], [0, 0.5, 0.5]],
    jnp.float32,
  )
  weights = jnp.asarray([1.0, 3.0, 0.5])
  plain = objective.loss_terms(logits, targets)
  weighted = objective.loss_terms(logits, targets, class_weights=weights)
  loss, *penalties = plain
  np.testing.assert_allclose(
    weighted[loss], plain[loss] * np.array([1, 3, 0.5, 2.5, 1.75]), rtol=1e-6
  )
  for name in penalties:
    np.testing.assert_array_equal(weighted[name], plain[name])


def test_weighted_gradients_are_those_of_scikit_learns_sample_weights():
  """Of softmax cross-entropy: (p - t) w / N, whatever the other weights are."""
  objective = create_objective('softmax')
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
  drawn = np.array([0, 0, 0, 1, 2, 3])
  targets = jax.nn.one_hot(drawn, 4)
  weights = class_weights.balanced(np.bincount(drawn))

  def loss_fn(logits):
    terms = objective.loss_terms(logits, targets, class_weights=weights)
    return jnp.mean(terms['softmax'])

  sample = class_weight.compute_sample_weight('balanced', drawn)
  expected = (jax.nn.softmax(logits) - targets) * sample[:, None] / 6
  np.testing.assert_allclose(jax.grad(loss_fn)(logits), expected, atol=1e-6)


def test_equal_weights_train_as_none(config, tmp_path, counted_splits):
  """And a file that changes meanwhile is noticed; labels are counted once."""
  config.model.width = 4
  config.num_epochs = 1.0
  config.log_every_steps = 1000
  config.num_holdout = 1300  # few to train on

  def train(name, weights):
    config.class_weights = weights
    loop.train(config, workdir=str(tmp_path / name))
    return json.loads((tmp_path / name / 'history.json').read_text())[-1]['nll']

  path = _write(tmp_path / 'w.npy', np.ones(10))
  plain, ones = train('plain', ''), train('ones', path)
  assert ones == pytest.approx(plain, rel=1e-6)
  _write(tmp_path / 'w.npy', np.arange(10))
  with pytest.raises(ValueError, match='class weights in a file are'):
    train('ones', path)
  for _ in range(2):
    train('balanced', 'balanced')
  assert counted_splits == ['train[:142]']
