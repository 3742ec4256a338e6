"""Where compiled programs are kept, so that none is compiled twice."""

import hashlib
import os
import pathlib
import platform
from collections.abc import MutableMapping

MAX_BYTES = 2**30
# What the compiler's choice of instructions may depend on, of /proc/cpuinfo.
_CPU_KEYS = (
  'vendor_id',
  'model name',
  'flags',
  'CPU implementer',
  'CPU part',
  'Features',
)


def keep_compilations(environ: MutableMapping[str, str] = os.environ):
  """Lets JAX keep compiled programs in ~/.cache/lossbench/xla, at most 1 GiB.

  Sets variables that JAX reads when it is imported, and that processes that are
  started inherit. Under `XDG_CACHE_HOME` where that is set; in a directory for
  each kind of CPU, since JAX does not tell their programs apart. The program that
  was not used for longest goes first. A directory in `JAX_COMPILATION_CACHE_DIR`
  takes the place of this one, as JAX documents it, and '' keeps nothing. Nor is
  anything kept where the directory cannot be written to.

  Args:
    environ: the environment.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in environ:
    return
  caches = environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  path = pathlib.Path(caches, 'lossbench', 'xla', _cpu()).absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      return
    _drop_unfinished(path)
  except OSError:
    return
  environ['JAX_COMPILATION_CACHE_DIR'] = str(path)
  environ['JAX_COMPILATION_CACHE_MAX_SIZE'] = str(MAX_BYTES)
  # A run has few programs, and also small ones add up to seconds.
  environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')


def _cpu() -> str:
  """A short name of this kind of CPU."""
  words = [platform.machine()]
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().split('\n\n')[0]
  except OSError:
    lines = platform.processor()
  for line in lines.splitlines():
    if line.partition('\t')[0].partition(':')[0].strip() in _CPU_KEYS:
      words.append(line)
  digest = hashlib.sha256('\n'.join(words).encode()).hexdigest()
  return f'{platform.machine()}-{digest[:8]}'


def _unfinished(path):
  """Programs of processes that were killed before they wrote the time."""
  return [
    program
    for program in path.glob('*-cache')
    if not program.with_name(
      f'{program.name.removesuffix("-cache")}-atime'
    ).exists()
  ]


def _drop_unfinished(path):
  """Removes programs without a time, for which JAX would keep no more."""
  if not _unfinished(path):
    return
  import filelock  # not above: all binaries import this module

  # The lock that JAX writes under.
  with filelock.FileLock(path / '.lockfile', timeout=10):
    for program in _unfinished(path):
      program.unlink()
