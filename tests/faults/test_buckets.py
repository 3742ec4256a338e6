"""Runs in a bucket whose network fails, by the clients' production paths.

The service and the faults are of tests/faults/buckets.py.
"""

import io
import shutil
import subprocess
import sys
import time
import uuid

import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from etils import epath

from lossbench.runs.checkpoints import Checkpointer, load_checkpoint, to_host
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runs.stored import find_checkpoint
from lossbench.runtime import devices
from lossbench.runtime.storage import reason_of_bucket
from lossbench.study import configuration, states, table
from lossbench.train import loop
from lossbench.train.state import TrainState
from tests.faults.processes import (
  OVERRIDES,
  RECIPE,
  ROOT,
  recipe_config,
  start,
)


@pytest.fixture
def root(bucket):
  """A directory in the bucket that is not there yet."""
  return epath.Path(f'gs://bucket/{uuid.uuid4().hex}')


@pytest.fixture(scope='module')
def config(digits_dir):
  return recipe_config(digits_dir, 'num_epochs=1', 'dataset=digits')


@pytest.fixture(scope='module')
def on_disk(config, tmp_path_factory):
  """The same run on a disk."""
  workdir = tmp_path_factory.mktemp('disk') / 'run'
  loop.train(config, workdir=str(workdir))
  return RunDirectory(workdir)


@pytest.fixture(scope='module')
def other(config, tmp_path_factory):
  """A run of another seed on a disk."""
  workdir = tmp_path_factory.mktemp('disk') / 'other'
  config = config.copy_and_resolve_references()
  config.seed = 1
  loop.train(config, workdir=str(workdir))
  return RunDirectory(workdir)


def _copy(source: epath.Path, target: epath.Path):
  for directory, _, names in source.walk():
    for name in names:
      copied = target / directory.relative_to(source) / name
      copied.write_bytes((directory / name).read_bytes())


# Two seeds of `RECIPE`, for as long as `config` says.
_STUDY = f"""
from configs.studies import default


def get_config():
  config = default.get_default_study()
  config.groups.digits = default.group(
    'configs/digits_cnn.py',
    objectives=('sigmoid+dropout',),
    num_seeds=2,
    overrides={(*OVERRIDES, 'num_epochs=1', 'dataset=digits')},
    transfer=(),
    ood=False,
    cka=False,
  )
  return config
"""


def _predictions(run: RunDirectory, split: str) -> dict[str, np.ndarray]:
  path = run.path / 'eval' / f'digits-{split}' / 'predictions.npz'
  return dict(np.load(io.BytesIO(path.read_bytes())))


def _is_right(predictions: dict[str, np.ndarray]) -> np.ndarray:
  return predictions['logits'].argmax(1) == predictions['label']


@pytest.mark.slow
def test_a_study_in_a_bucket_is_the_study_on_a_disk(
  root, bucket, digits_dir, on_disk, other, tmp_path
):
  """Trained, evaluated and compared through passing faults."""
  # Once each: TensorFlow's client, TensorStore's, Google's.
  faults = [
    bucket.inject('stall', path='seed0/run.json', method='GET', times=1),
    bucket.inject('stall', path='/state/d/', method='POST', times=1),
    bucket.inject('drop', path='/b/bucket?projection', times=1),
    bucket.inject(503, path='/b/bucket?projection', times=1),
  ]
  passing = [
    bucket.inject(503, every=101),
    bucket.inject('drop', every=211),
  ]
  file = tmp_path / 'two.py'
  file.write_text(_STUDY)
  done = _run(
    '-m',
    'lossbench.study',
    f'--config={file}',
    f'--config.data_dir={digits_dir}',
    f'--workdir={root}',
    '--num_workers=1',
  )
  assert done.returncode == 0, done.stderr + done.stdout
  assert f'All done. Report: python -m lossbench.report --workdir={root}' in (
    done.stdout
  )
  assert [fault.count for fault in faults] == [1, 1, 1, 1]
  assert all(fault.count > 3 for fault in passing)
  bucket.faults.clear()
  runs = [
    RunDirectory(root / f'runs/digits/sigmoid+dropout/seed{seed}')
    for seed in (0, 1)
  ]
  for run, expected in zip(runs, (on_disk, other), strict=True):
    assert run.committed_steps == expected.committed_steps
    for step in ('best', 'last'):
      assert find_checkpoint(run, step) == find_checkpoint(expected, step)
    history = read_json(run.history_path)
    assert history == read_json(expected.history_path)
    assert 'step 20' in (run.path / 'log.txt').read_text()
    assert not (run.path / 'error.json').exists()
    # What training measured on the disk.
    holdout = _is_right(_predictions(run, 'holdout')).mean()
    assert holdout == pytest.approx(history[-1]['top1_accuracy'])
    found = read_json(run.path / 'eval' / 'digits-test' / 'metrics.json')
    [accuracy] = [
      metric['value']
      for metric in found['metrics']
      if metric['name'] == 'top1_accuracy'
    ]
    assert accuracy == pytest.approx(
      _is_right(_predictions(run, 'test')).mean()
    )
  compared = read_json(root / 'comparisons' / 'digits' / 'comparison.json')
  one, two = (_is_right(_predictions(run, 'test')) for run in runs)
  assert compared['agreement']['both_right_or_wrong'][0][1] == pytest.approx(
    np.mean(one == two)
  )
  assert 'step 20' in (root / 'worker0.log').read_text()


