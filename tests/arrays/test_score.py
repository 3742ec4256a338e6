"""Scores of files: naive formulas, evaluate's own numbers, refusals."""

import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.metrics import roc_auc_score

from lossbench.arrays import mapping, scored
from lossbench.arrays.scores import (
  Named,
  open_models,
  parse_named,
  score_models,
)
from lossbench.comparison import printing
from lossbench.comparison.runs import compare_runs
from lossbench.evaluation import chunks
from lossbench.evaluation.checkpoint import evaluate_checkpoint
from lossbench.evaluation.collected import random_order
from lossbench.evaluation.outputs import RunOutputs
from lossbench.metrics import cka
from lossbench.objectives import create_objective
from lossbench.report.figures import cka as figure
from lossbench.report.records import NotRun
from lossbench.runs.directory import read_json
from lossbench.score import parse_hparams

K, N, M = 7, 400, 9
_UNIFORM = np.log(np.full((N, K), 1 / K))


def _draw(seed, n=N, noise=1.0):
  """Outputs of a model whose features are those of classes, and noise."""
  rng = np.random.default_rng(seed)
  labels = np.concatenate([np.arange(K), rng.integers(K, size=n - K)])
  kernel = np.random.default_rng(99).normal(size=(M, K))
  features = np.maximum(kernel.T[labels] + noise * rng.normal(size=(n, M)), 0)
  maps = rng.normal(size=(n, 3, 3, 2)) + labels[:, None, None, None] / 4
  return {
    'logits': (2 * features @ kernel).astype(np.float32),
    'labels': labels,
    'ids': rng.permutation(n),
    'features': features.astype(np.float32),
    'kernel': kernel,
    'layer/block1': maps.astype(np.float32),
  }


def _score(path, *files, output='out', **more):
  """Saves files, scores those that are predictions."""
  named = []
  for name, arrays in files:
    np.savez(path / f'{name}.npz', **arrays)
    named.append(Named('', str(path / f'{name}.npz')))
  return score_models(
    open_models(named, **more),
    output=str(path / output),
    command='python -m lossbench.score',
    num_cka_examples=300,
    minibatch_size=8,
  )


def _values(records):
  return {(record.name, record.endpoint): record.value for record in records}


def _by_example(log_probs, labels):
  rows = np.arange(len(labels))
  confidence, correct = np.exp(log_probs.max(1)), log_probs.argmax(1) == labels
  bins = np.ceil(confidence * 15).astype(int)
  return {
    'nll': -log_probs[rows, labels].mean(),
    'ece': sum(
      abs(correct[bins == b].mean() - confidence[bins == b].mean())
      * np.mean(bins == b)
      for b in set(bins)
    ),
  }


def _best_temperature(log_probs, labels):
  def nll(log_temperature):
    scaled = special.log_softmax(log_probs / np.exp(log_temperature), axis=1)
    return -scaled[np.arange(len(labels)), labels].mean()

  return np.exp(optimize.minimize_scalar(nll, bracket=(-1, 1), tol=1e-10).x)


def _expected_predictions(arrays, calibration):
  logits = arrays['logits'].astype(np.float64)
  labels = arrays['labels']
  log_probs = special.log_softmax(logits, axis=1)
  other = special.log_softmax(calibration['logits'].astype(np.float64), axis=1)
  fitted = {
    '': _best_temperature(log_probs, labels),
    'held_out_': _best_temperature(other, calibration['labels']),
  }
  one_hot = np.eye(K)[labels]
  expected = {
    'top1_accuracy': np.mean(logits.argmax(1) == labels),
    'top5_accuracy': np.mean(
      [k in row.argsort()[-5:] for row, k in zip(logits, labels, strict=True)]
    ),
    'brier_score': np.mean(np.sum((np.exp(log_probs) - one_hot) ** 2, axis=1)),
    **_by_example(log_probs, labels),
  }
  for prefix, temperature in fitted.items():
    tempered = special.log_softmax(log_probs / temperature, axis=1)
    expected[f'{prefix}temperature'] = temperature
    for name, value in _by_example(tempered, labels).items():
      expected[f'{prefix}tempered_{name}'] = value
  return expected


