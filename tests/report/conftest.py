"""A study with known numbers, written by hand: no run was ever trained."""

import json
import pathlib

import numpy as np
import pytest

from lossbench.runs.records import create_record

ENDPOINTS = ('block1', 'block2', 'features', 'logits')
# objective -> top-1 accuracy of its seeds; made of 1000 examples.
ACCURACY = {
  'softmax': (0.770, 0.772, 0.774),
  'sigmoid': (0.780, 0.782, 0.784),
  'dropout': (0.779, 0.781, 0.786),
}
NUM_EXAMPLES = 1000
NUM_TRAIN_EXAMPLES = 2000
NUM_BOTH_WRONG = 19, 20  # of the first two pairs
# Data set, split to train on, accuracy of softmax.
TRANSFERS = (
  ('food101', None, 0.7),
  ('cifar10', None, 0.9),
  ('imagenet2012', 'holdout', 0.6),
)
CHECKPOINT = {'step': 100, 'checkpoint': '0123abcd'}


def write_metrics(path: pathlib.Path, records, **about):
  path.mkdir(parents=True, exist_ok=True)
  metrics = [record.to_json() for record in records]
  text = json.dumps({**CHECKPOINT, **about, 'metrics': metrics})
  (path / 'metrics.json').write_text(text)


def _records(accuracy, place):
  n = NUM_EXAMPLES
  records = [
    create_record('top1_accuracy', accuracy, n=n),
    create_record('top5_accuracy', 0.93 + place / 100, n=n),
    create_record('nll', 0.9 + place, n=n),
    create_record('ece', 0.05, n=n),
    create_record(
      'tempered_nll', None, n=n, note='not available: NaN predictions'
    ),
    create_record('tempered_ece', 0.04, n=n, note='fitted on this split'),
    create_record(
      'angular_visual_hardness',
      0.00081 + place / 10 + (accuracy - 0.77) / 100,
      n=n,
    ),
    create_record('participation_ratio', 5.0, n=n),
    create_record('dead_unit_fraction', 0.125, n=n),
  ]
  return records + _layer_records(place)


def _layer_records(place, more=0.0, n=NUM_EXAMPLES):
  records = []
  for depth, endpoint in enumerate(ENDPOINTS):
    # The features are the spatial average of the last block.
    value = 0.1 * (2 if endpoint == 'block2' else depth) + 0.01 * place + more
    records.append(
      create_record('class_separation', value, n=n, endpoint=endpoint)
    )
    records.append(
      create_record('nonzero_fraction', 1 - value, n=n, endpoint=endpoint)
    )
  return records


def _training_records(place):
  n = NUM_TRAIN_EXAMPLES
  return [
    create_record('participation_ratio', 6.0, n=n),
    create_record('dead_unit_fraction', 0.25, n=n),
    create_record('nc1', 0.5 + place, n=n),
    *_layer_records(place, more=0.05, n=n),
  ]


def _curves(rng):
  edges = np.linspace(0, 1, 21)
  return {
    'activation_singular_values': np.sort(rng.random(8))[::-1],
    'kernel_singular_values': np.sort(rng.random(4))[::-1],
    'centroid_singular_values': np.sort(rng.random(4))[::-1],
    'cosine_distance_edges': edges,
    'cosine_distance_within': rng.integers(0, 50, 20),
    'cosine_distance_between': rng.integers(0, 50, 20),
    'hardness_edges': edges / 10,
    'hardness': rng.integers(0, 50, 20),
    'reliability_lower': np.arange(15) / 15,
    'reliability_upper': np.arange(1, 16) / 15,
    'reliability_num_examples': rng.integers(0, 9, 15),
    'reliability_confidence': rng.random(15),
    'reliability_accuracy': rng.random(15),
  }


