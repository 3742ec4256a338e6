"""Paths on a disk and in a bucket, of a service over HTTP."""

import uuid

import numpy as np
import pytest
from etils import epath

from configs import digits_cnn
from lossbench.evaluation.files import read_collected, write_arrays
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runtime import storage
from tests.faults.buckets import Fault


@pytest.fixture
def path(bucket):
  """A directory in the bucket that is not there yet."""
  return epath.Path(f'gs://bucket/{uuid.uuid4().hex}')


def test_a_run_directory_in_a_bucket(path):
  run = RunDirectory(f'{path}/one')
  config = digits_cnn.get_config()
  with run.locked():  # which does nothing here
    run.claim(config, num_steps=7)
  assert str(run.path) == f'{path}/one'
  assert run.num_steps == 7
  assert run.last_step == 0
  assert not run.has_checkpoints()
  # Orbax writes a step in its place and commits it last.
  for step in (4, 8):
    state = run.checkpoints_path / f'{step:09d}' / 'state'
    state.mkdir(parents=True)
    (state / 'array').write_text('half')
    assert not run.has_checkpoints()
    assert run.last_step == 0
  (run.checkpoints_path / '000000004' / 'commit_success.txt').touch()
  assert run.has_checkpoints()
  assert run.last_step == 4
  assert run.read_config().to_dict()['seed'] == 0
  other = digits_cnn.get_config('sigmoid')
  with pytest.raises(ValueError, match=f'{path}/one holds another run'):
    run.claim(other, num_steps=7)
  text = run.config_path.read_text()
  run.config_path.write_text('')
  with pytest.raises(ValueError, match=r'config.json is empty'):
    run.read_config()
  run.config_path.write_text(text)
  names = sorted(item.name for item in run.path.iterdir())
  assert names == ['checkpoints', 'config.json', 'run.json']


def test_files_in_a_bucket(path):
  values = storage.as_path(f'{path}/a/values.json')
  write_json(values, {'x': 1})
  write_json(values, {'x': 2})
  assert read_json(values) == {'x': 2}
  arrays = path / 'predictions.npz'
  logits = np.arange(6.0).reshape(2, 3)
  write_arrays(
    arrays,
    id=np.array([b'0', b'1']),
    label=np.array([1, 2]),
    source=np.array('here'),
    logits=logits,
  )
  found = read_collected(arrays, 'here')
  np.testing.assert_array_equal(found.arrays['logits'], logits)
  assert read_collected(arrays, 'elsewhere') is None
  assert storage.absolute(arrays) == arrays


def test_passing_faults_of_a_bucket_are_waited_out(path, bucket):
  """Also where the service did what it was asked and nobody heard of it."""
  write_json(path / 'values.json', {'x': 1})
  faults = [
    bucket.inject(503, path=path.name, times=2),
    bucket.inject('drop', path=path.name, method='PUT', times=1),
  ]
  write_json(path / 'values.json', {'x': 2})
  assert read_json(path / 'values.json') == {'x': 2}
  assert [fault.count for fault in faults] == [2, 1]


def test_a_bucket_that_is_not_there(bucket):
  with pytest.raises(OSError, match="there is no bucket 'other'") as error:
    storage.as_path('gs://other/run')
  assert 'gcloud storage buckets create gs://other' in str(error.value)
  with pytest.raises(OSError, match='names no bucket'):
    storage.as_path('gs://')


def test_public_data_need_no_right_to_ask_for_their_bucket(path, bucket):
  (path / 'data').write_text('here')
  forbidden = Fault(lambda _, where: where == '/storage/v1/b/bucket', 403)
  bucket.faults.append(forbidden)
  assert storage.as_path(path) == path
  assert forbidden.count == 0
  with pytest.raises(OSError, match='403'):
    storage.as_path(path / 'missing')


@pytest.mark.parametrize(
  ('status', 'reason'),
  [(403, r'code 403 \(injected\) when reading'), (503, r'code 503 \(injected')],
)
def test_a_bucket_that_does_not_answer_is_one_line(
  path, bucket, status, reason
):
  bucket.inject(status)
  with pytest.raises(OSError, match=reason) as error:
    storage.as_path(path)
  text = str(error.value)
  assert text.startswith(f'{path} cannot be reached')
  assert 'gcloud auth application-default login' in text
  assert '\n' not in text


def test_reasons_of_buckets_and_of_nobody_else(path, bucket):
  bucket.inject(403)
  with pytest.raises(Exception, match='403') as error:
    (path / 'x').read_text()
  assert '403' in storage.reason_of_bucket(error.value)
  wrapped = RuntimeError('of a thread')
  wrapped.__cause__ = error.value
  assert '403' in storage.reason_of_bucket(wrapped)
  assert storage.reason_of_bucket(ZeroDivisionError('gs://')) == ''


def test_a_bucket_that_cannot_keep_checkpoints_is_one_line(
  path, bucket, monkeypatch
):
  """Before anything is trained, and with the roles that are missing."""
  run = RunDirectory(path)
  bucket.inject(403, path='/upload/')
  with pytest.raises(OSError, match=r'cannot be written to: .*403') as error:
    run.make()
  assert f'--workdir={path}' in str(error.value)
  assert 'roles/storage.objectUser' in str(error.value)
  bucket.faults.clear()
  bucket.inject(403, path='/b/bucket?projection')  # what Orbax asks
  with pytest.raises(OSError, match='cannot keep checkpoints: 403') as error:
    run.make()
  assert str(error.value).startswith(str(path))
  assert 'roles/storage.legacyBucketReader' in str(error.value)
  bucket.faults.clear()
  bucket.inject(
    {'name': 'bucket', 'hierarchicalNamespace': {'enabled': True}},
    path='/b/bucket?projection',
  )
  with pytest.raises(OSError, match='gs://bucket has a hierarchical namespace'):
    run.make()
  bucket.faults.clear()
  monkeypatch.delenv('GOOGLE_CLOUD_PROJECT')
  with pytest.raises(OSError, match='GOOGLE_CLOUD_PROJECT must be set'):
    run.make()


def test_what_was_chosen_for_clients_is_kept():
  environ = {'TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS': '5'}
  storage.choose_client_defaults(environ)
  assert environ['TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS'] == '5'
  assert environ['TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES'] == '1'
  assert environ['GCS_STAT_CACHE_MAX_AGE'] == '0'


def test_local_paths_stay_pathlibs(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert storage.as_path('~/run') == tmp_path / 'run'
  assert not storage.is_remote(tmp_path)
  with pytest.raises(ZeroDivisionError):
    storage.write_whole(tmp_path / 'file', lambda file: 1 / 0)
  assert list(tmp_path.iterdir()) == []
