"""Directories on a disk or in a bucket.

Buckets (gs://...) go through etils.epath, which TFDS and Orbax use too. Imports
neither JAX nor TensorFlow unless a bucket is named.
"""

import io
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import IO

Path = pathlib.Path  # or epath's, which has the same methods


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
  """Raises OSError with the reason, and the remedy, unless a bucket answers."""
  try:
    path.exists()
  except Exception as error:
    # TensorFlow's errors have no base in common with those of other backends.
    reason = str(error).splitlines()[0][:200]
    raise OSError(
      f'{path} cannot be reached: {reason}. Check the name, the network and the '
      "credentials ('gcloud auth application-default login', or the machine's "
      'service account).'
    ) from error


def absolute(path: Path) -> Path:
  """What Orbax wants; a bucket's path has no working directory."""
  return path if is_remote(path) else path.absolute()


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


def _sync_directory(path: Path):
  directory = os.open(path, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)
