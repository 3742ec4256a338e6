"""Whose a run directory is, and that nothing in it is ever half written."""

import json
import os
import pathlib
import re
import stat
import subprocess
import sys

import jax
import ml_collections
import pytest

import lossbench
from configs import digits_cnn
from lossbench.runs import directory as run_directory
from lossbench.runs.directory import (
  RunDirectory,
  is_plain,
  plain,
  read_json,
  safe_name,
  write_json,
)


@pytest.fixture
def config():
  return digits_cnn.get_config('sigmoid+dropout')


@pytest.fixture
def run(tmp_path):
  return RunDirectory(tmp_path / 'runs' / 'one')


def _save_step(run, step):
  """What Orbax leaves of a whole save, on a disk."""
  (run.checkpoints_path / f'{step:09d}').mkdir(parents=True)


def _files(run):
  return sorted(path.name for path in run.path.iterdir())


# Claiming.


def test_claim_makes_the_directory_and_says_what_it_is(run, config):
  run.claim(config, num_steps=26)
  assert _files(run) == ['config.json', 'run.json']
  assert read_json(run.config_path) == json.loads(config.to_json())
  about = read_json(run.path / 'run.json')
  assert about['objective'] == 'sigmoid+dropout'
  assert about['lossbench_version'] == lossbench.__version__
  assert about['jax_version'] == jax.__version__
  assert isinstance(about['command'], list)
  assert about['num_steps'] == run.num_steps == 26


def test_config_comes_back_as_a_config(run, config):
  run.claim(config, num_steps=26)
  found = run.read_config()
  assert found.objective.dropout.keep_prob == config.objective.dropout.keep_prob
  assert found.model.width == config.model.width
  # JSON has no tuples; that is the only difference.
  assert tuple(found.pixel_mean) == config.pixel_mean
  assert found.to_dict() == json.loads(config.to_json())


def test_runs_from_before_a_field_did_what_was_done_then(run, config):
  """An ImageNet run without `resize_method` was trained with bilinear."""
  run.claim(config, num_steps=26)
  old = read_json(run.config_path)
  assert old['data_on_device']
  for name in (
    'ema_ramp',
    'eval_crop',
    'resize_antialias',
    'resize_method',
    'shuffle_gib',
  ):
    del old[name]
  run.config_path.write_text(json.dumps(old))
  found = run.read_config()
  assert found.resize_method == 'bilinear'
  assert found.resize_antialias is False
  assert found.eval_crop == 'crop_then_resize'
  config.ema_ramp = False
  _save_step(run, 10)
  run.check_compatible(config)
  config.resize_method = 'bicubic_tf1'
  with pytest.raises(ValueError, match="'bilinear' there, 'bicubic_tf1' now"):
    run.check_compatible(config)


def test_steps_of_a_run_that_has_not_begun(run):
  assert run.num_steps is None
  assert run.last_step == 0


def test_the_last_step_is_that_of_a_whole_checkpoint(run):
  for name in ('000000010', '000000020', '000000030.orbax-checkpoint-tmp'):
    (run.checkpoints_path / name).mkdir(parents=True)
  assert run.last_step == 20
  assert run.committed_steps == [10, 20]
  assert run.has_checkpoints()


def test_a_directory_in_use_is_refused_and_a_dead_lock_is_not(run):
  """By doing it: another process holds the lock, then is killed."""
  program = (
    'import sys, time; from lossbench.runs.directory import RunDirectory\n'
    'with RunDirectory(sys.argv[1]).locked():\n'
    "  print('locked', flush=True); time.sleep(60)"
  )
  with subprocess.Popen(
    [sys.executable, '-c', program, str(run.path)],
    stdout=subprocess.PIPE,
    text=True,
  ) as holder:
    assert holder.stdout.readline() == 'locked\n'
    message = rf'is in use by process {holder.pid} on .* choose another'
    with pytest.raises(BlockingIOError, match=message), run.locked():
      pass
    holder.kill()
  with run.locked():
    assert str(os.getpid()) in (run.path / 'lock').read_text()


def test_the_same_config_may_claim_again(run, config):
  run.claim(config, num_steps=26)
  run.checkpoints_path.mkdir()
  run.check_compatible(config)
  run.claim(config, num_steps=26)
  run.claim(run.read_config(), num_steps=26)  # with lists for tuples


def test_operational_fields_may_change(run, config):
  run.claim(config, num_steps=26)
  config.data_dir = '/elsewhere'
  config.log_every_steps += 1
  config.checkpoint_every_steps += 1
  config.keep_checkpoints += 1
  config.keep_every_epochs += 1
  config.eval_batch_size *= 2
  config.profile_steps += 1
  config.stall_secs += 1
  run.claim(config, num_steps=26)
  assert run.read_config().data_dir == '/elsewhere'