def _comparison(names, objectives):
  rng = np.random.default_rng(1)
  size, num_layers = len(names), len(ENDPOINTS)

  def matrix(n):
    values = 0.5 + rng.random((n, n)) / 4
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1)
    return values.tolist()

  def linkage(n):
    return [[0.0, 1.0, 0.1, 2.0]] + [
      [float(i + 1), float(n + i - 1), 0.1 * (i + 1), i + 2.0]
      for i in range(1, n - 1)
    ]

  wrong = matrix(size)
  wrong[0][1] = wrong[1][0] = None
  both_wrong = np.full((size, size), 200)
  both_wrong[0, 1] = both_wrong[1, 0] = NUM_BOTH_WRONG[0]
  both_wrong[0, 2] = both_wrong[2, 0] = NUM_BOTH_WRONG[1]
  layers = [matrix(num_layers), matrix(num_layers)]
  return {
    'num_examples': NUM_EXAMPLES,
    'runs': [
      {
        'name': name,
        # Where it lay when it was made: a study may be moved.
        'path': f'/elsewhere/{name}',
        'objective': objective,
        'group': f'{objective} of configs',
        **CHECKPOINT,
      }
      for name, objective in zip(names, objectives, strict=True)
    ],
    'agreement': {
      'same_top1': matrix(size),
      'both_right_or_wrong': matrix(size),
      'same_when_both_wrong': wrong,
      'num_both_wrong': both_wrong.tolist(),
    },
    'clustering': {'linkage': linkage(size)},
    'ensembles': {
      'objectives': [f'{objective} of configs' for objective in ACCURACY],
      'num_members': [3, 3, 3],
      'top1_accuracy': matrix(3),
      'nll': matrix(3),
      'same_top1': matrix(3),
      'linkage': linkage(3),
    },
    'cka': {
      'num_examples': 900,
      'minibatch_size': 32,
      'layers': {
        'runs': [0, 1],
        'endpoints': list(ENDPOINTS),
        'linear_cka': layers[0],
        'minibatch_cka': layers[1],
      },
      'corresponding': {
        'endpoints': list(ENDPOINTS),
        'linear_cka': [matrix(size) for _ in ENDPOINTS],
        'minibatch_cka': [matrix(size) for _ in ENDPOINTS],
      },
    },
  }


def _write_transfers(path: pathlib.Path, place):
  for target, split, value in TRANSFERS:
    folder = f'transfer-{target}' + (f'-{split}' if split else '')
    sign = 1 if split else -1
    write_metrics(
      path / 'eval' / folder,
      [
        create_record('top1_accuracy', value + sign * place / 100, n=10),
        create_record('train_accuracy', 1.0, n=50),
        create_record('knn_top1_accuracy', value - 0.05 - place / 50, n=10),
        create_record('num_neighbours', 5, n=10),
        create_record('few_shot_1_top1_accuracy', value / 2, n=10),
        create_record('few_shot_1_standard_error', 0.0123, n=10),
        create_record(
          'few_shot_5_top1_accuracy', None, n=0, note='not available: few'
        ),
      ],
      dataset=target,
      split='test',
      train_split=split or 'train',
      num_seen_by_network=30 if split else 0,
      main_metric='top1_accuracy',
    )
  write_metrics(
    path / 'eval' / 'finetune-food101',
    [
      create_record('top1_accuracy', 0.8 + place / 1000, n=10),
      create_record('learning_rate', 0.01, n=10),
    ],
    dataset='food101',
    split='test',
    main_metric='top1_accuracy',
  )


def _write_about(path: pathlib.Path):
  (path / 'config.json').write_text(
    json.dumps({'learning_rate': 1.6, 'model': {'depth': 50}})
  )
  start = {
    'code': {'fingerprint': 'c0de', 'revision': 'abc123'},
    'libraries': {'jax': '0.10.2'},
    'device_kind': 'TPU v5e',
    'devices': 4,
    'dataset': {'fingerprint': 'da7a'},
  }
  (path / 'run.json').write_text(
    json.dumps({'lossbench_version': '0.2', 'starts': [start]})
  )


