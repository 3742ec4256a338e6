"""Checkpoints: what is kept, what is restored, what damage is found."""

import json
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.runs.checkpoints import Checkpointer, to_host
from lossbench.runtime import devices
from lossbench.train.state import TrainState


def _state(step: int) -> TrainState:
  rng = np.random.default_rng(step)
  params = {
    'backbone': {'kernel': rng.normal(size=(30, 40)).astype(np.float32)},
    'output_layer': {'bias': rng.normal(size=7).astype(np.float32)},
  }
  return TrainState(
    step=jnp.asarray(step, jnp.int32),
    params=params,
    batch_stats={'bn': {'mean': np.full(3, step, np.float32)}},
    opt_state=(),
    ema={'params': params, 'batch_stats': {'bn': {'mean': np.ones(3)}}},
  )


def _save(directory, accuracies: dict[int, float | None], **options):
  """Saves the steps in turn, each with its holdout accuracy or None.

  Goes on from what is there, as a run does.
  """
  with Checkpointer(directory, **options) as checkpointer:
    last = checkpointer.restore_last()
    history = last.history if last else []
    for step, accuracy in accuracies.items():
      if accuracy is not None:
        history.append({'step': step, 'top1_accuracy': accuracy})
      checkpointer.save(
        to_host(devices.replicate(_state(step))), history=history
      )


def _change_a_digit(path: pathlib.Path, digits: bytes, others: bytes):
  content = path.read_bytes()
  assert content.count(digits) == 1
  path.write_bytes(content.replace(digits, others))


def _data_files(directory: pathlib.Path, step: int) -> list[pathlib.Path]:
  state = directory / f'{step:09d}' / 'state'
  files = [p for p in state.rglob('*') if p.is_file() and p.stat().st_size]
  return sorted(files, key=lambda path: -path.stat().st_size)


def test_clocks_do_not_decide_which_is_the_last(tmp_path, monkeypatch):
  """Every save's host is an hour behind the one before, and files say so."""
  now = [time.time()]

  def behind():
    now[0] -= 3600
    return now[0]

  monkeypatch.setattr(time, 'time', behind)
  _save(tmp_path / 'c', {3: 0.5, 6: 0.9, 9: 0.7}, keep_last=2)
  monkeypatch.undo()
  for age, step in enumerate((6, 9)):
    os.utime(tmp_path / 'c' / f'{step:09d}', (1e9 - age, 1e9 - age))
  with Checkpointer(tmp_path / 'c') as checkpointer:
    assert checkpointer.steps == [6, 9]
    assert checkpointer.best_step == 6
    assert checkpointer.restore_last().step == 9


def test_restores_exactly_what_was_saved(tmp_path):
  _save(tmp_path / 'c', {3: 0.5})
  with Checkpointer(tmp_path / 'c') as checkpointer:
    checkpoint = checkpointer.restore_last()
  restored = checkpoint.restore_into(_state(0))
  jax.tree.map(np.testing.assert_array_equal, restored, _state(3))
  assert checkpoint.step == 3
  assert checkpoint.history == [{'step': 3, 'top1_accuracy': 0.5}]
  assert set(checkpoint.eval_variables) == {'params', 'batch_stats'}
  # The moving averages are what evaluation uses, where they are kept.
  np.testing.assert_array_equal(
    checkpoint.eval_variables['batch_stats']['bn']['mean'], np.ones(3)
  )


def test_keeps_the_last_two_and_the_best_also_after_a_restart(tmp_path):
  _save(tmp_path / 'c', {1: 0.2, 2: 0.9, 3: 0.5}, keep_last=2)
  _save(tmp_path / 'c', {4: None, 5: 0.4, 6: None}, keep_last=2)
  with Checkpointer(tmp_path / 'c') as checkpointer:
    assert checkpointer.steps == [2, 5, 6]
    assert checkpointer.best_step == 2