def test_a_run_from_before_a_field_of_its_model_goes_on_with_it(run, config):
  config.model = {'name': 'resnet', 'depth': 50}
  run.claim(config, num_steps=26)
  _save_step(run, 10)
  config.model.max_pool_padding = 'same'
  run.check_compatible(config)
  config.model.max_pool_padding = 'symmetric'
  with pytest.raises(
    ValueError, match=r"max_pool_padding: 'absent' there, 'symmetric' now"
  ):
    run.check_compatible(config)


def test_operational_fields_exist(config):
  assert set(config) >= run_directory.OPERATIONAL_FIELDS


def test_another_config_is_refused_field_by_field(run, config):
  run.claim(config, num_steps=26)
  _save_step(run, 10)
  before = {p: p.read_bytes() for p in run.path.glob('*.json')}
  other = digits_cnn.get_config('sigmoid+dropout')
  other.learning_rate = 0.25
  other.model.width = 8
  other.objective.dropout.keep_prob = 0.5
  other.pixel_mean = (0.4,)
  other.data_dir = '/elsewhere'
  with pytest.raises(ValueError, match='holds another run') as error:
    run.claim(other, num_steps=26)
  text = str(error.value)
  assert str(run.path) in text
  for field in (
    'learning_rate: 0.1 there, 0.25 now',
    'model.width: 32 there, 8 now',
    'objective.dropout.keep_prob: 0.7 there, 0.5 now',
    'pixel_mean: [0.3] there, [0.4] now',
  ):
    assert field in text
  assert 'data_dir' not in text
  assert 'seed' not in text
  assert 'Choose another --workdir' in text
  assert {p: p.read_bytes() for p in run.path.glob('*.json')} == before


def test_fields_that_one_side_lacks_are_differences(run, config):
  """As between versions, or between objectives."""
  run.claim(config, num_steps=26)
  _save_step(run, 10)
  other = digits_cnn.get_config('label_smoothing')
  with pytest.raises(ValueError) as error:
    run.check_compatible(other)
  assert "objective.name: 'sigmoid+dropout' there" in str(error.value)
  assert 'objective.dropout.keep_prob: 0.7 there, ' in str(error.value)
  assert "objective.label_smoothing.alpha: 'absent' there" in str(error.value)


def test_a_claim_without_checkpoints_may_be_replaced(run, config):
  """What stopped that run may have been its configuration."""
  run.claim(config, num_steps=26)
  write_json(run.history_path, [{'step': 5, 'epoch': 1.0}])
  (run.checkpoints_path / '000000030.orbax-checkpoint-tmp').mkdir(parents=True)
  other = digits_cnn.get_config('label_smoothing')
  other.learning_rate = 0.25
  run.check_compatible(other)
  run.claim(other, num_steps=13)
  assert run.read_config().learning_rate == 0.25
  assert run.num_steps == 13
  assert not run.history_path.exists()


def test_a_claim_with_evaluations_may_not(run, config):
  """As of a run whose checkpoints were deleted to save space."""
  run.claim(config, num_steps=26)
  (run.path / 'eval').mkdir()
  with pytest.raises(ValueError, match='holds another run'):
    run.claim(digits_cnn.get_config('label_smoothing'), num_steps=26)


