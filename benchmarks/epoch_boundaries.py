"""What an evaluation and a checkpoint between two steps cost training.

  python -m benchmarks.epoch_boundaries

The state of ResNet-50 with moving averages, in its real size, through
`train.upkeep` as training calls it, into real checkpoints. Cores of a CPU are
never free beside a step, so the device is one that computes elsewhere: a step, and
a batch of the evaluation, sleeps. By turns:

  nothing      steps alone
  in turn      what is begun is finished before the next step, as it used to be
  overlapped   as training does

and what a boundary costs is the difference to steps alone.
"""

import functools
import pathlib
import statistics
import tempfile
import time
import types

from absl import app, flags

_ROUNDS = flags.DEFINE_integer('num_rounds', 7, 'Rounds of all ways by turns.')
_STEPS = flags.DEFINE_integer('num_steps', 60, 'Steps from one to the next.')
_STEP_MS = flags.DEFINE_float('step_ms', 25.0, 'Of a step on the device.')
_BATCHES = flags.DEFINE_integer('num_batches', 4, 'Of the evaluation.')
_WAYS = ('nothing', 'in turn', 'overlapped')


def _slept(number):
  """The same number on the device, some time later."""
  import jax
  import numpy as np

  def sleep(value):
    time.sleep(_STEP_MS.value / 1e3)
    return np.asarray(value)

  shape = jax.ShapeDtypeStruct(number.shape, number.dtype)
  return jax.pure_callback(sleep, shape, number)


def _step(state):
  step = _slept(state.step + 1)
  return state.replace(step=step), {'loss': step * 1.0, 'parameter_norm': 1.0}


def _state():
  import jax
  import numpy as np

  from configs import imagenet_resnet50
  from lossbench import build
  from lossbench.train import initialization, program

  config = imagenet_resnet50.get_config('softmax')
  init = initialization._compiled_init(
    build.pack_fields(config, initialization._INIT_FIELDS), True
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype),
    jax.eval_shape(init, program.build_step_hparams(config)),
  ).replace(step=np.int32(0))


class _Evaluator:
  """Some batches that need the parameters; their sum is the accuracy."""

  def __init__(self):
    from lossbench.runtime import devices

    def eval_step(variables, total):
      kernel = variables['params']['output_layer']['kernel']
      return _slept(total + 0.0 * kernel[0, 0])

    self._zero = devices.replicate(0.5)
    self._step = devices.pmap(eval_step)

  def start(self, variables):
    total = self._zero
    for _ in range(_BATCHES.value):
      total = self._step(variables, total)

    def finish():
      value = types.SimpleNamespace(compute=lambda: float(total[0]))
      return types.SimpleNamespace(
        accumulators={'top1_accuracy': value, 'nll': value}
      )

    return finish


def _measure(state, checkpointer, directory) -> dict[str, list[float]]:
  """Way -> ms of its rounds."""
  import jax
  from clu import metric_writers

  from lossbench.runtime import devices
  from lossbench.train.log import TrainLog
  from lossbench.train.plan import Plan
  from lossbench.train.upkeep import Upkeep

  num_steps = _STEPS.value
  plan = Plan(num_steps, 10**9, num_steps, 0, 0, 1, 10**9, 0, 0)
  step_fn = devices.pmap(_step, donate_argnums=0)
  create_log = functools.partial(
    TrainLog, None, None, objective='', learning_rate=0.0, batch_size=1
  )
  state, step = devices.replicate(state), 0
  found = {way: [] for way in _WAYS}
  for _ in range(1 + _ROUNDS.value):
    for way in _WAYS:
      log = create_log(plan=plan)
      upkeep = Upkeep(
        plan,
        directory,
        evaluator=_Evaluator(),
        checkpointer=checkpointer,
        history=[],
        log=log,
        writer=metric_writers.MultiWriter([]),
      )
      jax.block_until_ready(state)
      began = time.monotonic()
      for place in range(num_steps):
        state, metrics = step_fn(state)
        step += 1
        log.append(range(step, step + 1), metrics)
        upkeep.count_dispatch()
        if place == 0 and way != 'nothing':
          # A step of the plan's evaluation, whatever the round.
          upkeep.begin(state, metrics, step=step - step % num_steps, save=True)
          if way == 'in turn':
            upkeep.finish()
      upkeep.finish()
      jax.block_until_ready(state)
      found[way].append(1e3 * (time.monotonic() - began))
      checkpointer.wait()
  return {way: times[1:] for way, times in found.items()}


def main(argv):
  del argv
  from lossbench.runs.checkpoints import Checkpointer
  from lossbench.runs.directory import RunDirectory

  with tempfile.TemporaryDirectory() as path:
    directory = RunDirectory(path)
    with Checkpointer(pathlib.Path(path) / 'checkpoints', keep_last=1) as saved:
      found = _measure(_state(), saved, directory)
  evaluation = _BATCHES.value * _STEP_MS.value
  print(f'\n{len(found["nothing"])} rounds of {_STEPS.value} steps')
  print('| | ms of a round | ms a boundary | of these not evaluation |')
  print('|---|---:|---:|---:|')
  for way, times in found.items():
    cost = statistics.median(
      a - b for a, b in zip(times, found['nothing'], strict=True)
    )
    print(
      f'| {way} | {statistics.median(times):.0f} | {cost:.0f} '
      f'| {max(cost - evaluation, 0):.0f} |'
    )


if __name__ == '__main__':
  app.run(main)
