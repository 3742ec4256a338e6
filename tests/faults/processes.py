"""Starting programs in several processes on the loopback."""

import os
import pathlib
import socket
import subprocess
import sys
import time

from configs import digits_cnn
from lossbench.study.configuration import apply_override

ROOT = pathlib.Path(__file__).parents[2]

# A run of sixty steps that saves at every evaluation.
OVERRIDES = (
  'model.width=4',
  'batch_size=64',
  'num_epochs=3',
  'eval_every_epochs=1',
  'log_every_steps=5',
)
RECIPE = (
  '--config=configs/digits_cnn.py:sigmoid+dropout',
  *(f'--config.{override}' for override in OVERRIDES),
)


def recipe_config(data_dir: str, *overrides: str):
  """What `RECIPE` and more overrides make of the configuration."""
  config = digits_cnn.get_config('sigmoid+dropout')
  for override in (*OVERRIDES, *overrides):
    apply_override(config, override)
  config.data_dir = data_dir
  return config


def with_devices(num_devices: int) -> str:
  """XLA_FLAGS of this process, but for the number of virtual devices."""
  flags = os.environ.get('XLA_FLAGS', '')  # the last of equal flags counts
  return f'{flags} --xla_force_host_platform_device_count={num_devices}'


def start(*arguments, num_devices: int = 2, log: pathlib.Path):
  """One process; what it prints goes to a file, which never blocks it."""
  with log.open('w') as file:
    return subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': with_devices(num_devices),
      },
      stdout=file,
      stderr=subprocess.STDOUT,
    )


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def start_two(
  *arguments,
  num_devices: int = 2,
  logs: pathlib.Path,
  second: tuple[str, ...] = (),
):
  """Two processes, which find one another.

  Args:
    *arguments: of both.
    num_devices: of each.
    logs: directory of what they print.
    second: more arguments of the second alone.
  """
  logs.mkdir(parents=True, exist_ok=True)
  port = _free_port()
  return [
    start(
      *arguments,
      f'--coordinator=localhost:{port}',
      '--num_processes=2',
      f'--process_id={index}',
      *(second if index else ()),
      num_devices=num_devices,
      log=logs / f'{index}.log',
    )
    for index in range(2)
  ]


def run(*arguments, num_devices: int = 4, log: pathlib.Path) -> int:
  """One process to its end; its status."""
  return start(*arguments, num_devices=num_devices, log=log).wait(300)


def run_two(*arguments, **options) -> list[int]:
  """Two processes to their end, as `start_two`; their statuses."""
  return [process.wait(300) for process in start_two(*arguments, **options)]


def wait_for_text(log: pathlib.Path, text: str, processes, *, secs=200):
  """Returns once a log contains a text; none of the processes may end."""
  deadline = time.monotonic() + secs
  while text not in log.read_text():
    assert all(p.poll() is None for p in processes), log.read_text()
    assert time.monotonic() < deadline, log.read_text()
    time.sleep(0.05)
