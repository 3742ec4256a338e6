"""One worker: what it makes of results, divergence and failures."""

import errno
import math
import pickle
import threading
import uuid

import jax
import pytest
from etils import epath

from configs import digits_cnn
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runs.history import BestEpoch
from lossbench.runtime import devices
from lossbench.train import loop
from lossbench.tuning import results, search, worker
from lossbench.tuning.trials import Timing

DIMENSIONS = (
  search.Dimension('learning_rate', -2.0, -1.0, 0.5),
  search.Dimension('weight_decay', -4.0, -3.0, 0.5),
)


def _train_point(config, values, *, num_seeds, directory):
  """Takes no time; rates of 0.1 diverge."""
  if values['learning_rate'] > 0.09:
    raise FloatingPointError('The loss is nan at step 3.')
  return BestEpoch(1.0, 1, 1 - values['learning_rate'], 0.01, num_seeds)


def _tune(workdir, config=None, **options):
  options = {
    'dimensions': DIMENSIONS,
    'num_seeds': 2,
    'timing': Timing(poll_secs=0.01, grace_secs=0.3),
    'train_point_fn': _train_point,
  } | options
  return worker.tune(
    config or digits_cnn.get_config(), workdir=workdir, **options
  )


def test_divergence_counts_as_the_worst_and_stops_nothing(tmp_path):
  tuning = _tune(tmp_path / 't')
  diverged = [trial for trial in tuning.trials if trial.divergence]
  assert diverged
  assert {trial.score for trial in diverged} == {-math.inf}
  assert all('nan at step 3' in trial.divergence for trial in diverged)
  assert tuning.trials[-len(diverged) :] == tuple(diverged)
  # Done is done: nothing is tried again.
  assert _tune(tmp_path / 't', train_point_fn=None) == tuning


def test_to_diverge_is_worse_than_to_be_always_wrong(tmp_path):
  def always_wrong(config, values, **kwargs):
    result = _train_point(config, values, **kwargs)
    return BestEpoch(1.0, 1, 0.0 * result.mean, 0.0, 2)

  tuning = _tune(tmp_path / 't', train_point_fn=always_wrong)
  assert not tuning.trials[0].divergence


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    OSError(errno.EROFS, 'Read-only file system'),
    FileNotFoundError('digits is not in /data.'),
    ValueError('train.array_record-00000 is damaged.'),
    ImportError('No module named tensorflow_text'),
    TypeError('a bug'),
    RuntimeError('RESOURCE_EXHAUSTED: out of memory'),
    MemoryError('no memory'),
    KeyboardInterrupt('by hand'),
  ],
  ids=lambda error: type(error).__name__,
)
def test_what_says_nothing_of_hyperparameters_is_no_result(tmp_path, error):
  calls = []

  def fail_once(config, values, **kwargs):
    calls.append(values)
    if len(calls) == 2:
      raise error
    return _train_point(config, values, **kwargs)

  with pytest.raises(type(error)) as raised:
    _tune(tmp_path / 't', train_point_fn=fail_once)
  assert raised.value is error
  assert len(calls) == 2
  tuning = _tune(tmp_path / 't', train_point_fn=fail_once)
  assert calls[2] == calls[1]  # tried again, first of all
  assert len(calls) == len(tuning.trials) + 1
  errors = {trial.divergence for trial in tuning.trials}
  assert errors == {'', 'The loss is nan at step 3.'}


def test_a_directory_in_use_is_tried_later(tmp_path):
  """Its worker was given up, being suspended, and is alive."""
  calls = []

  def in_use_once(config, values, **kwargs):
    calls.append(pickle.dumps(values))
    if len(calls) == 1:
      raise BlockingIOError('--workdir is in use by process 7.')
    return _train_point(config, values, **kwargs)

  timing = Timing(poll_secs=0.01, grace_secs=2)
  _tune(tmp_path / 't', train_point_fn=in_use_once, timing=timing)
  assert calls[1] != calls[0]
  assert calls.count(calls[0]) == 2


def test_no_best_where_all_diverge(tmp_path):
  dimensions = (search.Dimension('learning_rate', -1.0, 0.0, 0.5),)
  calls = []

  def train_point(config, values, **kwargs):
    calls.append(values)
    return _train_point(config, values, **kwargs)

  for _ in range(2):
    with pytest.raises(ValueError, match=r'All of the 3 points.*nan at step 3'):
      _tune(tmp_path, dimensions=dimensions, train_point_fn=train_point)
  assert len(calls) == 3  # extending such a grid finds nothing