def test_keeps_multiples_of_an_interval_besides_also_after_a_restart(tmp_path):
  options = {'keep_last': 1, 'keep_every_steps': 3}
  accuracies = {1: 0.9, 2: 0.1, 3: 0.2, 4: None, 6: None, 7: 0.3}
  _save(tmp_path / 'c', accuracies, **options)
  _save(tmp_path / 'c', {8: None, 9: 0.4, 10: None, 11: None}, **options)
  with Checkpointer(tmp_path / 'c', read_only=True) as checkpointer:
    assert checkpointer.steps == [1, 3, 6, 9, 11]
    assert checkpointer.best_step == 1
    # Kept is the state itself, not its folder only.
    jax.tree.map(
      np.testing.assert_array_equal,
      checkpointer.restore(6).restore_into(_state(0)),
      _state(6),
    )


def test_without_evaluations_there_is_no_best(tmp_path):
  _save(tmp_path / 'c', {1: None, 2: None})
  with Checkpointer(tmp_path / 'c', read_only=True) as checkpointer:
    assert checkpointer.best_step is None


def test_empty_directory_has_nothing_to_restore(tmp_path):
  with Checkpointer(tmp_path / 'c') as checkpointer:
    assert checkpointer.restore_last() is None


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(bytes(content))


def _zero_in_array_bytes(path):
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 64] = bytes(64)
  path.write_bytes(bytes(content))


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  'damage',
  [_flip_a_bit, _zero_in_array_bytes, _truncate, pathlib.Path.unlink],
  ids=['flipped bit', 'zeros', 'truncated', 'missing'],
)
def test_damaged_newest_is_reported_and_the_one_before_used(
  tmp_path, damage, caplog
):
  directory = tmp_path / 'c'
  _save(directory, {1: 0.1, 2: 0.2})
  damage(_data_files(directory, 2)[0])
  with Checkpointer(directory) as checkpointer:
    with pytest.raises(ValueError, match='000000002 is damaged'):
      checkpointer.restore(2)
    checkpoint = checkpointer.restore_last()
    assert checkpoint.step == 1
    jax.tree.map(
      np.testing.assert_array_equal,
      checkpoint.restore_into(_state(0)),
      _state(1),
    )
    assert 'Using step 1 instead of the damaged step 2' in caplog.text
    # Its step can be saved again.
    checkpointer.save(to_host(devices.replicate(_state(2))), history=[])
    checkpointer.wait()
    assert checkpointer.restore(2).step == 2


@pytest.mark.parametrize(('best', 'before'), [(3, 2), (2, 1), (1, None)])
@pytest.mark.parametrize('file', ['array', 'meta/metadata'])
def test_a_damaged_best_is_made_again_by_a_run_that_is_over(
  tmp_path, best, before, file
):
  """Else it would stay damaged, for nothing is left to train."""
  directory = tmp_path / 'c'
  scores = {step: 0.9 if step == best else 0.1 for step in range(1, 5)}
  _save(directory, scores, keep_last=4)
  if file == 'array':
    _truncate(_data_files(directory, best)[0])
  else:
    _truncate(directory / f'{best:09d}' / file)
  with Checkpointer(directory) as checkpointer:
    assert checkpointer.restore_last(final_step=5).step == 4
    assert checkpointer.steps == [1, 2, 3, 4]
    found = checkpointer.restore_last(final_step=4)
    assert getattr(found, 'step', None) == before
    assert checkpointer.steps == list(range(1, best))


def test_flipped_bit_in_the_checksums_or_a_missing_item_is_damage(tmp_path):
  directory = tmp_path / 'c'
  _save(directory, {1: 0.1, 2: 0.2})
  meta = directory / f'{2:09d}' / 'meta' / 'metadata'
  content = json.loads(meta.read_text())
  name = next(iter(content['crc32']))
  content['crc32'][name] ^= 1
  meta.write_text(json.dumps(content))
  with (
    Checkpointer(directory, read_only=True) as checkpointer,
    pytest.raises(ValueError, match='CRC-32'),
  ):
    checkpointer.restore(2)
  shutil.rmtree(meta.parent)
  with Checkpointer(directory, read_only=True) as checkpointer:
    assert checkpointer.restore_last().step == 1