def _expected_collapse(arrays):
  """NC1 and NC4 by loops, and directions by an SVD."""
  x, labels = arrays['features'].astype(np.float64), arrays['labels']
  means = np.stack([x[labels == k].mean(0) for k in range(K)])
  within = np.cov((x - means[labels]).T, bias=True)
  between = np.cov(means.T, bias=True)
  squares = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
  nearest = ((x[:, None] - means[None]) ** 2).sum(2).argmin(1)
  return {
    'nc1': np.trace(within @ np.linalg.pinv(between, rtol=1e-10)) / K,
    'nc4': np.mean(nearest != arrays['logits'].argmax(1)),
    'participation_ratio': squares.sum() ** 2 / (squares**2).sum(),
  }


def _separation(x, labels):
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  distance = 1 - x @ x.T
  rows = [np.flatnonzero(labels == k) for k in range(K)]
  pair = [[distance[np.ix_(a, b)].mean() for b in rows] for a in rows]
  return 1 - np.mean(np.diag(pair)) / np.mean(pair)


@pytest.fixture(scope='module')
def single(tmp_path_factory):
  path = tmp_path_factory.mktemp('single')
  files = {
    'model': _draw(0),
    'calibration': _draw(1, 100, noise=2.0),
    'noise': _draw(2, 150, noise=5.0),
  }
  for name in ('calibration', 'noise'):
    np.savez(path / f'{name}.npz', **files[name])
  noise = Named('', str(path / 'noise.npz'))
  found = _score(
    path,
    ('model', files['model']),
    calibration=[str(path / 'calibration.npz')],
    ood=[noise],
    shifted=[noise._replace(name='shifted')],
  )
  return path, files, found


def test_predictions_by_naive_formulas(single):
  _, files, found = single
  values = _values(found.records[0])
  expected = _expected_predictions(files['model'], files['calibration'])
  for name, value in expected.items():
    assert values[name, None] == pytest.approx(value, rel=1e-4, abs=1e-6), name
  assert found.comparison is None


def test_representations_by_naive_formulas(single):
  _, files, found = single
  values = _values(found.records[0])
  arrays = files['model']
  for name, value in _expected_collapse(arrays).items():
    assert values[name, None] == pytest.approx(value, rel=1e-4), name
  pooled = arrays['layer/block1'].astype(np.float64).mean((1, 2))
  for endpoint, x in (
    ('block1', pooled),
    ('features', arrays['features'].astype(np.float64)),
    ('logits', arrays['logits'].astype(np.float64)),
  ):
    assert values['class_separation', endpoint] == pytest.approx(
      _separation(x, arrays['labels']), abs=1e-5
    )
  assert values['nonzero_fraction', 'features'] == pytest.approx(
    np.mean(arrays['features'] != 0), abs=1e-6
  )
  assert values['nonzero_fraction', 'block1'] == 1


def test_detection_by_scikit_learn(single):
  _, files, found = single
  own, other = (
    special.softmax(files[name]['logits'].astype(np.float64), axis=1).max(1)
    for name in ('model', 'noise')
  )
  energies = [
    special.logsumexp(files[name]['logits'].astype(np.float64), axis=1)
    for name in ('model', 'noise')
  ]
  is_own = np.repeat([1, 0], [N, 150])
  [others] = found.others
  for name in ('noise', 'shifted'):
    values = _values(others[name])
    assert values['max_probability_auroc', None] == pytest.approx(
      roc_auc_score(is_own, np.concatenate([own, other])), abs=1e-4
    )
    assert values['energy_auroc', None] == pytest.approx(
      roc_auc_score(is_own, np.concatenate(energies)), abs=1e-6
    )
  assert ('top1_accuracy', None) not in _values(others['noise'])
  right = files['noise']['logits'].argmax(1) == files['noise']['labels']
  assert _values(others['shifted'])['top1_accuracy', None] == right.mean()


def test_files_are_those_of_an_evaluation(single):
  path, files, found = single
  scores = read_json(path / 'out' / 'score.json')
  [run] = scores['runs']
  assert run['name'] == 'predictions/model/seed0'
  directory = path / 'out' / 'runs' / run['name'] / 'eval' / 'predictions-test'
  metrics = read_json(directory / 'metrics.json')
  assert metrics['metrics'] == [r.to_json() for r in found.records[0]]
  assert metrics['checkpoint'] == run['wanted']['checkpoint']
  with np.load(directory / 'per_example.npz') as values:
    assert list(values['id']) == sorted(values['id'])
    for name, value in _values(found.records[0]).items():
      name = '/'.join(filter(None, name))
      if name in values:
        assert values[name].mean() == pytest.approx(value, rel=1e-5), name
  with np.load(directory / 'curves.npz') as curves:
    np.testing.assert_allclose(
      curves['kernel_singular_values'],
      np.linalg.svd(files['model']['kernel'].T, compute_uv=False),
      rtol=1e-5,
    )


