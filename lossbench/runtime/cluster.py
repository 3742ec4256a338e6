"""Runs of many processes: finding one another, agreeing, and dying together.

On TPU pods and wherever JAX finds a coordinator in its environment, processes
set themselves up. On other clusters every process gets --coordinator,
--num_processes and --process_id, or --coordinator=auto for what JAX detects by
itself (Slurm, Open MPI, Kubernetes). Without any of these there is one process.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from absl import flags

from lossbench.runtime import stopping

# How long processes wait for one another at the start, and at the end.
START_SECS = 300
SHUTDOWN_SECS = 60
# How long processes wait for one another to compare what they hold: for the
# slowest to get there. Those that have died are missed much earlier.
_AGREEMENT_SECS = 3600

# Its flags are those of the binary that defines them; see `cli`.
flags.disclaim_key_flags()

_several = False  # processes, since `initialize`
_rounds = itertools.count()  # of comparisons


class Disagreement(ValueError):
  """What the processes hold differs; all of them raise it, at the same place."""


def define_flags():
  """Defines the flags of every binary that runs on clusters."""
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
  # JAX sends a heartbeat in half of the time, so that a process which is
  # suspended for less than the other half is not missed.
  flags.DEFINE_integer(
    'heartbeat_secs',
    90,
    'A process that is not heard of for so long is dead, and the others of the '
    'run end; it may be suspended for almost half of the time.',
    lower_bound=2,
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

  # It would take SIGTERM in C, where Python does not see it; ours are
  # `stop_together` and `train.preemption`.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address=None if automatic else coordinator,
      num_processes=args.num_processes,
      process_id=args.process_id,
      heartbeat_timeout_seconds=args.heartbeat_secs,
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


def check_agreement(values: Mapping[str, Any]):
  """Compares what must be the same on every process.

  All of them call this, as often and in the same order. Computes nothing on the
  devices, which would wait for ever if the processes' programs differed: what is
  compared goes through the service by which they found one another.

  Args:
    values: name -> value, as JSON; the first that differs is named.

  Raises:
    Disagreement: on every process, if one holds another value than the first;
      names it, both values and hosts.
    ValueError: if the others do not come.
  """
  import jax

  if jax.process_count() == 1:
    return
  from orbax.checkpoint import multihost

  client = multihost.get_jax_distributed_client()
  key, own = f'lossbench/agreement/{next(_rounds)}', jax.process_index()

  def read(name):
    text = client.blocking_key_value_get(
      f'{key}/{name}', 1000 * _AGREEMENT_SECS
    )
    return json.loads(text)

  held = {'host': os.uname().nodename, 'values': dict(values)}
  client.key_value_set(f'{key}/{own}', json.dumps(held))
  try:
    if own == 0:
      all_held = [read(index) for index in range(jax.process_count())]
      client.key_value_set(f'{key}/found', json.dumps(_difference(all_held)))
    difference = read('found')
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f'The other processes of this run did not come within {_AGREEMENT_SECS} s'
      f': {error}'
    ) from error
  if difference:
    raise Disagreement(difference)


def connect_devices():
  """Lets the devices of all processes find one another while all are here.

  Called after `check_agreement`, when their programs are known to be the same. On
  CPUs the first collective waits for the slowest process for 30 seconds only, and
  before the first of training lie building, tracing and compiling.
  """
  if not _several:
    return
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  from lossbench.runtime import devices

  # As in training, and as in comparisons of what is on the hosts.
  jax.block_until_ready(
    devices.gather(devices.place(np.zeros(jax.local_device_count())))
  )
  multihost_utils.process_allgather(np.zeros(1), tiled=True)


def _difference(all_held) -> str:
  """How a process differs from the first; '' if none does."""
  first = all_held[0]
  for index, other in enumerate(all_held):
    for name in first['values'] | other['values']:
      mine, theirs = (
        held['values'].get(name, 'absent') for held in (first, other)
      )
      if mine != theirs:
        return (
          f'The processes of this run differ in {name}: {mine!r} in process 0 '
          f'on {first["host"]}, {theirs!r} in process {index} on '
          f'{other["host"]}. Start all of them by one command with the same '
          'code, libraries and data.'
        )
  return ''


def leave():
  """Parts from the other processes, which all do the same.

  So none takes the end of another for its death.
  """
  if _several:
    import jax

    with contextlib.suppress(Exception):  # the program ends anyway
      jax.distributed.shutdown()


def _found_by_jax() -> bool:
  """Whether JAX's environment names a coordinator, or this is a TPU host."""
  if os.environ.get('JAX_COORDINATOR_ADDRESS'):
    return True
  # To JAX an empty one is as good as none.
  on_tpu = (os.environ.get('JAX_PLATFORMS') or 'tpu').startswith('tpu')
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
  stopping.die(1)


def exit_with(message: str):
  """Ends the program with a message and status 1.

  One of many processes must not wait for the others, who may wait for it: they
  notice within --heartbeat_secs and end too.
  """
  if not _several:
    sys.exit(message)
  print(message, file=sys.stderr, flush=True)
  stopping.die(1)


def stop_together():
  """Lets a signal to one process stop all, where there are several.

  See `stopping.stop_together`.
  """
  if _several:
    stopping.stop_together()


def leave_stopped(*, tell: bool):
  """Ends the program with the status of one that was asked to stop.

  Args:
    tell: as of `stopping.leave`.
  """
  if _several:
    stopping.leave(tell=tell)
  sys.exit(stopping.EXIT_STATUS)
