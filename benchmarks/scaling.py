"""Time of a training step on virtual devices and processes of one machine.

The All-CNN-C of CIFAR-10 at a quarter of its width, on images that are resident
on the devices; the global batch is the same everywhere, so that all devices
share the same cores and the same work: what grows is what splitting costs.
Every configuration runs in processes of its own, interleaved, and reports the
median of its steps.

  python -m benchmarks.scaling --num_rounds=3
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys

_NUM_STEPS = 30


def _measure(args):
  """Prints the median seconds of a step; in a process of its own."""
  import time

  import jax
  import numpy as np

  if args.num_processes > 1:
    jax.distributed.initialize(
      coordinator_address=args.coordinator,
      num_processes=args.num_processes,
      process_id=args.process_id,
    )
  from configs import cifar10_all_cnn
  from lossbench import build
  from lossbench.runtime import devices
  from lossbench.train.initialization import initial_state
  from lossbench.train.inputs import build_input_fn
  from lossbench.train.program import build_step_hparams
  from lossbench.train.schedules import create_schedule
  from lossbench.train.step import create_train_step

  config = cifar10_all_cnn.get_config('softmax')
  config.model.width_multiplier = 0.25
  hparams = build_step_hparams(config)
  step_fn = create_train_step(
    build.build_backbone(config),
    num_classes=config.num_classes,
    input_fn=build_input_fn(config),
    schedule_fn=create_schedule('cosine', num_epochs=10, steps_per_epoch=100),
    decay_batch_norm=config.decay_batch_norm,
  )
  rng = np.random.default_rng(0)
  data = devices.replicate(
    {
      'image': rng.integers(0, 255, (512, 32, 32, 3)).astype(np.uint8),
      'label': rng.integers(0, 10, 512).astype(np.int32),
    }
  )
  state = devices.replicate(initial_state(config, hparams))
  local = args.batch_size // jax.process_count()
  batch = devices.shard({'index': np.arange(local, dtype=np.int32)})
  secs = []
  for _ in range(_NUM_STEPS):
    began = time.monotonic()
    state, metrics = step_fn(state, batch, data, hparams)
    jax.block_until_ready(metrics)
    secs.append(time.monotonic() - began)
  synchronised = {'gradients': state.params, 'batch_stats': state.batch_stats}
  num_bytes = sum(
    leaf.nbytes // leaf.shape[0] for leaf in jax.tree.leaves(synchronised)
  )
  if jax.process_index() == 0:
    print(statistics.median(secs[5:]), num_bytes)


def _run(num_processes, num_devices, batch_size):
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  processes = [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        'benchmarks.scaling',
        '--measure',
        f'--num_processes={num_processes}',
        f'--process_id={index}',
        f'--coordinator=localhost:{port}',
        f'--batch_size={batch_size}',
      ],
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for index in range(num_processes)
  ]
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  secs, num_bytes = outputs[0].split()[-2:]
  return float(secs), int(num_bytes)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_rounds', type=int, default=3)
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--measure', action='store_true')
  parser.add_argument('--num_processes', type=int, default=1)
  parser.add_argument('--process_id', type=int, default=0)
  parser.add_argument('--coordinator', default='')
  args = parser.parse_args()
  if args.measure:
    _measure(args)
    return
  cases = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2)]
  secs: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
  for _ in range(args.num_rounds):
    for case in cases:
      value, num_bytes = _run(*case, args.batch_size)
      secs[case].append(value)
  base = statistics.median(secs[1, 1])
  print(f'global batch {args.batch_size}, {num_bytes / 2**20:.2f} MiB averaged')
  print('| processes x devices | ms a step | / one device | sent a device |')
  print('|---|---:|---:|---:|')
  for (processes, num_local), values in secs.items():
    count = processes * num_local
    sent = 2 * (count - 1) / count * num_bytes / 2**20
    median = statistics.median(values)
    print(
      f'| {processes} x {num_local} | {1000 * median:.1f} | {median / base:.2f} '
      f'| {sent:.2f} MiB |'
    )


if __name__ == '__main__':
  main()