def test_log_probabilities_are_those_of_a_softmax(single, tmp_path):
  _, files, found = single
  arrays = files['model']
  shuffled = np.random.default_rng(0).permutation(N)
  log_probs = special.log_softmax(arrays['logits'].astype(np.float64), axis=1)
  np.savez(tmp_path / 'noise.npz', log_probs=np.log(np.full((5, K), 1 / K)))
  again = _score(
    tmp_path,
    (
      'log_probs',
      {
        'log_probs': log_probs[shuffled],
        'label': arrays['labels'][shuffled],
        'id': arrays['ids'][shuffled],
      },
    ),
    ood=[Named('', str(tmp_path / 'noise.npz'))],
  )
  values, expected = _values(again.records[0]), _values(found.records[0])
  assert ('top1_accuracy', None) in values
  for key, value in values.items():
    if not key[0].startswith('held_out'):  # here of either half
      assert value == pytest.approx(expected[key], rel=1e-4), key
  by_name = {r.name: r for r in again.others[0]['noise']}
  assert by_name['max_probability_auroc'].value is not None
  assert 'all have the energy 0' in by_name['energy_auroc'].note


def test_nothing_is_prepared_for_sets_that_are_not_there(tmp_path, monkeypatch):
  monkeypatch.delattr(scored.scoring, 'Detector')
  [others] = _score(tmp_path, ('model', _draw(0))).others
  assert others == {}


def test_examples_without_ids_are_numbered_and_stay_in_order(tmp_path):
  arrays = _without(_draw(0), 'ids')
  np.savez(tmp_path / 'model.npz', **arrays)
  [model] = open_models([Named('', str(tmp_path / 'model.npz'))])
  found = model.outputs.read(['scores'])
  assert list(found.ids[[0, 9, 10]]) == [b'0', b'9', b'10']
  np.testing.assert_array_equal(found.labels, arrays['labels'])
  np.testing.assert_array_equal(found.arrays['scores'], arrays['logits'])


def test_sets_that_are_given_no_more_are_gone(tmp_path):
  arrays = _draw(0)
  np.savez(tmp_path / 'noise.npz', logits=np.zeros((5, K)))
  noise = Named('', str(tmp_path / 'noise.npz'))
  _score(tmp_path, ('model', arrays), ood=[noise])
  [stale] = (tmp_path / 'out').rglob('noise-test')
  _score(tmp_path, ('model', arrays))
  assert not stale.exists()
  assert list((tmp_path / 'out').rglob('predictions-test'))


@pytest.mark.parametrize('name', ['.', '..', 'a/b', '', 'größe'])
def test_names_are_those_of_directories(name, tmp_path):
  with pytest.raises(ValueError, match='is no name'):
    parse_named(f'{name}=a.npz', flag='predictions')


@pytest.fixture(scope='module')
def runs(tiny_runs, tmp_path_factory):
  """Two seeds that `evaluate` has evaluated."""
  root = tmp_path_factory.mktemp('runs')
  for name in ('sigmoid_0', 'sigmoid_1'):
    shutil.copytree(tiny_runs[name], root / name)
    evaluate_checkpoint(str(root / name), ood=False)
  return root


def test_what_evaluate_wrote_gives_its_numbers(runs, tmp_path):
  """Predictions with the run's holdout, and features with its kernel."""
  run = runs / 'sigmoid_0'
  expected = {
    (m['name'], m['endpoint']): m['value']
    for m in read_json(run / 'eval' / 'digits-test' / 'metrics.json')['metrics']
  }
  outputs = RunOutputs(run)
  outputs.predictions('digits', 'holdout')
  where = dict(objective=create_objective('sigmoid'))
  files = {
    kind: dict(np.load(run / 'eval' / f'digits-{split}' / f'{name}.npz'))
    for kind, split, name in (
      ('predictions', 'test', 'predictions'),
      ('holdout', 'holdout', 'predictions'),
      ('features', 'test', 'features'),
    )
  }
  np.savez(tmp_path / 'holdout.npz', **files['holdout'])
  found = {}
  for name, arrays in (
    ('predictions', files['predictions']),
    ('features', {**files['features'], 'kernel': outputs.kernel}),
  ):
    [records] = _score(
      tmp_path,
      (name, arrays),
      output=name,
      calibration=[str(tmp_path / 'holdout.npz')],
      **where,
    ).records
    found |= _values(records)
  of_layers = {key for key in expected if (key[1] or '').startswith('block')}
  assert found.keys() == expected.keys() - of_layers
  for key, value in found.items():
    assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-6), key


