"""Starting programs in several processes on the loopback."""

import os
import pathlib
import socket
import subprocess
import sys

from configs import digits_cnn
from lossbench.study.plan import apply_override

ROOT = pathlib.Path(__file__).parents[2]

# A run of sixty steps that saves at every evaluation.
_OVERRIDES = (
  'model.width=4',
  'batch_size=64',
  'num_epochs=3',
  'eval_every_epochs=1',
  'log_every_steps=5',
)
RECIPE = (
  '--config=configs/digits_cnn.py:sigmoid+dropout',
  *(f'--config.{override}' for override in _OVERRIDES),
)


def recipe_config(data_dir: str, *overrides: str):
  """What `RECIPE` and more overrides make of the configuration."""
  config = digits_cnn.get_config('sigmoid+dropout')
  for override in (*_OVERRIDES, *overrides):
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


def start_two(*arguments, logs: pathlib.Path):
  """Two processes of two devices each, which find one another."""
  logs.mkdir(parents=True, exist_ok=True)
  port = _free_port()
  return [
    start(
      *arguments,
      f'--coordinator=localhost:{port}',
      '--num_processes=2',
      f'--process_id={index}',
      log=logs / f'{index}.log',
    )
    for index in range(2)
  ]


def run(*arguments, num_devices: int = 4, log: pathlib.Path) -> int:
  """One process to its end; its status."""
  return start(*arguments, num_devices=num_devices, log=log).wait(300)


def run_two(*arguments, logs: pathlib.Path) -> list[int]:
  """Two processes to their end; their statuses."""
  return [process.wait(300) for process in start_two(*arguments, logs=logs)]