def test_a_changed_digit_in_the_history_is_damage(tmp_path):
  """It would move the best step, and be carried on by the run."""
  directory = tmp_path / 'c'
  _save(directory, {1: 0.75, 2: 0.5, 3: 0.25}, keep_last=3)
  with Checkpointer(directory, read_only=True) as checkpointer:
    assert checkpointer.best_step == 1
    fingerprint = checkpointer.fingerprint(2)
  _change_a_digit(directory / '000000003/meta/metadata', b'0.25', b'0.85')
  with Checkpointer(directory, read_only=True) as checkpointer:
    for read in (checkpointer.restore, checkpointer.fingerprint):
      with pytest.raises(
        ValueError, match=r'000000003 is damaged: its .*CRC-32'
      ):
        read(3)
    assert checkpointer.best_step == 1
    assert checkpointer.fingerprint(2) == fingerprint
    assert checkpointer.restore_last().step == 2
  for step in (1, 2):
    _truncate(directory / f'{step:09d}' / 'meta' / 'metadata')
  with (
    Checkpointer(directory, read_only=True) as checkpointer,
    pytest.raises(ValueError, match=r'All checkpoints in .* \[3, 2, 1\]'),
  ):
    checkpointer.resolve('best')


def test_checkpoints_of_version_01_stay_readable(tmp_path, caplog):
  """They have a file of metrics and no checksum of their history."""
  directory = tmp_path / 'c'
  _save(directory, {1: 0.75, 2: 0.5, 3: 0.25}, keep_last=3)
  for step, accuracy in {1: 0.75, 2: 0.5, 3: 0.25}.items():
    meta = directory / f'{step:09d}' / 'meta' / 'metadata'
    record = json.loads(meta.read_text())
    del record['record_crc32']
    meta.write_text(json.dumps(record))
    metrics = directory / f'{step:09d}' / 'metrics' / 'metrics'
    metrics.parent.mkdir()
    metrics.write_text(json.dumps({'top1_accuracy': accuracy}))
    item = directory / f'{step:09d}' / '_CHECKPOINT_METADATA'
    about = json.loads(item.read_text())
    about['item_handlers']['metrics'] = about['item_handlers']['meta']
    item.write_text(json.dumps(about))
  (directory / '000000001/metrics/metrics').write_text('{"')
  with Checkpointer(directory, read_only=True) as checkpointer:
    assert checkpointer.steps == [1, 2, 3]
    assert checkpointer.best_step == 1
    jax.tree.map(
      np.testing.assert_array_equal,
      checkpointer.restore_last().restore_into(_state(0)),
      _state(3),
    )
    with pytest.raises(ValueError, match='000000001 is damaged'):
      checkpointer.restore(1)
  # A run goes on from them, with the best kept.
  _save(directory, {4: 0.5, 5: 0.25}, keep_last=1)
  with Checkpointer(directory, read_only=True) as checkpointer:
    assert checkpointer.steps == [1, 5]


def test_all_damaged_is_an_error_and_deletes_nothing(tmp_path):
  directory = tmp_path / 'c'
  _save(directory, {1: 0.1, 2: 0.2})
  for step in (1, 2):
    _truncate(_data_files(directory, step)[0])
  with (
    Checkpointer(directory) as checkpointer,
    pytest.raises(ValueError, match=r'All checkpoints in .* \[2, 1\]'),
  ):
    checkpointer.restore_last()
  assert sorted(p.name for p in directory.iterdir()) == [
    '000000001',
    '000000002',
  ]


def test_debris_of_a_killed_save_is_not_a_checkpoint(tmp_path):
  directory = tmp_path / 'c'
  _save(directory, {1: 0.1})
  (directory / '000000002.orbax-checkpoint-tmp').mkdir()
  (directory / '000000003').mkdir()  # a directory that holds nothing
  with Checkpointer(directory) as checkpointer:
    assert checkpointer.restore_last().step == 1