def _write_run(path: pathlib.Path, rng, accuracy, place):
  own = path / 'eval' / 'imagenet2012-validation'
  write_metrics(
    own,
    _records(accuracy, place),
    dataset='imagenet2012',
    split='validation',
  )
  write_metrics(
    path / 'eval' / 'imagenet_a-test',
    [create_record('subset_top1_accuracy', 0.05 + place / 100, n=7500)],
    dataset='imagenet_a',
    split='test',
  )
  write_metrics(
    path / 'eval' / 'imagenet_c-validation',
    [create_record('top1_accuracy', 0.4, n=75)],
    dataset='imagenet_c',
    split='validation',
  )
  for severity in range(1, 6):
    write_metrics(
      path / 'eval' / f'imagenet_c_fog_{severity}-validation',
      [create_record('top1_accuracy', accuracy - severity / 10, n=5)],
      dataset=f'imagenet_c_fog_{severity}',
      split='validation',
    )
  _write_transfers(path, place)
  np.savez(own / 'curves.npz', **_curves(rng))
  training = path / 'eval' / 'imagenet2012-training'
  write_metrics(
    training,
    _training_records(place),
    dataset='imagenet2012',
    split='training',
  )
  np.savez(training / 'curves.npz', **_curves(rng))
  label = np.zeros(NUM_EXAMPLES, np.int32)
  logits = np.zeros((NUM_EXAMPLES, 2), np.float32)
  logits[round(accuracy * NUM_EXAMPLES) :, 1] = 1  # wrong from there on
  ids = np.array([b'%04d' % i for i in range(NUM_EXAMPLES)])
  np.savez(own / 'predictions.npz', id=ids, label=label, logits=logits)
  _write_about(path)
  (path / 'history.json').write_text(
    json.dumps([{'step': 1, 'epoch': 1, 'top1_accuracy': accuracy}])
  )


def _planned_run(name, group, objective, seed):
  return {
    'name': name,
    'group': group,
    'recipe': 'configs/imagenet_resnet50.py',
    'model': 'resnet',
    'objective': objective,
    'settings': {},
    'varied': [],
    'seed': seed,
    'wanted': {**CHECKPOINT, 'compute_dtype': 'float32'},
    'dataset': 'imagenet2012',
    'test_split': 'validation',
    'transfer': [
      {
        'name': f'{target}:{split}' if split else target,
        'dataset': target,
        'split': split,
      }
      for target, split, _ in TRANSFERS
    ],
    'finetune': ['food101'],
    'commands': {
      'train': f'python main.py {name}',
      'evaluate': 'x',
      'evaluate training': 'x --split=training',
    },
  }


def write_study(root: pathlib.Path, group='imagenet_resnet50') -> pathlib.Path:
  """Three objectives x three seeds with every measurement."""
  rng = np.random.default_rng(0)
  names, objectives, runs = [], [], []
  for place, (objective, accuracies) in enumerate(ACCURACY.items()):
    for seed, accuracy in enumerate(accuracies):
      name = f'{group}/{objective}/seed{seed}'
      _write_run(root / 'runs' / name, rng, accuracy, place)
      names.append(name)
      objectives.append(objective)
      runs.append(_planned_run(name, group, objective, seed))
  target = root / 'comparisons' / group
  target.mkdir(parents=True)
  comparison = _comparison(names, objectives)
  (target / 'comparison.json').write_text(json.dumps(comparison))
  (root / 'study.json').write_text(
    json.dumps(
      {
        'name': 'synthetic',
        'title': 'A <synthetic> study',
        'config': 'configs/studies/synthetic.py',
        'overrides': [],
        'runs': runs,
        'comparisons': [
          {'name': group, 'runs': names, 'command': 'python -m compare'}
        ],
      }
    )
  )
  return root


@pytest.fixture
def synthetic_study(tmp_path) -> pathlib.Path:
  """A fresh copy, to be damaged at will."""
  return write_study(tmp_path / 'study')
