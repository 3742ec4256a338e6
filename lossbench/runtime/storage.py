"""Directories on a disk or in a bucket.

Buckets (gs://...) go through etils.epath, which TFDS and Orbax use too. Imports
neither JAX nor TensorFlow unless a bucket is named.
"""

import contextlib
import io
import logging
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from typing import IO

Path = pathlib.Path  # or epath's, which has the same methods

_CLIENT_DEFAULTS = {
  # TensorFlow would remember for five seconds what is there, also when another
  # client has changed it: Orbax cannot save a step anew that it just cleared.
  'GCS_STAT_CACHE_MAX_AGE': '0',
  # TensorStore, which moves arrays, would wait for ever for an answer that does
  # not come. A request is given up, and made again, when for so many seconds
  # less than one byte a second arrived.
  'TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS': '60',
  'TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS': '60',
  'TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES': '1',
}
REMEDY = (
  "Check the name, the network, the credentials ('gcloud auth "
  "application-default login', or the machine's service account) and its roles "
  '(roles/storage.objectUser and roles/storage.legacyBucketReader; see '
  'launch/README.md)'
)


def choose_client_defaults(environ: MutableMapping[str, str] = os.environ):
  """Chooses how clients of buckets behave, but for what is chosen already.

  They read the environment when they are loaded.

  Args:
    environ: the environment.
  """
  for name, value in _CLIENT_DEFAULTS.items():
    environ.setdefault(name, value)


def is_remote(path: str | os.PathLike) -> bool:
  """Whether it lies in a bucket."""
  return '://' in str(os.fspath(path))


def check_named(path: str | os.PathLike):
  """Raises ValueError for an empty path, which is the current directory."""
  if not os.fspath(path):
    raise ValueError(
      "A directory is '' (--workdir= or --output=, a shell variable that is not "
      "set?). Give its path, '.' for the current one."
    )


def as_path(path: str | os.PathLike, *, check: bool = True) -> Path:
  """A path of the right kind.

  Args:
    path: on a disk or in a bucket.
    check: that a bucket answers.

  Raises:
    ValueError: if it is empty, which would be the current directory.
    OSError: if it lies in a bucket that cannot be reached.
  """
  check_named(path)
  if not is_remote(path):
    return pathlib.Path(path).expanduser()
  from etils import epath

  remote = epath.Path(path)
  if check:
    check_reachable(remote)
  return remote


def check_reachable(path: Path):
  """Raises OSError with the reason, and the remedy, unless a bucket answers.

  Nothing is asked of a path on a disk.
  """
  if not is_remote(path):
    return
  if len(path.parts) < 3:
    raise OSError(f'{path} names no bucket. Give gs://BUCKET/DIRECTORY.')
  scheme, bucket = path.parts[1:3]
  try:
    # A path that is there needs no right to ask for its bucket: public data.
    found = path.exists() or type(path)(f'{scheme}://{bucket}').exists()
  except Exception as error:
    raise OSError(
      f'{path} cannot be reached: {_reason(error)}. {REMEDY}.'
    ) from error
  if not found:
    raise OSError(
      f'{path} cannot be reached: there is no bucket {bucket!r}. Check the '
      f'name, or make it: gcloud storage buckets create {scheme}://{bucket}.'
    )


def check_keeps_checkpoints(path: Path):
  """Raises OSError unless Orbax can keep checkpoints in a bucket.

  It asks for the bucket's properties before it lists what is there, and deletes
  the folders of a hierarchical namespace by a client that is not installed.
  """
  from google.cloud import storage

  scheme, name = path.parts[1:3]
  try:
    bucket = storage.Client().get_bucket(name)
  except Exception as error:
    raise OSError(
      f'{path} cannot keep checkpoints: {_reason(error)}. {REMEDY}. Outside '
      "Google's cloud GOOGLE_CLOUD_PROJECT must be set."
    ) from error
  if bucket.hierarchical_namespace_enabled:
    raise OSError(
      f'{path} cannot keep checkpoints: {scheme}://{name} has a hierarchical '
      'namespace, in which old ones cannot be deleted. Choose a bucket without.'
    )