def test_damaged_config_is_named_with_the_remedy(run, config):
  run.claim(config, num_steps=26)
  whole = run.config_path.read_bytes()
  _save_step(run, 10)
  for damaged, text in [
    (b'', 'is empty'),
    (whole[: len(whole) // 2], 'not valid JSON'),
    (b'\xff\xfe\x00', 'not valid JSON'),
    (b'[]', 'holds no configuration'),
  ]:
    run.config_path.write_bytes(damaged)
    for use in (run.read_config, lambda: run.claim(config, num_steps=26)):
      with pytest.raises(ValueError, match=text) as error:
        use()
      assert str(run.config_path) in str(error.value)
      assert 'make it anew by the command in run.json' in str(error.value)
    assert run.config_path.read_bytes() == damaged  # nothing overwritten


def test_damaged_claim_without_checkpoints_is_made_anew(run, config):
  run.claim(config, num_steps=26)
  run.config_path.write_bytes(b'')
  run.claim(config, num_steps=26)
  assert run.read_config().to_dict() == json.loads(config.to_json())


def test_checkpoints_without_a_config_are_refused(run, config):
  run.checkpoints_path.mkdir(parents=True)
  with pytest.raises(ValueError, match=r'no config\.json') as error:
    run.claim(config, num_steps=26)
  assert str(run.path) in str(error.value)
  assert _files(run) == ['checkpoints']


def test_directory_with_other_files_may_be_claimed(run, config):
  """For example a log that the shell redirects into it."""
  run.path.mkdir(parents=True)
  (run.path / 'output.log').touch()
  run.claim(config, num_steps=26)


@pytest.mark.parametrize('workdir', ['file', 'file/below'])
def test_directory_that_cannot_be_written_is_named(tmp_path, config, workdir):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='cannot be written to') as error:
    RunDirectory(tmp_path / workdir).claim(config, num_steps=26)
  assert f'--workdir={tmp_path / workdir}' in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_read_only_directory_is_named(tmp_path, config):
  tmp_path.chmod(0o555)
  with pytest.raises(OSError, match='Permission denied'):
    RunDirectory(tmp_path / 'run').claim(config, num_steps=26)


def test_values_that_json_would_distort_are_refused(run):
  config = ml_collections.ConfigDict({'objective': {'name': 'softmax'}})
  config.dtype = complex(1, 2)
  with pytest.raises(TypeError):
    run.claim(config, num_steps=26)


def test_not_a_run_directory(tmp_path):
  with pytest.raises(FileNotFoundError, match='not a run directory') as error:
    RunDirectory(tmp_path).read_config()
  assert str(tmp_path) in str(error.value)
  assert '--workdir' in str(error.value)


def test_an_empty_path_is_refused():
  """Not taken for the current directory."""
  with pytest.raises(ValueError, match=r"--workdir=.*'\.' for the current"):
    RunDirectory('')


def test_home_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/reader')
  assert RunDirectory('~/runs/x').path == pathlib.Path('/home/reader/runs/x')


# Where results lie.


def test_eval_paths(run):
  assert run.eval_path('digits', 'test') == run.path / 'eval' / 'digits-test'


def test_eval_paths_of_slices_are_plain_names_and_all_different(run):
  splits = [
    'train',
    'train[:100]',
    'train[100:]',
    'train[-100:]',
    'train[:-100]',
    'train[100:200]',
    'train[:90%]',
  ]
  names = [run.eval_path('digits', split).name for split in splits]
  assert len(set(names)) == len(splits)
  for name in names:
    assert not set(name) & set('[]:/*? ')


# Writing.


def test_json_goes_out_and_comes_back(tmp_path):
  path = tmp_path / 'x.json'
  value = {'b': [1, 2.5, None], 'a': 'text'}
  write_json(path, value)
  assert read_json(path) == value
  assert path.read_text().endswith('\n')
  write_json(path, {'new': True})
  assert read_json(path) == {'new': True}
  assert [p.name for p in tmp_path.iterdir()] == ['x.json']


@pytest.mark.parametrize(
  'value',
  [
    {'n': 297, 'metrics': [{'step': 20, 'value': 0.93}], 'of': {1: (2, None)}},
    [{'step': 20, 'accuracy': 0.93}, {'step': 400, 'accuracy': 0.5}],
  ],
)
def test_no_flipped_bit_is_read_as_another_record(value, tmp_path):
  """Of 0.93 and 0.98 one is as good JSON as the other."""
  path = tmp_path / 'x.json'
  write_json(path, value)
  whole, written = path.read_bytes(), read_json(path)
  assert written == json.loads(json.dumps(value))
  kept = 0
  for place in range(len(whole)):
    for bit in range(8):
      altered = bytearray(whole)
      altered[place] ^= 1 << bit
      path.write_bytes(altered)
      try:
        found = read_json(path)
      except ValueError:
        continue
      kept += 1
      # A bit of the checksum's own name adds an entry, and changes none.
      for old, new in zip(*map(_as_list, (written, found)), strict=True):
        assert new.items() >= old.items()
  assert kept < 0.2 * 8 * len(whole)


def _as_list(value):
  return value if isinstance(value, list) else [value]


def test_records_without_a_checksum_stay_readable(tmp_path):
  """Those of version 0.1, and what other programs wrote."""
  path = tmp_path / 'x.json'
  for value in ({'n': 297}, [{'step': 20}, {'step': 40}], [], [1, 2], 'text'):
    path.write_text(json.dumps(value))
    assert read_json(path) == value


def test_old_json_stays_whole_until_the_new_one_is(tmp_path, monkeypatch):
  """A reader, or a kill, at the worst moment: just before the exchange."""
  path = tmp_path / 'x.json'
  write_json(path, {'old': 1})
  replace, seen = os.replace, []

  def look_then_replace(source, target):
    seen.append((read_json(path), read_json(pathlib.Path(source))))
    assert pathlib.Path(source).parent == path.parent  # the same file system
    replace(source, target)

  monkeypatch.setattr(os, 'replace', look_then_replace)
  write_json(path, {'new': 2})
  assert seen == [({'old': 1}, {'new': 2})]
  assert read_json(path) == {'new': 2}


def test_files_are_on_the_disk_before_they_get_their_name(
  tmp_path, monkeypatch
):
  """By the order of what the system is asked for."""
  calls, fsync, replace = [], os.fsync, os.replace

  def is_directory(descriptor):
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)

  monkeypatch.setattr(
    os, 'fsync', lambda fd: (calls.append(is_directory(fd)), fsync(fd))
  )
  monkeypatch.setattr(
    os, 'replace', lambda *a: (calls.append('replace'), replace(*a))
  )
  write_json(tmp_path / 'x.json', {'new': 2})
  assert calls == [False, 'replace', True]


