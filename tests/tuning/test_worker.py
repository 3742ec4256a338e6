"""Tuning: many workers, deaths, failures, and one real search."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from configs import digits_cnn, imagenet_resnet50
from lossbench.tuning import ranges, results, search, trials, worker

ROOT = pathlib.Path(__file__).parents[2]
DIMENSIONS = (
  search.Dimension('learning_rate', -2.0, -1.0, 0.5),
  search.Dimension('weight_decay', -4.0, -3.0, 0.5),
)

# Trials that only write down which point they are.
FAKE = """
import os, sys, time
from configs import digits_cnn
from lossbench.tuning import ranges, results, search, trials, worker
from lossbench.runs.history import BestEpoch

def run_trial(config, values, *, num_seeds, directory):
  with open(sys.argv[2], 'a') as log:
    log.write(f'{os.getpid()} {directory.name}\\n')
  time.sleep(float(sys.argv[3]))
  rate, decay = values['learning_rate'], values['weight_decay']
  if rate > 0.09:
    raise FloatingPointError('The loss is nan at step 3.')
  accuracy = 1 - abs(rate - 0.0316) - abs(decay - 3e-4)
  return BestEpoch(1.0, 1, accuracy, 0.01, num_seeds)

worker.run_trial = run_trial
dimensions = (
  search.Dimension('learning_rate', -2.0, -1.0, 0.5),
  search.Dimension('weight_decay', -4.0, -3.0, 0.5),
)
trials = worker.tune(
  digits_cnn.get_config(), workdir=sys.argv[1], dimensions=dimensions,
  num_seeds=2,
)
print(ranges.override_line(search.values(dimensions, trials[0].point)))
"""


def _worker(workdir, log, secs):
  return subprocess.Popen(
    [sys.executable, '-c', FAKE, str(workdir), str(log), str(secs)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _points(log):
  lines = [line.split() for line in log.read_text().splitlines()]
  return collections.Counter(name for _, name in lines), {p for p, _ in lines}


def test_two_workers_try_every_point_once(tmp_path):
  log = tmp_path / 'log'
  workers = [_worker(tmp_path / 't', log, 0.1) for _ in '12']
  outputs = [worker.communicate(timeout=120) for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0], outputs
  points, processes = _points(log)
  assert len(processes) == 2
  assert set(points.values()) == {1}
  # The coarse grid of nine, and the fine one of 25 that holds it.
  assert len(points) == 25
  assert outputs[0][0] == outputs[1][0]
  assert '--config.learning_rate=0.0316227766' in outputs[0][0]


def test_a_killed_worker_loses_only_its_trial(tmp_path):
  log = tmp_path / 'log'
  first = _worker(tmp_path / 't', log, 0.4)
  while not log.exists() or len(log.read_text().splitlines()) < 3:
    time.sleep(0.02)
    assert first.poll() is None, first.stderr.read()
  os.kill(first.pid, signal.SIGKILL)
  first.wait()
  second = _worker(tmp_path / 't', log, 0)
  output, errors = second.communicate(timeout=120)
  assert second.returncode == 0, errors
  points, _ = _points(log)
  assert len(points) == 25
  assert sorted(points.values())[-2:] == [1, 2]  # the one at hand, again
  assert '--config.learning_rate=0.0316227766' in output


@pytest.fixture
def quick(monkeypatch):
  """Trials that take no time; rates of 0.1 diverge."""
  from lossbench.runs.history import BestEpoch

  def run_trial(config, values, *, num_seeds, directory):
    if values['learning_rate'] > 0.09:
      raise FloatingPointError('The loss is nan at step 3.')
    return BestEpoch(1.0, 1, 1 - values['learning_rate'], 0.01, num_seeds)

  monkeypatch.setattr(worker, 'run_trial', run_trial)


def _tune(workdir, config=None, **options):
  options = {'dimensions': DIMENSIONS, 'num_seeds': 2} | options
  return worker.tune(
    config or digits_cnn.get_config(), workdir=workdir, **options
  )


def test_divergence_counts_as_the_worst_and_stops_nothing(quick, tmp_path):
  trials = _tune(tmp_path / 't')
  failed = [trial for trial in trials if trial.error]
  assert failed
  assert {trial.accuracy for trial in failed} == {0.0}
  assert all('nan at step 3' in trial.error for trial in failed)
  assert not trials[0].error
  # Done is done: nothing is tried again.
  assert _tune(tmp_path / 't') == trials


def test_a_full_disk_is_no_result(quick, tmp_path, monkeypatch):
  def run_trial(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(worker, 'run_trial', run_trial)
    with pytest.raises(OSError, match='No space left'):
      _tune(tmp_path / 't')
  trials = _tune(tmp_path / 't')
  assert not any('No space' in trial.error for trial in trials)


def test_failures_alone_have_no_best(quick, tmp_path):
  dimensions = (search.Dimension('learning_rate', -1.0, -1.0, 1.0),)
  trials = _tune(tmp_path / 't', dimensions=dimensions)
  with pytest.raises(ValueError, match=r'All of the 1 trials.*nan at'):
    worker.check_any_success(trials)


def test_results_are_written_and_drawn(quick, tmp_path, capsys):
  import rich.console

  trials = _tune(tmp_path / 't')
  results.write_results(tmp_path / 't', DIMENSIONS, trials, command='a command')
  found = json.loads((tmp_path / 't' / 'tuning.json').read_text())
  assert found['command'] == 'a command'
  assert len(found['trials']) == len(trials)
  assert found['trials'][0]['holdout_accuracy'] == trials[0].accuracy
  assert (tmp_path / 't' / 'tuning.png').read_bytes().startswith(b'\x89PNG')
  results.print_ranking(DIMENSIONS, trials, rich.console.Console(width=120))
  printed = capsys.readouterr().out
  assert found['overrides'] in printed
  assert 'trials failed or diverged' in printed


def test_another_tuning_in_the_same_place_is_refused(quick, tmp_path):
  _tune(tmp_path / 't')
  with pytest.raises(ValueError, match='begun with another num_seeds'):
    _tune(tmp_path / 't', num_seeds=3)
  with pytest.raises(ValueError, match='begun with another dimensions'):
    _tune(tmp_path / 't', dimensions=DIMENSIONS[:1])
  other = digits_cnn.get_config()
  other.momentum = 0.5
  with pytest.raises(ValueError, match='differs in momentum'):
    _tune(tmp_path / 't', other)


def test_one_database_holds_many_tunings(quick, tmp_path):
  url = f'sqlite:///{tmp_path}/shared.db'
  trials = _tune(tmp_path / 'a' / 'softmax', storage=url)
  assert _tune(tmp_path / 'b' / 'softmax', storage=url) == trials
  other = digits_cnn.get_config()
  other.num_epochs = 3.0
  with pytest.raises(ValueError, match='begun with another config'):
    _tune(tmp_path / 'c' / 'softmax', other, storage=url)


def test_a_worker_that_died_before_it_named_its_point(
  quick, tmp_path, monkeypatch
):
  import optuna

  url = f'sqlite:///{tmp_path}/x.db'
  study = optuna.create_study(study_name='x', storage=url, direction='maximize')
  study.ask()
  monkeypatch.setattr(trials, '_GRACE_SECS', 1)
  dimensions = (search.Dimension('learning_rate', -2.0, -2.0, 1.0),)
  [trial] = _tune(tmp_path / 'x', storage=url, dimensions=dimensions)
  assert not trial.error


def test_a_grid_of_failures_is_not_extended(quick, tmp_path):
  dimensions = (search.Dimension('learning_rate', -1.0, 0.0, 0.5),)
  assert len(_tune(tmp_path / 't', dimensions=dimensions)) == 3


def test_refusals(quick, tmp_path):
  config = digits_cnn.get_config()
  config.num_holdout = 0
  with pytest.raises(ValueError, match='looks at the holdout only'):
    _tune(tmp_path / 'a', config)
  with pytest.raises(ValueError, match='--storage=nonsense:// cannot be'):
    _tune(tmp_path / 'b', storage='nonsense://')
  with pytest.raises(ValueError, match='is not FIELD=LOW:HIGH:STEP'):
    ranges.parse_range('learning_rate=1', log=True)
  with pytest.raises(ValueError, match='is empty'):
    ranges.parse_range('learning_rate=0:-1:0.5', log=True)
  for text in ('learning_rate=-2:inf:1', 'learning_rate=-2:400:1'):
    with pytest.raises(ValueError, match='is too large for powers of ten'):
      ranges.parse_range(text, log=True)
  misspelt = [ranges.parse_range('learning_rat=-1:0:0.5', log=True)]
  with pytest.raises(ValueError, match="'learning_rat' is not a field"):
    ranges.build_dimensions(digits_cnn.get_config(), misspelt)


def test_every_hyperparameter_has_a_range():
  from lossbench.objectives import get_part, known_parts

  for part in known_parts():
    for hparam in get_part(part).hparams:
      assert hparam in ranges._HPARAMS, (part, hparam)
  config = imagenet_resnet50.get_config('squared_error')
  [scale] = [
    d for d in ranges.build_dimensions(config) if d.field.endswith('scale')
  ]
  assert [scale.value(c) for c in scale.coarse()] == [10]
  config = digits_cnn.get_config('label_smoothing')
  fields = [d.field for d in ranges.build_dimensions(config)]
  assert fields == [
    'learning_rate',
    'weight_decay',
    'objective.label_smoothing.alpha',
  ]


def test_a_real_search_reproduces_with_its_override_line(digits_dir, tmp_path):
  """Two learning rates by two seeds of the tiny model, through the command."""
  command = [
    sys.executable,
    '-m',
    'lossbench.tune',
    '--config=configs/digits_cnn.py:softmax',
    f'--config.data_dir={digits_dir}',
    '--config.model.width=4',
    '--config.batch_size=64',
    '--config.num_epochs=2',
    '--config.eval_every_epochs=1',
    f'--workdir={tmp_path / "t"}',
    '--num_seeds=2',
    '--search=weight_decay=-4:-4:1',
    '--search=learning_rate=-1:0:1',
  ]
  result = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / 't' / 'tuning.json').read_text())
  assert found['overrides'] in result.stdout
  best = found['trials'][0]
  name = ','.join(f'{k}={v:g}' for k, v in best['values'].items())
  finals = []
  for seed in range(2):
    run = tmp_path / 't' / 'runs' / name / f'seed{seed}'
    config = json.loads((run / 'config.json').read_text())
    assert config['seed'] == seed
    assert config['learning_rate'] == best['values']['learning_rate']
    history = json.loads((run / 'history.json').read_text())
    finals.append(history[-1]['top1_accuracy'])
  assert best['holdout_accuracy'] == pytest.approx(sum(finals) / 2)
  assert not list((tmp_path / 't').glob('runs/*/seed*/eval'))  # never tested
