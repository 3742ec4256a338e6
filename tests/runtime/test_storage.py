"""Run directories in a bucket, against a fake one on the disk."""

import etils.epath.backend as backends
import numpy as np
import pytest
import tensorflow as tf

from configs import digits_cnn
from lossbench.evaluation.outputs import _read_collected, write_arrays
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runtime import storage


class _FakeBucket(backends._OsPathBackend):
  """gs://bucket/... on the local disk; knows no rename, as buckets do not."""

  def __init__(self, root):
    self._root = str(root)

  def _local(self, path):
    return str(path).replace('gs:/', self._root, 1).replace('//', '/')

  def open(self, path, mode):
    local = self._local(path)
    if 'w' in mode:  # objects need no directory
      super().makedirs(local.rpartition('/')[0], exist_ok=True)
    return tf.io.gfile.GFile(local, mode)  # which does not seek where it writes

  def exists(self, path):
    return super().exists(self._local(path))

  def isdir(self, path):
    return super().isdir(self._local(path))

  def listdir(self, path):
    return super().listdir(self._local(path))

  def makedirs(self, path, **options):
    super().makedirs(self._local(path), **options)

  def mkdir(self, path, **options):
    super().makedirs(self._local(path), exist_ok=True)

  def remove(self, path):
    super().remove(self._local(path))

  def replace(self, path, dst):
    raise AssertionError('buckets do not rename')


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  monkeypatch.setattr(backends, 'tf_backend', _FakeBucket(tmp_path))
  return tmp_path / 'bucket'


def test_a_run_directory_in_a_bucket(bucket):
  run = RunDirectory('gs://bucket/runs/one')
  config = digits_cnn.get_config()
  with run.locked():  # which does nothing here
    run.claim(config, num_steps=7)
  assert str(run.path) == 'gs://bucket/runs/one'
  assert (bucket / 'runs/one/config.json').exists()
  assert run.num_steps == 7
  assert run.last_step == 0
  assert not run.has_checkpoints()
  # Orbax writes a step in its place and commits it last.
  for step in (4, 8):
    (bucket / f'runs/one/checkpoints/00000000{step}/state').mkdir(parents=True)
    assert not run.has_checkpoints()
    assert run.last_step == 0
  (bucket / 'runs/one/checkpoints/000000004/commit_success.txt').touch()
  assert run.has_checkpoints()
  assert run.last_step == 4
  assert run.read_config().to_dict()['seed'] == 0
  other = digits_cnn.get_config('sigmoid')
  with pytest.raises(
    ValueError, match='gs://bucket/runs/one holds another run'
  ):
    run.claim(other, num_steps=7)
  names = sorted(path.name for path in (bucket / 'runs/one').iterdir())
  assert names == ['checkpoints', 'config.json', 'run.json']


def test_files_in_a_bucket(bucket):
  path = storage.as_path('gs://bucket/a/b/values.json')
  write_json(path, {'x': 1})
  write_json(path, {'x': 2})
  assert read_json(path) == {'x': 2}
  arrays = storage.as_path('gs://bucket/a/predictions.npz')
  logits = np.arange(6.0).reshape(2, 3)
  write_arrays(
    arrays,
    id=np.array([b'0', b'1']),
    label=np.array([1, 2]),
    source=np.array('here'),
    logits=logits,
  )
  found = _read_collected(arrays, 'here')
  np.testing.assert_array_equal(found.arrays['logits'], logits)
  assert _read_collected(arrays, 'elsewhere') is None
  assert str(storage.absolute(arrays)) == 'gs://bucket/a/predictions.npz'


def test_a_bucket_that_does_not_answer_is_refused_in_one_line(monkeypatch):
  class Unreachable(_FakeBucket):
    def exists(self, path):
      raise RuntimeError('could not find credentials\nand much more')

  monkeypatch.setattr(backends, 'tf_backend', Unreachable('/nowhere'))
  with pytest.raises(OSError, match='could not find credentials') as error:
    RunDirectory('gs://bucket/run')
  text = str(error.value)
  assert text.startswith('gs://bucket/run cannot be reached')
  assert 'gcloud auth application-default login' in text
  assert '\n' not in text


def test_local_paths_stay_pathlibs(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert storage.as_path('~/run') == tmp_path / 'run'
  assert not storage.is_remote(tmp_path)
  with pytest.raises(ZeroDivisionError):
    storage.write_whole(tmp_path / 'file', lambda file: 1 / 0)
  assert list(tmp_path.iterdir()) == []
