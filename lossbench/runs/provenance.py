"""Where numbers come from: code, libraries, machines, data.

For run.json, and for comparing the processes of a run.
"""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import lossbench

_ROOT = pathlib.Path(lossbench.__file__).parents[1]
_SOURCES = ('lossbench', 'configs', 'main.py')
# Those that are not installed are left out.
_LIBRARIES = (
  'flax',
  'jax',
  'jax-cuda12-plugin',
  'jax-cuda13-plugin',
  'jaxlib',
  'libtpu',
  'numpy',
  'optax',
  'orbax-checkpoint',
  'tensorflow',
  'tensorflow-cpu',
  'tensorflow-datasets',
)


def library_versions() -> dict[str, str]:
  """Library -> version of those that compute, read or store; and Python's."""
  versions = {'python': platform.python_version()}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def code_fingerprint() -> str:
  """Eight hexadecimal digits of the source files that are running."""
  files = []
  for name in _SOURCES:
    path = _ROOT / name
    files += [path] if path.is_file() else sorted(path.rglob('*.py'))
  checksum = 0
  for path in files:
    checksum = zlib.crc32(path.relative_to(_ROOT).as_posix().encode(), checksum)
    checksum = zlib.crc32(path.read_bytes(), checksum)
  return f'{checksum:08x}'


def code_version() -> dict[str, Any]:
  """'version' and 'fingerprint'; of a git checkout 'revision' and 'clean'.

  Clean is a checkout whose source files are those of its revision.
  """
  found = {
    'version': lossbench.__version__,
    'fingerprint': code_fingerprint(),
  }
  # Not of a repository that only happens to be above an installed package.
  if _git('ls-files', '--error-unmatch', 'lossbench/__init__.py') is None:
    return found
  changes = _git('status', '--porcelain', '--', *_SOURCES)
  return found | {
    'revision': _git('rev-parse', 'HEAD'),
    'clean': changes == '',
  }


def _git(*arguments: str) -> str | None:
  """What git says of the checkout; None where there is none, or no git."""
  try:
    found = subprocess.run(
      ['git', '-C', str(_ROOT), *arguments],
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return found.stdout.strip()


def describe_start(
  *, step: int, dataset: Mapping[str, Any], allowed: Sequence[str]
) -> dict[str, Any]:
  """A start of a run, for run.json.

  Args:
    step: of the checkpoint that it resumes at, 0 without one.
    dataset: as `lossbench.data.datasets.describe` returns it.
    allowed: which changes since the start before were allowed.
  """
  # Not above: those who compare processes ask before they use the devices.
  import jax

  from lossbench.runtime import devices

  return {
    'allowed': sorted(allowed),
    'code': code_version(),
    'command': sys.argv,
    'dataset': dict(dataset),
    'device_kind': jax.devices()[0].device_kind,
    'devices': devices.count(),
    'libraries': library_versions(),
    'processes': jax.process_count(),
    'step': step,
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }
