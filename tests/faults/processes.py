"""Starting programs in several processes on the loopback."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

# A run of sixty steps that saves at every evaluation.
RECIPE = (
  '--config=configs/digits_cnn.py:sigmoid+dropout',
  '--config.model.width=4',
  '--config.batch_size=64',
  '--config.num_epochs=3',
  '--config.eval_every_epochs=1',
  '--config.log_every_steps=5',
)


def start(*arguments, num_devices: int = 2, log: pathlib.Path):
  """One process; what it prints goes to a file, which never blocks it."""
  with log.open('w') as file:
    return subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
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