def test_value_that_is_not_json_leaves_the_old_file(tmp_path):
  path = tmp_path / 'x.json'
  write_json(path, {'old': 1})
  with pytest.raises(TypeError):
    write_json(path, {'new': object()})
  assert read_json(path) == {'old': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['x.json']


# Starts.


def _start(**changes):
  dataset = {'name': 'digits', 'version': '1.0.0', 'fingerprint': 'aa'}
  start = {
    'allowed': [],
    'dataset': dataset,
    'device_kind': 'cpu',
    'devices': 4,
    'processes': 1,
  }
  return {**start, **changes}


def _about(run):
  return json.loads((run.path / 'run.json').read_text())


def test_every_start_is_kept(run, config):
  source = {'path': 'elsewhere', 'step': 7, 'fingerprint': 'bb'}
  run.claim(config, num_steps=26, start=_start(step=0), source=source)
  run.claim(config, num_steps=26, start=_start(step=0))  # killed in between
  _save_step(run, 13)
  run.claim(config, num_steps=26, start=_start(step=13, processes=2))
  assert [start['step'] for start in _about(run)['starts']] == [0, 0, 13]
  assert _about(run)['source'] == source


def test_a_claim_without_a_checkpoint_leaves_no_start_to_another_run(
  run, config
):
  run.claim(config, num_steps=26, start=_start(devices=8))
  config.seed = 5
  run.claim(config, num_steps=26, start=_start())
  assert _about(run)['starts'] == [_start()]


@pytest.mark.parametrize(
  ('name', 'change', 'text'),
  [
    (
      'devices',
      {'devices': 8},
      r'devices = 4, but now it is 8: .*images of ea',
    ),
    ('device_kind', {'device_kind': 'TPU v3'}, 'device_kind = cpu.* TPU v3'),
    (
      'data',
      {'dataset': {'name': 'digits', 'version': '1.0.0', 'fingerprint': 'cc'}},
      r'data = digits 1\.0\.0 aa, but now it is digits 1\.0\.0 cc',
    ),
  ],
)
def test_a_resumed_run_finds_what_it_had_or_is_allowed_not_to(
  run, config, name, change, text
):
  run.claim(config, num_steps=26, start=_start())
  run.claim(config, num_steps=26, start=_start(**change))  # nothing is lost yet
  run.claim(config, num_steps=26, start=_start())
  _save_step(run, 13)
  before = run.about_path.read_text()
  with pytest.raises(ValueError, match=f'{text}.*--allow={name}, which'):
    run.claim(config, num_steps=26, start=_start(**change))
  assert run.about_path.read_text() == before
  allowed = _start(**change, allowed=[name])
  run.claim(config, num_steps=26, start=allowed)
  assert _about(run)['starts'][-1] == allowed
  # From there on it is what the run has.
  run.claim(config, num_steps=26, start=_start(**change))


def test_runs_of_before_and_damaged_records_go_on(run, config):
  """Version 0.1 kept no starts; a damaged run.json is written again."""
  run.claim(config, num_steps=26)
  about = _about(run)
  del about['starts']
  _save_step(run, 13)
  for text in (json.dumps(about), '{"num'):
    run.about_path.write_text(text)
    run.claim(config, num_steps=26, start=_start(devices=8))
    assert _about(run)['starts'] == [_start(devices=8)]


@pytest.mark.parametrize(
  'name', ['cifar10', 'imagenet_c_fog_1', 'a-b.c', 'sigmoid+dropout']
)
def test_plain_names_are_those_of_directories(name):
  assert is_plain(name)
  assert safe_name(name) == plain(name) == name


@pytest.mark.parametrize(
  ('name', 'made'),
  [('.', '_.'), ('..', '_..'), ('', '_'), ('a/b', 'a_b'), ('größe', 'gr__e')],
)
def test_other_names_are_made_plain(name, made):
  assert not is_plain(name)
  assert plain(name) == made


def test_paths_become_names_of_directories_that_tell_them_apart():
  names = [
    safe_name(name)
    for name in ('folder:/a/pets', 'folder:/b/pets', 'folder:/a/pets#/m.json')
  ]
  assert len(set(names)) == 3
  for name in names:
    assert re.fullmatch(r'folder-pets-[0-9a-f]{8}', name)
  odd = safe_name('folder:gs://x/ä b?/')
  assert re.fullmatch(r'folder-__b_-[0-9a-f]{8}', odd)