def test_files_of_runs_compare_like_the_runs(runs, tmp_path):
  expected = compare_runs(
    [str(runs / name) for name in ('sigmoid_0', 'sigmoid_1')],
    output=str(tmp_path / 'comparison'),
    with_cka=False,
  )
  named = [
    Named('sigmoid', str(runs / name / 'eval' / 'digits-test' / 'features.npz'))
    for name in ('sigmoid_0', 'sigmoid_1')
  ]
  found = score_models(
    open_models(named, objective=create_objective('sigmoid')),
    output=str(tmp_path / 'out'),
    command='',
    num_cka_examples=1000,
    minibatch_size=8,
  ).comparison
  for part in ('agreement', 'clustering', 'ensembles'):
    assert found[part].keys() == expected[part].keys()
    for name, value in expected[part].items():
      if name == 'objectives':
        assert found[part][name] == value
      else:
        np.testing.assert_allclose(
          np.array(found[part][name], float), np.array(value, float), rtol=1e-6
        )
  assert [run['seed'] for run in found['runs']] == [0, 1]


def test_layers_of_files_by_plain_cka(tmp_path):
  models = [_draw(seed) for seed in (0, 1)]
  for name in ('ids', 'labels'):
    models[1][name] = models[0][name]
  found = _score(
    tmp_path, *[(f'm{i}', model) for i, model in enumerate(models)]
  ).comparison
  ids = np.sort(models[0]['ids'].astype('S'))
  chosen = random_order(ids)[:296]  # of 300, whole minibatches, as of runs
  rows = np.argsort(models[0]['ids'].astype('S'))[chosen]
  corresponding = found['cka']['corresponding']
  assert corresponding['endpoints'] == ['block1', 'features', 'logits']
  for layer, name in enumerate(('layer/block1', 'features', 'logits')):
    a, b = models[0][name][rows], models[1][name][rows]
    pooled = [x.reshape(296, -1, x.shape[-1]).mean(1) for x in (a, b)]
    assert corresponding['linear_cka'][layer][0][1] == pytest.approx(
      cka.linear_cka(*pooled), abs=1e-5
    )
    assert corresponding['minibatch_cka'][layer][0][1] == pytest.approx(
      cka.minibatch_cka(a, b, minibatch_size=8), abs=1e-4
    )
  features = [models[i]['features'][rows] for i in (0, 1)]
  assert found['cka']['features']['linear_cka'][0][1] == pytest.approx(
    cka.linear_cka(*features)
  )
  assert found['ensembles']['objectives'] == ['m0', 'm1']


@pytest.mark.parametrize(
  ('names', 'left', 'note'),
  [
    (
      ('layer/block1', 'features', 'kernel'),
      ['layers', 'num_examples', 'minibatch_size'],
      'CKA of features is left out: .*m1.npz has none',
    ),
    (
      ('layer/block1', 'features', 'kernel', 'logits'),
      [],
      'CKA is left out: .*m1.npz has log_probs alone',
    ),
  ],
)
def test_cka_that_is_left_out_is_noted(names, left, note, tmp_path, capsys):
  models = [_draw(seed) for seed in (0, 1)]
  for name in ('ids', 'labels'):
    models[1][name] = models[0][name]
  models[1] = _without(models[1], *names)
  if 'logits' in names:
    models[1]['log_probs'] = _UNIFORM
  found = _score(
    tmp_path, *[(f'm{i}', model) for i, model in enumerate(models)]
  ).comparison
  assert set(found.get('cka', [])) <= set(left)
  assert re.search(note, ' '.join(found['notes']))
  printing.print_tables(found)
  assert 'is left out:' in ' '.join(capsys.readouterr().out.split())
  study = types.SimpleNamespace(
    comparison=lambda group: types.SimpleNamespace(record=found),
    comparison_commands={},
  )
  with pytest.raises(NotRun, match=note):
    figure.draw(study, 'predictions')


