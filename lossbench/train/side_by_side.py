"""Several runs at once in one process, each on a device of its own.

A run has a thread, in which its device is the only one there is: its batches,
states and checkpoints, evaluations and errors are those of a run alone, and so
are its numbers, to the last bit. Nothing is reduced between devices, and nobody
waits for another. Threads suffice, for the devices, the disk and TensorFlow are
waited for without Python's lock; measured beside one program for all devices
they are as fast (benchmarks/README.md), and the failure of a run is its own.
"""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

import jax
import ml_collections

from lossbench.runtime import devices
from lossbench.runtime.stopping import Stopped
from lossbench.train.checks import check_config
from lossbench.train.memory import fit_one_device
from lossbench.train.preemption import Preempted, PreemptionNotice

# How --runs_per_program says 'as many as there are devices'.
AUTO = 'auto'
_POLL_SECS = 0.5

Task = TypeVar('Task')


def train_side_by_side(
  take_fn: Callable[[int], Task | None],
  train_fn: Callable[[int, Task, PreemptionNotice], None],
  *,
  num_runs: int,
):
  """Trains runs on as many devices, one after the other on each.

  Args:
    take_fn: (number of the device) -> what to train next on it; None for
      nothing. Called by one thread at a time.
    train_fn: trains it, in a thread in which the device is the only one; passes
      the notice on to `train.loop.train`. What it raises ends the other runs,
      which save.
    num_runs: at once, at most the devices of this process.

  Raises:
    Stopped: if the program was asked to stop; all runs have saved.
    BaseException: the first that `train_fn` raised.
  """
  taking = threading.Lock()
  errors: list[BaseException] = []

  def work(number: int, device: jax.Device, notice: PreemptionNotice):
    try:
      with devices.only(device):
        while not notice.received:
          with taking:
            task = take_fn(number)
          if task is None:
            return
          train_fn(number, task, notice)
    except Preempted:
      pass  # has saved
    except BaseException as error:
      errors.append(error)
      notice.ask()

  with PreemptionNotice() as notice:
    notice.answer_signals()  # which the threads of runs cannot
    threads = [
      threading.Thread(target=work, args=(number, device, notice))
      for number, device in enumerate(devices.local()[:num_runs])
    ]
    try:
      for thread in threads:
        thread.start()
      for thread in threads:
        # Python calls handlers of signals in this thread, but the kernel may give
        # a signal to another, and that wakes nobody from a wait without an end.
        while thread.is_alive():
          thread.join(_POLL_SECS)
    except BaseException:
      notice.ask()
      raise
  if errors:
    raise errors[0]
  if notice.received:
    raise Stopped


def _check_alone(configs, asked: str):
  with devices.only(devices.local()[0]):
    for config in configs:
      if config.batch_norm_group > 1:
        raise ValueError(
          f'--config.batch_norm_group={config.batch_norm_group} asks for as many '
          f'devices, but with --runs_per_program={asked} a run has one. Give '
          '--config.batch_norm_group=0 or --runs_per_program=1.'
        )
      if config.profile_steps:
        raise ValueError(
          f'--config.profile_steps={config.profile_steps}: a process has one '
          f'profile at a time, but with --runs_per_program={asked} several runs '
          'would ask for one. Profile a run by itself, with main.py.'
        )
      check_config(config)


def num_runs_at_once(
  asked: str, configs: Iterable[ml_collections.ConfigDict]
) -> int:
  """What --runs_per_program asks for.

  Args:
    asked: a number from 1, or 'auto'.
    configs: of the runs.

  Returns:
    How many runs to train at once, each on one device; 1 for one run on all
    devices. 'auto' is the number of this process's devices if each of the runs
    fits one, else 1.

  Raises:
    ValueError: if there are fewer devices, or several processes, or a run that
      cannot be on one device.
  """
  configs = list(configs)
  several = jax.process_count() > 1
  if asked == AUTO:
    num_devices = len(devices.local())
    fits = not several and num_devices > 1 and fit_one_device(configs)
    return num_devices if fits else 1
  num_runs = int(asked)
  if num_runs == 1:
    return 1
  if several:
    raise ValueError(
      f'--runs_per_program={asked} is for a single process, but this is one of '
      f'{jax.process_count()}. Start a program of its own on each host, with '
      'other runs.'
    )
  if num_runs > len(devices.local()):
    raise ValueError(
      f'--runs_per_program={asked} is more than the {len(devices.local())} '
      f'device(s) of this machine. Give at most that, or {AUTO}.'
    )
  _check_alone(configs, asked)
  return num_runs
