"""The linear probe on files of features: scikit-learn, files, refusals."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from lossbench.arrays.fitting import fit_arrays
from lossbench.fit_path import parse_l2_values
from lossbench.probe.protocol import holdout_mask
from lossbench.runs.directory import read_json

L2_VALUES = (0.01, 1.0, 30.0)


def _draw(seed, n):
  rng = np.random.default_rng(seed)
  labels = np.concatenate([np.arange(5), rng.integers(5, size=n - 5)])
  centres = np.random.default_rng(9).normal(size=(5, 8))
  features = centres[labels] + rng.normal(size=(n, 8))
  return {'features': features.astype(np.float32), 'labels': labels}


@pytest.fixture(scope='module')
def data():
  sizes = {'train': 300, 'test': 200, 'holdout': 100}
  return {name: _draw(seed, n) for seed, (name, n) in enumerate(sizes.items())}


@pytest.fixture
def paths(data, tmp_path):
  for name, arrays in data.items():
    np.savez(tmp_path / name, **arrays)
  return {name: str(tmp_path / f'{name}.npz') for name in data}


def _fit(paths, tmp_path, **more):
  return fit_arrays(
    paths['train'],
    paths['test'],
    output=str(tmp_path / 'out'),
    **{'l2_values': L2_VALUES, **more},
  )


def _theirs(x, y, l2):
  # It would fit float32 features in float32.
  theirs = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=10_000)
  return theirs.fit(x.astype(np.float64), y)


def _check_path(path, x, y, held):
  for entry in path:
    theirs = _theirs(x[~held], y[~held], entry['l2'])
    right = theirs.predict(x[held]) == y[held]
    assert entry['holdout_accuracy'] == pytest.approx(right.mean())
    losses = -theirs.predict_log_proba(x[held])[np.arange(held.sum()), y[held]]
    assert entry['holdout_nll'] == pytest.approx(losses.mean(), rel=1e-3)
    assert entry['relative_gap_bound'] <= 1e-6


def test_scikit_learn(data, paths, tmp_path):
  found = _fit(paths, tmp_path)
  x, y = data['train'].values()
  _check_path(found.path, x, y, holdout_mask(y))
  values = {record.name: record.value for record in found.records}
  theirs = _theirs(x, y, values['l2'])
  assert values['top1_accuracy'] == theirs.score(*data['test'].values())
  assert values['relative_gap_bound'] <= 1e-9
  with np.load(tmp_path / 'out' / 'classifier.npz') as classifier:
    weights, bias = classifier['weights'], classifier['bias']
  np.testing.assert_allclose(weights, theirs.coef_, atol=1e-4)
  intercept = theirs.intercept_ - theirs.intercept_.mean()
  np.testing.assert_allclose(bias, intercept, atol=1e-4)
  # Nobody has a lower objective.
  log_probs = special.log_softmax(x @ theirs.coef_.T + theirs.intercept_, 1)
  objective = -log_probs[np.arange(len(y)), y].sum()
  objective += values['l2'] / 2 * np.sum(theirs.coef_**2)
  assert values['train_objective'] <= objective * (1 + 1e-9)


def test_a_holdout_that_is_given(data, paths, tmp_path):
  """Chooses on it, then trains on it too."""
  found = _fit(paths, tmp_path, holdout_path=paths['holdout'])
  x, y = (
    np.concatenate([data['train'][name], data['holdout'][name]])
    for name in ('features', 'labels')
  )
  held = np.arange(400) >= 300
  _check_path(found.path, x, y, held)
  theirs = _theirs(x, y, found.fit.l2)
  np.testing.assert_allclose(found.fit.weights, theirs.coef_, atol=1e-4)
  assert found.num_train == 400


def test_files(data, paths, tmp_path):
  found = _fit(paths, tmp_path, main_metric='mean_class_accuracy')
  assert found.records[0].name == 'mean_class_accuracy'
  metrics = read_json(tmp_path / 'out' / 'metrics.json')
  assert metrics['metrics'] == [record.to_json() for record in found.records]
  assert metrics['path'] == found.path
  assert set(metrics['files']) == {'train', 'test'}
  with np.load(tmp_path / 'out' / 'predictions.npz') as predictions:
    right = predictions['prediction'] == data['test']['labels']
    assert (predictions['logits'].argmax(1) == predictions['prediction']).all()
  values = {record.name: record.value for record in found.records}
  assert values['top1_accuracy'] == right.mean()


def _change(paths, name, **arrays):
  with np.load(paths[name]) as stored:
    arrays = {**stored, **arrays}
  np.savez(paths[name], **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
  ('name', 'arrays', 'text'),
  [
    ('train', {'features': None}, r"has no array 'features'. It has: labels"),
    ('test', {'labels': None}, r"has no array 'labels'"),
    ('test', {'label': np.zeros(200, int)}, 'has both labels and label'),
    ('train', {'features': np.ones(300)}, r'features must be \[examples, feat'),
    ('train', {'features': np.ones((300, 0))}, r'must be .*got \(300, 0\)'),
    ('train', {'features': np.array([['a'] * 8] * 300)}, 'real numbers; got'),
    ('train', {'labels': np.zeros(299, int)}, r'labels must be \[300\], as ma'),
    ('train', {'labels': np.zeros(300)}, 'integer class ids; got dtype float'),
    (
      'test',
      {'labels': np.full(200, -1)},
      'labels has -1 in row 0, which is no',
    ),
    (
      'test',
      {'labels': np.full(200, 5)},
      'labels has class 5, of which .*train',
    ),
    ('test', {'features': np.ones((200, 9))}, 'must have the 8 columns of'),
    ('holdout', {'features': np.ones((100, 9))}, 'must have the 8 columns of'),
    (
      'train',
      {'features': np.full((300, 8), np.nan)},
      'NaN or infinity in 300',
    ),
    ('train', {'labels': np.full(300, 7)}, '7 of 8 classes have no training'),
    ('train', {'labels': np.full(300, None)}, 'labels holds Python objects, a'),
    ('test', {'ids': np.zeros(200, int)}, "ids has '0' 200 times; every"),
    ('test', {'ids': np.ones(200)}, 'ids must be strings or integers; got'),
  ],
)
def test_nonsense_is_refused(name, arrays, text, paths, tmp_path):
  _change(paths, name, **arrays)
  with pytest.raises(ValueError, match=text) as error:
    _fit(paths, tmp_path, holdout_path=paths['holdout'])
  assert f'{name}.npz' in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_files_that_are_none(paths, tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no such file'):
    _fit({**paths, 'test': str(tmp_path / 'none.npz')}, tmp_path)
  np.save(tmp_path / 'single.npy', np.ones(3))
  with pytest.raises(ValueError, match=r'is no \.npz file'):
    _fit({**paths, 'test': str(tmp_path / 'single.npy')}, tmp_path)
  for path, text in (('', "path of a file is ''"), (tmp_path, 'a directory')):
    with pytest.raises(ValueError, match=text):
      _fit({**paths, 'test': str(path) if path else ''}, tmp_path)
  with pytest.raises(
    ValueError, match=r'holds the same as --train=.*is no test'
  ):
    _fit({**paths, 'test': paths['train']}, tmp_path)
  content = (tmp_path / 'test.npz').read_bytes()
  middle = len(content) // 3
  damaged = content[:middle] + b'\0\1\2' + content[middle + 3 :]
  (tmp_path / 'test.npz').write_bytes(damaged)
  with pytest.raises(ValueError, match=r'test.npz: features is damaged: .*CRC'):
    _fit(paths, tmp_path)
  assert not (tmp_path / 'out').exists()


def test_an_output_that_is_a_file_is_refused(paths, tmp_path):
  (tmp_path / 'out').write_text('in the way')
  with pytest.raises(OSError) as error:
    _fit(paths, tmp_path)
  assert str(error.value) == (
    f'--output={tmp_path / "out"} cannot be written to: File exists. Choose a '
    'directory that you may write to.'
  )


def test_the_command(paths, tmp_path, root):
  command = [sys.executable, '-m', 'lossbench.fit_path']
  command += [f'--{name}={paths[name]}' for name in ('train', 'test')]
  command += [f'--output={tmp_path / "out"}', '--l2_values=0.01,1']
  result = subprocess.run(
    command, cwd=root, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  assert 'top1_accuracy (main)' in result.stdout
  assert 'gap at most' in result.stdout
  np.savez(paths['test'], features=np.ones((3, 8)))
  result = subprocess.run(
    command, cwd=root, capture_output=True, text=True, check=False
  )
  assert result.returncode == 1
  assert result.stderr == (
    f"Error: {paths['test']} has no array 'labels'. It has: features.\n"
  )


@pytest.mark.parametrize(
  ('text', 'why'),
  [
    ('1,a', "'a' is no number"),
    ('1,,2', "'' is no number"),
    ('1,1', 'must differ; got 1 twice'),
    ('0', 'must be positive and finite; got 0'),
    ('1,nan', 'must be positive and finite; got nan'),
    ('', 'must be positive and finite; got none'),
  ],
)
def test_l2_values_that_make_no_sense(text, why):
  with pytest.raises(ValueError, match=f'--l2_values.*{why}'):
    parse_l2_values(text.split(',') if text else [])


def test_l2_values_are_checked_before_files_are_read(tmp_path):
  nowhere = {'train': 'none.npz', 'test': 'none.npz'}
  with pytest.raises(ValueError, match=r'l2_values must be positive .* none'):
    _fit(nowhere, tmp_path, l2_values=[])