def test_another_tuning_in_the_same_place_is_refused(tmp_path):
  _tune(tmp_path / 't')
  with pytest.raises(ValueError, match='begun with another num_seeds'):
    _tune(tmp_path / 't', num_seeds=3)
  with pytest.raises(ValueError, match='begun with another dimensions'):
    _tune(tmp_path / 't', dimensions=DIMENSIONS[:1])
  other = digits_cnn.get_config()
  other.momentum = 0.5
  with pytest.raises(ValueError, match='differs in momentum'):
    _tune(tmp_path / 't', other)


def test_one_database_holds_many_tunings(tmp_path):
  url = f'sqlite:///{tmp_path}/shared.db'
  tuning = _tune(tmp_path / 'a' / 'softmax', storage=url)
  assert _tune(tmp_path / 'b' / 'softmax', storage=url) == tuning
  other = digits_cnn.get_config()
  other.num_epochs = 3.0
  with pytest.raises(ValueError, match='begun with another config'):
    _tune(tmp_path / 'c' / 'softmax', other, storage=url)


def test_refusals(tmp_path):
  config = digits_cnn.get_config()
  config.num_holdout = 0
  with pytest.raises(ValueError, match='looks at the holdout only'):
    _tune(tmp_path / 'a', config)
  with pytest.raises(ValueError, match='--storage=nonsense:// cannot be'):
    _tune(tmp_path / 'b', storage='nonsense://')
  with pytest.raises(ValueError, match='Give --storage=postgresql://'):
    _tune('gs://bucket/t')


def test_runs_in_a_bucket_and_trials_on_a_disk(bucket, tmp_path):
  """All that the disk has but the database; and continued from there."""
  directories = []

  def train_point(config, values, *, num_seeds, directory):
    directories.append(str(directory))
    return BestEpoch(1.0, 1, values['learning_rate'], 0.01, num_seeds)

  bucket.inject(503, path='tuning.json', times=2)
  root = epath.Path(f'gs://bucket/{uuid.uuid4().hex}')
  options = {
    'dimensions': (search.Dimension('learning_rate', -1.0, -1.0, 0.5),),
    'storage': f'sqlite:///{tmp_path}/trials.db',
  }
  found = _tune(str(root), train_point_fn=train_point, **options)
  assert directories == [f'{root}/runs/learning_rate=0.1']
  assert _tune(str(root), train_point_fn=None, **options) == found
  results.write_results(root, options['dimensions'], found, command='tune')
  assert read_json(root / 'tuning.json')['trials'][0]['holdout_accuracy'] == 0.1
  assert (root / 'tuning.png').read_bytes().startswith(b'\x89PNG')
  other = digits_cnn.get_config()
  other.batch_size = 8
  with pytest.raises(ValueError, match=rf'{root} holds .* differs in batch_s'):
    _tune(str(root), other, **options)


def test_seeds_and_points_are_trained_at_once(tmp_path, monkeypatch):
  """Two seeds of the two points that four devices have room for, at a time."""
  taken, finished = [], threading.Barrier(4)

  def train(config, *, workdir, allow, notice):
    assert not notice.received
    taken.append((config.learning_rate, config.seed, devices.local()))
    if len(taken) <= 4:
      finished.wait(20)  # four at once, or it breaks
    if config.learning_rate > 0.09 and config.seed == 1:
      raise FloatingPointError('The loss is nan at step 3.')
    RunDirectory(workdir).make()
    accuracy = 0.9 - abs(config.learning_rate - 0.0316) + 0.001 * config.seed
    history = [{'step': 1, 'epoch': 1.0, 'top1_accuracy': accuracy}]
    write_json(RunDirectory(workdir).history_path, history)

  monkeypatch.setattr(loop, 'train', train)
  dimensions = (search.Dimension('learning_rate', -2.0, -1.0, 0.5),)
  tuning = _tune(tmp_path / 't', dimensions=dimensions, runs_per_program='4')
  assert {local for *_, local in taken} == {(d,) for d in jax.devices()}
  assert len({run[:2] for run in taken}) == len(taken) == 2 * len(tuning.trials)
  best, worst = tuning.trials[0], tuning.trials[-1]
  assert best.accuracy == pytest.approx(0.9005, abs=1e-4)
  assert worst.divergence == 'The loss is nan at step 3.'
