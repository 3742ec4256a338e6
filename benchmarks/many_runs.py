"""Runs at once, one per device: what a step of a run costs, beside one run alone.

  python -m benchmarks.many_runs --model=digits --num_devices=1,2,4

Virtual devices of a CPU share its cores, so that the cost of a step a run can
only fall as far as a single run leaves cores idle; real devices share nothing but
the host. 'threads' is what lossbench does: a thread and a program for each device.
'one program' is the same step pmapped over the devices, without collectives. They
are measured in turn in one process, on the same states and batches.
"""

import os
import statistics
import threading
import time

from absl import app, flags

_MODEL = flags.DEFINE_string('model', 'digits', 'digits or all_cnn_c_quarter.')
_NUM_DEVICES = flags.DEFINE_list(
  'num_devices', ['1', '2', '4'], 'Runs at once.'
)
_ROUNDS = flags.DEFINE_integer('num_rounds', 7, 'Rounds of one call each.')
_STEPS = flags.DEFINE_integer('num_steps', 16, 'Steps that a call takes.')


def _config():
  from configs import cifar10_all_cnn, digits_cnn

  if _MODEL.value == 'digits':
    return digits_cnn.get_config('sigmoid'), 1300
  config = cifar10_all_cnn.get_config('sigmoid')
  config.model.width_multiplier = 0.25
  return config, 10_000


def _arguments(config, num_examples):
  """State, batches and data of one run, on the host."""
  import numpy as np

  from lossbench import build
  from lossbench.train import initialization, program

  rng = np.random.default_rng(0)
  shape = (num_examples, *build.image_shape(config))
  hparams = program.build_step_hparams(config)
  return (
    initialization.initial_state(config, hparams),
    {'index': rng.integers(0, num_examples, (_STEPS.value, config.batch_size))},
    {
      'image': rng.integers(0, 256, shape, np.uint8),
      'label': rng.integers(0, config.num_classes, num_examples),
    },
    hparams,
  )


class _Threads:
  """A program for each device, called by a thread each."""

  def __init__(self, config, arguments, run_devices):
    import jax

    from lossbench.runtime import devices
    from lossbench.train.program import build_train_step

    state, batch, data, self._hparams = arguments
    self._runs = []
    for device in run_devices:
      with devices.only(device):
        step = build_train_step(config, steps_per_epoch=13)
        placed = [devices.replicate(tree) for tree in (state, batch, data)]
      self._runs.append([device, step, *placed])
    self._wait = jax.block_until_ready

  def _call(self, run):
    import numpy as np

    from lossbench.runtime import devices

    device, step, state, batch, data = run
    with devices.only(device):
      run[2], metrics = step(
        state, batch, data, self._hparams, np.int32(_STEPS.value)
      )
    self._wait(metrics)

  def call(self):
    threads = [
      threading.Thread(target=self._call, args=(run,)) for run in self._runs
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()


class _OneProgram:
  """One program for all devices, which hold a run each."""

  def __init__(self, config, arguments, run_devices):
    import jax
    import numpy as np

    from lossbench.runtime import devices
    from lossbench.train.program import build_train_step

    with devices.only(run_devices[0]):
      alone = build_train_step(config, steps_per_epoch=13)
    # pmap keeps what it wraps, which is the step without collectives.
    self._step = jax.pmap(
      alone.__wrapped__,
      axis_name=devices.AXIS,
      devices=run_devices,
      in_axes=(0, 0, 0, None, None),
      donate_argnums=0,
    )
    mesh = jax.sharding.Mesh(np.array(run_devices), (devices.AXIS,))
    split = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(devices.AXIS)
    )

    def copy(leaf):
      leaf = np.asarray(leaf)
      copies = np.broadcast_to(leaf[None], (len(run_devices), *leaf.shape))
      return jax.device_put(copies, split)

    *trees, self._hparams = arguments
    self._state, self._batch, self._data = jax.tree.map(copy, trees)
    self._wait = jax.block_until_ready

  def call(self):
    import numpy as np

    self._state, metrics = self._step(
      self._state,
      self._batch,
      self._data,
      self._hparams,
      np.int32(_STEPS.value),
    )
    self._wait(metrics)


def _secs(fn) -> float:
  began = time.perf_counter()
  fn()
  return time.perf_counter() - began


def main(argv):
  del argv
  counts = [int(text) for text in _NUM_DEVICES.value]
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = ' '.join(
    [
      os.environ.get('XLA_FLAGS', ''),
      f'--xla_force_host_platform_device_count={max(counts)}',
    ]
  )
  import jax

  config, num_examples = _config()
  arguments = _arguments(config, num_examples)
  cases = {
    (count, name): create(config, arguments, jax.devices()[:count])
    for count in counts
    for name, create in (('threads', _Threads), ('one program', _OneProgram))
  }
  first = {key: _secs(case.call) for key, case in cases.items()}
  secs = {key: [] for key in cases}
  for _ in range(_ROUNDS.value):
    for key, case in cases.items():
      secs[key].append(_secs(case.call))
  print('| runs at once | | first call, s | ms a step and run | / one run |')
  print('|---:|---|---:|---:|---:|')
  alone = secs[counts[0], 'threads']
  for (count, name), found in secs.items():
    each = [secs / count / _STEPS.value for secs in found]
    ratios = [
      a / count / b * counts[0] for a, b in zip(found, alone, strict=True)
    ]
    print(
      f'| {count} | {name} | {first[count, name]:.1f} '
      f'| {1e3 * statistics.median(each):.2f} | {statistics.median(ratios):.2f} |'
    )


if __name__ == '__main__':
  app.run(main)