def test_layers_are_never_in_memory_whole(tmp_path, monkeypatch):
  """And in parts they have the numbers that they have in one piece."""
  models = [_draw(seed) for seed in (0, 1)]
  for seed, model in enumerate(models):
    model |= {name: models[0][name] for name in ('ids', 'labels')}
    maps = np.random.default_rng(seed).normal(size=(N, 8, 8, 16))
    model['layer/block1'] = maps.astype(np.float32)  # 4 KiB an example
  files = [(f'm{i}', model) for i, model in enumerate(models)]
  whole = _score(tmp_path, *files, output='whole')
  read, sizes = mapping.Rows.__getitem__, []

  def record(rows, index):
    found = read(rows, index)
    if found.ndim == 4:
      sizes.append(len(found))
    return found

  monkeypatch.setattr(mapping.Rows, '__getitem__', record)
  monkeypatch.setattr(chunks, '_MAX_BYTES', 2**17)
  parts = _score(tmp_path, *files, output='parts')
  assert max(sizes) == 32
  for of_whole, of_parts in zip(whole.records, parts.records, strict=True):
    values = _values(of_parts)
    for key, value in _values(of_whole).items():
      assert values[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
  for name in ('linear_cka', 'minibatch_cka'):
    np.testing.assert_allclose(
      *(x.comparison['cka']['corresponding'][name] for x in (whole, parts)),
      atol=1e-5,
    )


@pytest.mark.parametrize(
  ('arrays', 'text'),
  [
    ({'logits': None}, 'has neither logits nor log_probs. It has: labels'),
    ({'log_probs': _UNIFORM}, 'has both logits and log_probs'),
    ({'logits': np.zeros(N)}, r'logits must be \[examples, classes\]; got'),
    ({'logits': np.zeros((N, 1))}, r'of two classes or more; got \(400, 1\)'),
    ({'logits': np.full((N, K), np.nan)}, 'NaN or infinity in 400 of 400 rows'),
    ({'logits': np.full((N, K), 1e39)}, 'NaN or infinity in 400 of 400 rows'),
    ({'logits': np.zeros((N, K), complex)}, 'real numbers; got dtype complex'),
    ({'labels': None}, "has no array 'labels'"),
    ({'labels': np.full(N, K)}, r'labels has 7 in row 0, which is no .*\[0, 7'),
    ({'labels': np.zeros(N - 1, int)}, r'labels must be \[400\], as many as l'),
    ({'labels': np.zeros(N)}, 'labels must be integer class ids'),
    ({'ids': np.array([None] * N)}, 'ids holds Python objects, a pickle'),
    ({'features': np.ones((N - 1, M))}, 'features must have 400 rows, as many'),
    ({'kernel': np.ones((K, M))}, r'kernel must be .*features = 9.*PyTorch'),
    ({'features': None}, 'kernel is of features, which the file lacks'),
    ({'layer/a/b': np.ones((N, 2))}, 'layer/a/b is no name of a layer'),
    ({'layer/größe': np.ones((N, 2))}, 'layer/größe is no name of a layer'),
    ({'layer/logits': np.ones((N, 2))}, 'layer/logits is no name of a layer'),
    ({'layer/x': np.ones(N)}, r'layer/x must be \[examples, ...\]; got'),
  ],
)
def test_nonsense_is_refused(arrays, text, tmp_path):
  whole = {**_draw(0), **arrays}
  whole = {name: value for name, value in whole.items() if value is not None}
  with pytest.raises(ValueError, match=text) as error:
    _score(tmp_path, ('model', whole))
  assert 'model.npz' in str(error.value)
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('log_probs', 'text'),
  [
    (np.zeros((N, K)) + 0.5, 'has 0.5 in row 0, and log-probabilities are at'),
    (np.zeros((N, K)), 'the probabilities of row 0 sum to 7'),
    (_UNIFORM - 1, 'the probabilities of row 0 sum to 0.367'),
    (np.full((N, K), -np.inf), 'the probabilities of row 0 sum to 0'),
    (np.full((N, K), np.nan), 'has NaN or infinity in 400 of 400'),
  ],
)
def test_log_probabilities_that_are_none(log_probs, text, tmp_path):
  arrays = {'log_probs': log_probs, 'labels': np.zeros(N, int)}
  with pytest.raises(ValueError, match=f'model.npz: log_probs .*{text}'):
    _score(tmp_path, ('model', arrays))