def test_a_bucket_that_is_away_makes_nobody_delete_checkpoints(
  root, bucket, config, on_disk
):
  workdir = root / 'one'
  _copy(epath.Path(on_disk.path), workdir)
  run = RunDirectory(workdir)
  for path in run.checkpoints_path.iterdir():
    (path / 'commit_success.txt').write_text('copied')
  newest = run.last_step
  bucket.inject(403, path=f'checkpoints/{newest:09d}/state')
  with (
    Checkpointer(run.checkpoints_path) as checkpointer,
    pytest.raises(OSError, match=f'{newest:09d} cannot be read now') as error,
  ):
    checkpointer.restore_last()
  assert 'It is kept' in str(error.value)
  bucket.faults.clear()
  assert load_checkpoint(run, 'last').step == newest


def test_a_step_whose_save_was_cut_off_is_saved_at_once(root, bucket):
  """What is left of it lies where the step belongs, and goes first."""
  state = devices.replicate(TrainState(jnp.int32(3), {}, {}, (), None))
  for _ in range(2):
    with Checkpointer(root / 'checkpoints') as checkpointer:
      assert checkpointer.steps == []
      checkpointer.save(to_host(state), history=[])
      checkpointer.wait()
      assert checkpointer.steps == [3]
    (root / 'checkpoints' / '000000003' / 'commit_success.txt').unlink()


def test_conditional_writes_whose_answer_is_lost(root, bucket):
  """They are done; asked again, the condition no longer holds."""
  faults = [
    bucket.inject('drop', path='checkpoints/&ifGenerationMatch=0', times=1),
    bucket.inject('drop', path='manifest.ocdbt&ifGenerationMatch=0', times=2),
  ]
  state = devices.replicate(TrainState(jnp.int32(3), {}, {}, (), None))
  run = root / 'learning_rate=0.1,weight_decay=0.0001'  # as tunings name them
  with Checkpointer(run / 'checkpoints') as checkpointer:
    checkpointer.save(to_host(state), history=[])
    checkpointer.wait()
    assert checkpointer.restore(3).arrays['step'] == 3
  assert [fault.count for fault in faults] == [1, 2]


@pytest.fixture
def half_written(root):
  """A study's first run, killed in the save of its last step."""
  file = 'configs/studies/digits.py'
  study_config = configuration.load_config_fn(file)()
  study = configuration.build_study(
    study_config, config_file=file, workdir=str(root)
  )
  run = RunDirectory(study.path(study.runs[0]))
  write_json(run.path / 'run.json', {'num_steps': 10})
  write_json(run.history_path, [])
  step = run.checkpoints_path / '000000010'
  (step / 'meta').mkdir(parents=True)
  write_json(step / 'meta' / 'metadata', {'crc32': {}, 'history': []})
  return study, run, step


def test_a_study_calls_no_run_trained_before_the_commit(half_written):
  study, run, step = half_written
  state = states.read_state(study, study.runs[0])
  assert states.TRAIN in state.missing
  assert state.step == run.last_step == 0
  assert find_checkpoint(run, 'last') is None
  (step / 'commit_success.txt').write_text('')
  assert run.committed_steps == [10]
  assert states.TRAIN not in states.read_state(study, study.runs[0]).missing


@pytest.mark.slow
def test_a_kill_in_the_first_save_starts_from_the_source_again(
  root, bucket, digits_dir, on_disk, tmp_path
):
  source = tmp_path / 'source'
  shutil.copytree(on_disk.path, source)
  overrides = 'num_epochs=1', f'init_from={source}', 'seed=1'
  whole = RunDirectory(tmp_path / 'whole')
  loop.train(recipe_config(digits_dir, *overrides), workdir=str(whole.path))
  commit = bucket.inject(
    'stall', path='000000020/commit_success.txt', method='POST'
  )
  log = tmp_path / 'log'
  process = start(
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    *(f'--config.{override}' for override in overrides),
    f'--workdir={root}/run',
    num_devices=4,
    log=log,
  )
  deadline = time.monotonic() + 120
  while not commit.count and process.poll() is None:
    assert time.monotonic() < deadline, log.read_text()
    time.sleep(0.1)
  process.kill()
  process.wait()
  bucket.faults.clear()
  run = RunDirectory(f'{root}/run')
  assert any(path.name.isdigit() for path in run.checkpoints_path.iterdir())
  assert run.committed_steps == []
  loop.train(recipe_config(digits_dir, *overrides), workdir=f'{root}/run')
  assert find_checkpoint(run, 'last') == find_checkpoint(whole, 'last')


def _run(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=240,
  )


def _last_line(*arguments: str) -> str:
  """Of a program that is to fail in one line."""
  done = _run(*arguments)
  assert done.returncode == 1, done.stderr
  assert 'Traceback' not in done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('Error: ')
  return last


def test_a_study_in_a_bucket_is_listed(half_written, bucket):
  """Also by those who may read objects, but not ask for the bucket."""
  study, run, _ = half_written
  bucket.inject(403, path='/b/bucket?projection')
  output = rich.console.Console(file=io.StringIO(), width=200)
  table.print_states(study, study.runs[:1], output)
  assert 'waiting' in output.file.getvalue()
  assert 'trained' not in output.file.getvalue()
  bucket.inject(403, path='/checkpoints')
  with pytest.raises(Exception, match='injected') as error:
    table.print_states(study, study.runs[:1], output)
  reason = reason_of_bucket(error.value)
  assert f'403 (injected) when reading metadata of {run.path}' in reason


@pytest.mark.slow
def test_missing_credentials_are_one_line(
  root, bucket, digits_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', str(tmp_path / 'none'))
  train = 'main.py', *RECIPE, f'--config.data_dir={digits_dir}'
  line = _last_line(*train, f'--workdir={root}/run')
  assert f'{root}/run cannot be reached' in line
  assert 'gcloud auth application-default login' in line
