"""What a person at the terminal sees: our lines, and others' warnings."""

import logging
import os
import subprocess
import sys

import rich.console
from absl import flags
from absl import logging as absl_logging

LOGGER = logging.getLogger('lossbench')

_FIND_DEVICE = """
import sys, jax
try:
  jax.process_index()
except (RuntimeError, AssertionError) as error:
  sys.exit(str(error))
"""
_first = True  # of the processes of this run, since `configure`


def configure():
  """Sends lossbench's log to standard error, from the first process only.

  The libraries' own information (Orbax prints a page for every save) appears
  with --verbosity=1. Ends the program where JAX finds no device.
  """
  # Not above: binaries that compute nothing start faster without it, and
  # asking for the process index below takes hold of the accelerators.
  import jax

  if flags.FLAGS.verbosity <= 0:
    # Warnings too: Orbax warns of what it was asked to do. And errors: Orbax
    # logs those of its threads with a traceback, and they reach us anyway.
    absl_logging.set_verbosity(absl_logging.FATAL)
    # asyncio complains when Orbax's loops end with an error.
    sys.unraisablehook = lambda unraisable: LOGGER.debug('%s', unraisable)
    for name in ('tensorflow', 'jax'):
      logging.getLogger(name).setLevel(logging.ERROR)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  LOGGER.handlers = [handler]
  LOGGER.propagate = False
  global _first
  try:
    _first = jax.process_index() == 0
  except (RuntimeError, AssertionError) as error:  # of cuda, with no plug-in
    fail(_no_device(str(error)))
  LOGGER.setLevel(logging.INFO if _first else logging.WARNING)


def check_device_of_children():
  """Ends the program where JAX would find no device in processes it starts.

  In one of them, for accelerators belong to whoever takes hold of them first.
  """
  # Without a name, or as 'cpu', JAX always finds one.
  if os.environ.get('JAX_PLATFORMS', '') in ('', 'cpu'):
    return
  found = subprocess.run(
    [sys.executable, '-c', _FIND_DEVICE],
    capture_output=True,
    text=True,
    check=False,
  )
  if found.returncode:
    fail(_no_device(found.stderr.strip().rpartition('\n')[2]))


def _no_device(why: str) -> ValueError:
  """The error for a machine without the accelerator that JAX was to use."""
  asked = os.environ.get('JAX_PLATFORMS', '')
  reason = why.partition(' (set JAX_PLATFORMS')[0].rstrip('.')
  return ValueError(
    f'With JAX_PLATFORMS={asked} JAX finds no device'
    f'{f" ({reason})" if reason else ""}. Set JAX_PLATFORMS=cpu to compute on '
    "the CPU; with an accelerator, install its extra: pip install -e '.[train,tpu]' "
    "or '.[train,cuda]' (in the checkout)."
  )


def output() -> rich.console.Console:
  """Standard output, for tables and lines that quote names and errors.

  Brackets in them are no markup: '[/data]' in an error would be refused, and
  '[train]' swallowed. Of several processes only the first prints.
  """
  return rich.console.Console(file=sys.stdout, markup=False, quiet=not _first)


def fail(error: Exception):
  """Ends the program with the error's message on one line."""
  from lossbench.runtime import cluster

  cluster.exit_with(f'Error: {" ".join(str(error).split())}')