def _without(arrays, *names):
  return {name: value for name, value in arrays.items() if name not in names}


@pytest.mark.parametrize(
  ('change_fn', 'text'),
  [
    (lambda a: {**a, 'ids': a['ids'] + 1}, "ids differs .* b'1' where .* b'0'"),
    (lambda a: _without(a, 'ids'), 'other.npz: ids is missing, and the others'),
    (
      lambda a: {**a, 'labels': np.roll(a['labels'], 1)},
      'other.npz: labels differs from that of .*model.npz in',
    ),
    (lambda a: _draw(1, N - 1), 'logits is of 399 examples, and logits of'),
    (
      lambda a: {**_without(a, 'kernel'), 'logits': np.ones((N, K + 1))},
      'logits has 8 classes, and logits of .*model.npz 7',
    ),
    (lambda a: a, 'it is a copy, not another model'),
  ],
)
def test_files_that_do_not_fit_together(change_fn, text, tmp_path):
  arrays = _draw(0)
  with pytest.raises(ValueError, match=text.replace('the others', 'the other')):
    _score(tmp_path, ('model', arrays), ('other', change_fn(arrays)))
  assert not (tmp_path / 'out').exists()


def test_flags_that_do_not_fit_together(single, tmp_path):
  path, _, _ = single
  model = Named('', str(path / 'model.npz'))
  other = str(path / 'calibration.npz')
  for arguments, text in (
    ({'calibration': [other, other]}, 'is given 2 times for 1 --predictions'),
    ({'ood': [Named('x', other)] * 2}, "--ood: 'x' is given 2 times for 1"),
    ({'calibration': [model.path]}, 'holds the same as --predictions='),
  ):
    with pytest.raises(ValueError, match=text):
      open_models([model], **arguments)
  shutil.copy(model.path, tmp_path / 'model.npz')
  twins = [model, Named('', str(tmp_path / 'model.npz'))]
  with pytest.raises(ValueError, match='have the same name'):
    open_models(twins)
  models = open_models([model], ood=[Named('predictions', other)])
  with pytest.raises(
    ValueError, match="Two data sets are called 'predictions'"
  ):
    score_models(
      models,
      output=str(tmp_path / 'out'),
      command='',
      num_cka_examples=4,
      minibatch_size=4,
    )
  (tmp_path / 'study.json').touch()
  with pytest.raises(ValueError, match=r'has a study\.json: it is a study'):
    score_models(
      open_models([model]),
      output=str(tmp_path),
      command='',
      num_cka_examples=4,
      minibatch_size=4,
    )
  (tmp_path / 'file').touch()
  with pytest.raises(OSError) as error:
    score_models(
      open_models([model]),
      output=str(tmp_path / 'file'),
      command='',
      num_cka_examples=4,
      minibatch_size=4,
    )
  assert str(error.value) == (
    f'--output={tmp_path / "file"} cannot be written to: File exists. Choose a '
    'directory that you may write to.'
  )
  assert parse_hparams(['a.b=1', 'a.c=2']) == {'a': {'b': 1.0, 'c': 2.0}}
  for text in ('a=1', 'a.b', 'a.b=x', 'a.=1'):
    with pytest.raises(ValueError, match=r'is not PART\.NAME=VALUE'):
      parse_hparams([text])


def test_the_command(single, tmp_path, root):
  path, _, _ = single
  command = [sys.executable, '-m', 'lossbench.score']
  command += [f'--output={tmp_path / "out"}']
  result = subprocess.run(
    [*command, f'--predictions=mine={path / "model.npz"}'],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert result.stderr == ''
  assert f'mine: {path / "model.npz"}, 400 examples' in result.stdout
  assert 'top1_accuracy' in result.stdout
  assert (tmp_path / 'out' / 'score.json').exists()
  shutil.rmtree(tmp_path / 'out')
  result = subprocess.run(
    [*command, f'--predictions={tmp_path / "none.npz"}'],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  assert result.stderr.startswith('Error: ')
  assert result.stderr.count('\n') == 1
  assert not (tmp_path / 'out').exists()
