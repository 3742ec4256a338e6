"""Runs of many processes: finding one another, and dying together.

On TPU pods and wherever JAX finds a coordinator in its environment, processes
set themselves up. On other clusters every process gets --coordinator,
--num_processes and --process_id, or --coordinator=auto for what JAX detects by
itself (Slurm, Open MPI, Kubernetes). Without any of these there is one process.
"""

import importlib.util
import os
import sys
import traceback

from absl import flags

# A process that is dead is missed after this many seconds, and the others end.
HEARTBEAT_SECS = 20
# How long processes wait for one another at the start, and at the end.
START_SECS = 300
SHUTDOWN_SECS = 60

# Its flags are those of the binary that defines them; see `cli`.
flags.disclaim_key_flags()

_several = False  # processes, since `initialize`


def define_flags():
  """Of every binary that runs on clusters."""
  flags.DEFINE_string(
    'coordinator',
    None,
    "HOST:PORT of process 0, or 'auto' for what JAX detects (Slurm, Open MPI, "
    'Kubernetes). TPU pods need none.',
  )
  flags.DEFINE_integer(
    'num_processes', None, 'Processes of this run.', lower_bound=1
  )
  flags.DEFINE_integer(
    'process_id', None, 'Number of this process, from 0.', lower_bound=0
  )


def initialize():
  """Connects the processes, if there are several; before any use of JAX.

  Raises:
    ValueError: if the flags are incomplete or contradict one another, or the
      other processes do not come.
  """
  args = flags.FLAGS
  numbers = args.num_processes, args.process_id
  coordinator = args.coordinator
  if coordinator is None and numbers != (None, None):
    coordinator = os.environ.get('JAX_COORDINATOR_ADDRESS')
  automatic = coordinator in (None, 'auto')
  if automatic and numbers != (None, None):
    raise ValueError(
      '--num_processes and --process_id need --coordinator=HOST:PORT.'
    )
  if coordinator is None and not _found_by_jax():
    return
  if not automatic:
    if None in numbers or args.process_id >= args.num_processes:
      raise ValueError(
        f'--coordinator={coordinator} needs --num_processes and --process_id '
        f'below it; got {numbers[0]} and {numbers[1]}.'
      )
    if not coordinator.rpartition(':')[2].isdigit() or ':' not in coordinator:
      raise ValueError(
        f'--coordinator={coordinator} has no port. Give HOST:PORT.'
      )
  import jax

  try:
    jax.distributed.initialize(
      coordinator_address=None if automatic else coordinator,
      num_processes=args.num_processes,
      process_id=args.process_id,
      heartbeat_timeout_seconds=HEARTBEAT_SECS,
      shutdown_timeout_seconds=SHUTDOWN_SECS,
      initialization_timeout=START_SECS,
    )
  except (ValueError, RuntimeError) as error:
    if coordinator is None and not os.environ.get('JAX_COORDINATOR_ADDRESS'):
      raise ValueError(
        f'libtpu is installed, but this is no TPU host: {error} Set '
        'JAX_PLATFORMS=cpu to compute on the CPU. If it has a TPU, give '
        '--coordinator=HOST:PORT, --num_processes and --process_id.'
      ) from error
    raise ValueError(
      f'The processes of this run did not find one another: {error}'
    ) from error
  global _several
  _several = jax.process_count() > 1
  if _several:
    sys.excepthook = _die_loudly


def _found_by_jax() -> bool:
  """Whether JAX's environment names a coordinator, or this is a TPU host."""
  if os.environ.get('JAX_COORDINATOR_ADDRESS'):
    return True
  on_tpu = os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')
  return on_tpu and importlib.util.find_spec('libtpu') is not None


def _die_loudly(kind, error, trace):
  """Ends this process at once, so that the others miss it."""
  from jax.errors import JaxRuntimeError

  traceback.print_exception(kind, error, trace)
  if isinstance(error, JaxRuntimeError):
    print(
      'If this was a collective, another process of the run has probably died: '
      'its own log says why.',
      file=sys.stderr,
    )
  sys.stderr.flush()
  os._exit(1)


def exit_with(message: str, *, status: int = 1):
  """Ends the program with a message and a status.

  One of many processes must not wait for the others, who may wait for it: they
  notice within HEARTBEAT_SECS and end too.
  """
  print(message, file=sys.stderr, flush=True)
  if not _several:
    sys.exit(status)
  os._exit(status)
