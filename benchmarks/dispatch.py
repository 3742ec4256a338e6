"""What the dispatch of a training step costs the host, many processes or one.

  python -m benchmarks.dispatch

The state of ResNet-50 with moving averages, of the real structure but with every
axis of length 1, through a step that computes nothing but its number and ten
metrics: what is left is the way of the leaves to the devices and back. By turns:

  pmap              jax.pmap; the hyperparameters are sent with every call
  global arrays     jax.jit of shard_map on arrays of all devices; the same
  numbers placed    global arrays, hyperparameters placed once
  lossbench         `devices.pmap`, as in training

All are the same program, bit for bit the same states. A round is a chain of steps
from call to call, as in training; what is waited for is its end only.
"""

import os
import socket
import statistics
import subprocess
import sys
import time

from absl import app, flags

from lossbench.runtime import cluster

_ROUNDS = flags.DEFINE_integer('num_rounds', 15, 'Rounds of all ways by turns.')
_STEPS = flags.DEFINE_integer('num_steps', 20, 'Steps of a round.')
_DEVICES = flags.DEFINE_integer('num_devices', 4, 'Devices of each process.')
_LAUNCH = flags.DEFINE_list(
  'launch', ['2', '1'], 'Numbers of processes to try.'
)


def _step(state, batch, data, hparams):
  """A step without arithmetic, of one device."""
  import jax.numpy as jnp

  del data
  numbers = hparams.learning_rate + hparams.momentum * batch['label'][0]
  metrics = {f'metric_{i}': numbers + jnp.float32(i) for i in range(10)}
  return state.replace(step=state.step + 1), metrics


def _arguments():
  """State, batch and hyperparameters of a run, on the host."""
  import jax
  import numpy as np

  from configs import imagenet_resnet50
  from lossbench.train import initialization, program

  config = imagenet_resnet50.get_config('softmax')
  hparams = program.build_step_hparams(config)
  init = initialization._compiled_init(
    initialization.build.pack_fields(config, initialization._INIT_FIELDS), True
  )
  state = jax.tree.map(
    lambda leaf: np.zeros((1,) * leaf.ndim, leaf.dtype),
    jax.eval_shape(init, hparams),
  )
  return state, {'label': np.zeros(_DEVICES.value, np.int32)}, hparams


def _ways(state, batch, hparams):
  """Name -> (step, state, batch, hyperparameters), placed as it wants them."""
  import jax
  import numpy as np

  from lossbench.runtime import devices

  options = {'in_axes': (0, 0, 0, None), 'donate_argnums': 0}
  pmapped = jax.pmap(_step, axis_name=devices.AXIS, **options)
  globally = devices._pmap_globally(_step, out_axes=0, **options)
  local = devices._sharding(devices.local(), devices.AXIS)

  def on_this_host(leaf):
    copies = np.broadcast_to(leaf[None], (_DEVICES.value, *leaf.shape))
    return jax.device_put(copies, local)

  copies = devices.replicate
  return {
    'pmap': (
      pmapped,
      jax.tree.map(on_this_host, state),
      {'label': jax.device_put(batch['label'][:, None], local)},
      hparams,
    ),
    'global arrays': (globally, copies(state), devices.shard(batch), hparams),
    'numbers placed': (
      globally,
      copies(state),
      devices.shard(batch),
      devices.broadcast(hparams),
    ),
    'lossbench': (
      devices.pmap(_step, **options),
      copies(state),
      devices.shard(batch),
      devices.broadcast(hparams),
    ),
  }


def _measure():
  import jax

  ways = _ways(*_arguments())
  num_leaves = {len(jax.tree.leaves(state)) for _, state, *_ in ways.values()}
  states = {name: state for name, (_, state, *_) in ways.items()}

  def round_of(name):
    step, _, batch, hparams = ways[name]
    state = states[name]
    began = time.perf_counter()
    for _ in range(_STEPS.value):
      state, metrics = step(state, batch, None, hparams)
    jax.block_until_ready(metrics)
    states[name] = state
    return 1e3 * (time.perf_counter() - began) / _STEPS.value

  for name in ways:
    round_of(name)
  found = {name: [] for name in ways}
  for _ in range(_ROUNDS.value):
    for name in ways:
      found[name].append(round_of(name))
  if jax.process_index():
    return
  print(
    f'| {num_leaves.pop()} leaves, {jax.process_count()} x {_DEVICES.value} '
    'devices | ms a step | / pmap |'
  )
  print('|---|---:|---:|')
  for name, times in found.items():
    ratio = statistics.median(
      a / b for a, b in zip(times, found['pmap'], strict=True)
    )
    print(f'| {name} | {statistics.median(times):.2f} | {ratio:.2f} |')


def _launch(num_processes: int):
  """Runs this program in processes of their own, which find one another."""
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': (
      f'{os.environ.get("XLA_FLAGS", "")} '
      f'--xla_force_host_platform_device_count={_DEVICES.value}'
    ),
  }
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  command = [sys.executable, '-m', 'benchmarks.dispatch', *sys.argv[1:]]
  processes = [
    subprocess.Popen(
      [
        *command,
        '--launch=',
        f'--coordinator=localhost:{port}',
        f'--num_processes={num_processes}',
        f'--process_id={index}',
      ],
      env=environment,
    )
    for index in range(num_processes)
  ]
  for process in processes:
    if process.wait():
      raise SystemExit(f'A process ended with status {process.returncode}.')


def main(argv):
  del argv
  if any(_LAUNCH.value):
    for number in _LAUNCH.value:
      _launch(int(number))
  else:
    cluster.initialize()
    _measure()


if __name__ == '__main__':
  cluster.define_flags()
  app.run(main)
