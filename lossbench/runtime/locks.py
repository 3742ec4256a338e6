"""One process at a time in a directory."""

import contextlib
import os
import pathlib

import filelock


@contextlib.contextmanager
def locked(directory: pathlib.Path):
  """Keeps other processes out of a directory for as long as this one lives.

  The operating system holds the lock, so that no process that died, however,
  leaves one behind. Processes that this one starts do not hold it.

  Args:
    directory: the --workdir; there, and on a disk, for buckets know no locks.

  Raises:
    BlockingIOError: if another process has it; names process and host.
    OSError: if the file `lock` cannot be written.
  """
  path = directory / 'lock'
  # A lock that the system does not hold would outlive its holder.
  lock = filelock.FileLock(path, fallback_to_soft=False)
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout as error:
    raise BlockingIOError(
      f'--workdir={directory} is in use by process '
      f'{path.read_text().strip() or "?"}. Wait for it, stop it, or choose '
      'another directory.'
    ) from error
  try:
    path.write_text(f'{os.getpid()} on {os.uname().nodename}\n')
    yield
  finally:
    lock.release()