def reason_of_bucket(error: BaseException | None) -> str:
  """Why a bucket did not do what was asked; '' of any other error.

  TensorFlow's errors and those of Google's clients have no base in common with
  one another or with those of disks.
  """
  while error is not None:
    module = type(error).__module__
    if module.startswith(('google.api_core.', 'google.auth.')) or (
      module.startswith('tensorflow.') and '://' in str(error)
    ):
      return _reason(error)
    error = error.__cause__
  return ''


def _reason(error: BaseException) -> str:
  text = ' '.join(str(error).split()) or type(error).__name__
  # TensorFlow quotes all that the service answered, as JSON.
  text = re.sub(r"with body '.*?\"message\": ?\"(.*?)\".*'", r'(\1)', text)
  return text[:300].rstrip('. ')


def absolute(path: Path) -> Path:
  """What Orbax wants; a bucket's path has no working directory."""
  return path if is_remote(path) else path.absolute()


def make_directory(path: Path, *, flag: str):
  """Makes a directory and tries to write, before hours of work.

  Args:
    path: on a disk or in a bucket; may be there already.
    flag: that names it, e.g. '--workdir'.

  Raises:
    OSError: one line with the flag, if it cannot be written to.
  """
  probe = path / f'.{uuid.uuid4().hex}'
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except Exception as error:
    reason = reason_of_bucket(error)
    if not reason and not isinstance(error, OSError):
      raise
    reason = reason or error.strerror or str(error)
    remedy = 'Choose a directory that you may write to'
    if is_remote(path):
      remedy = REMEDY
    raise OSError(
      f'{flag}={path} cannot be written to: {reason}. {remedy}.'
    ) from error


def write_whole(path: Path, write_fn: Callable[[IO[bytes]], object]):
  """Writes a file so that a reader sees the old one or the whole new one.

  Also one who reads after the power failed: the bytes are on the disk before
  the file gets its name, and the name before this returns.

  Args:
    path: of the file; its directory is made.
    write_fn: writes into a binary file.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  if is_remote(path):  # an object appears when it is whole
    # Whole in memory first: NumPy seeks in what it writes, buckets do not.
    buffer = io.BytesIO()
    write_fn(buffer)
    path.write_bytes(buffer.getvalue())
    return
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    with temporary.open('wb') as file:
      write_fn(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_directory(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def remove_tree(path: Path):
  """Removes a directory with all that is in it, if it is there."""
  if not path.exists():
    return
  if is_remote(path):
    path.rmtree()
  else:
    shutil.rmtree(path)


@contextlib.contextmanager
def appended(path: Path) -> Iterator[pathlib.Path]:
  """A file to append to, while the context lasts.

  Objects in a bucket cannot be appended to. There the file is one on a disk, and
  what was written joins the object at the end; of a process that was killed, or
  where the bucket is away, it is lost.

  Args:
    path: of the file; its directory is made.
  """
  if not is_remote(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    return
  with tempfile.TemporaryDirectory() as directory:
    local = pathlib.Path(directory) / path.name
    local.touch()
    try:
      yield local
    finally:
      _append(path, local.read_bytes())


def _append(path: Path, content: bytes):
  """Appends to an object; a log that cannot be kept fails nothing."""
  if not content:
    return
  try:
    try:
      before = path.read_bytes()
    except FileNotFoundError:
      before = b''
    path.write_bytes(before + content)
  except Exception as error:
    reason = reason_of_bucket(error)
    if not reason:
      raise
    # That of `console`, whose libraries not everybody wants.
    logging.getLogger('lossbench').warning(
      '%s lacks what was written last: %s.', path, reason
    )


def _sync_directory(path: Path):
  directory = os.open(path, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)
