"""Training steps on the CPU: ours, XLA's defaults and PyTorch's, interleaved.

  python -m benchmarks.cpu_training --models=all_cnn_c,resnet50

Every variant lives in a process of its own, which takes steps when it is told
to, so that all see the same machine. 'xla' is JAX's own gradients under XLA's
own choice of convolutions, 'flag' changes only that choice, 'ours' is what
lossbench does. 'torch' needs PyTorch and transformers, whose ResNet-50 it
trains with channels_last in float32 and as many threads; name the interpreter
that has them with --torch_python.
"""

import os
import statistics
import subprocess
import sys
import time

from absl import app, flags

_MODELS = flags.DEFINE_list('models', ['all_cnn_c', 'resnet50'], 'To measure.')
_ROUNDS = flags.DEFINE_integer('num_rounds', 5, 'Rounds of one step each.')
_TORCH = flags.DEFINE_string('torch_python', '', 'Interpreter with PyTorch.')
_WORKER = flags.DEFINE_string('worker', '', 'For itself: VARIANT:MODEL.')

_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_XLA_FLAGS = {
  'xla': f'{_FLAG}=+individual_convolution',
  'flag': f'{_FLAG}=-individual_convolution',
  'ours': '',
}
# Model -> registered name, its fields, batch size, side and channels of the
# images, number of classes.
_CASES = {
  'all_cnn_c': ('all_cnn_c', {}, 128, 32, 3, 10),
  'all_cnn_c_quarter': (
    'all_cnn_c',
    {'width_multiplier': 0.25},
    128,
    32,
    3,
    10,
  ),
  'resnet50': ('resnet', {'depth': 50}, 8, 128, 3, 1000),
  'digits': ('digits_cnn', {}, 128, 8, 1, 10),
}

_TORCH_WORKER = """
import sys, time
import torch, transformers
size, side = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(int(sys.argv[3]))
config = transformers.ResNetConfig(num_labels=1000)
model = transformers.ResNetForImageClassification(config).to(
  memory_format=torch.channels_last).train()
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9,
  nesterov=True, weight_decay=8e-5)
images = torch.randn(size, 3, side, side).to(memory_format=torch.channels_last)
labels = torch.randint(0, 1000, (size,))
def step():
  optimizer.zero_grad(set_to_none=True)
  loss = torch.nn.functional.cross_entropy(model(images).logits, labels)
  loss.backward()
  optimizer.step()
step(); step()
print('ready', flush=True)
for _ in sys.stdin:
  began = time.perf_counter(); step()
  print(time.perf_counter() - began, flush=True)
"""


def _create_step(variant, model):
  """One step of the real train step on one device, () -> None."""
  import jax
  import numpy as np

  from lossbench.models import Classifier, create_backbone
  from lossbench.models.convolution import tracing_for
  from lossbench.objectives import create_objective
  from lossbench.runtime import devices
  from lossbench.train import state as train_state
  from lossbench.train.step import create_train_step

  name, fields, size, side, channels, num_classes = _CASES[model]
  backbone = create_backbone(name, image_size=side, **fields)
  objective = create_objective('softmax')
  hparams = train_state.StepHparams(
    objective=objective,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=8e-5,
    ema_decay=0.0,
    seed=np.uint32(0),
  )
  rng = np.random.default_rng(0)
  images = rng.normal(size=(size, side, side, channels)).astype(np.float32)
  labels = rng.integers(num_classes, size=size).astype(np.int32)
  classifier = Classifier(
    backbone, objective.output_layer(num_classes=num_classes)
  )
  init = jax.jit(lambda key, x: classifier.init(key, x, train=False))
  variables = init(jax.random.key(0), images[:1])
  state = devices.replicate(
    train_state.create_state(
      variables,
      hparams=hparams,
      mask=train_state.decayed(variables['params'], batch_norm=False),
      keep_ema=False,
    )
  )
  train_step = create_train_step(
    backbone,
    num_classes=num_classes,
    input_fn=lambda batch, data, key, positions: (
      batch['image'],
      batch['label'],
    ),
    schedule_fn=lambda step: 1.0,
    decay_batch_norm=False,
  )
  batch = devices.shard({'image': images, 'label': labels})

  def step():
    nonlocal state
    # JAX's own gradients are what programs for other machines have.
    with tracing_for('cpu' if variant == 'ours' else 'tpu'):
      state, metrics = train_step(state, batch, None, hparams)
    jax.block_until_ready(metrics)

  return step


def _work(variant, model):
  step = _create_step(variant, model)
  step()
  step()
  print('ready', flush=True)
  for _ in sys.stdin:
    began = time.perf_counter()
    step()
    print(time.perf_counter() - began, flush=True)


def _start(variant, model):
  environ = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  environ.pop('XLA_FLAGS', None)
  if variant == 'torch':
    _, _, size, side, _, _ = _CASES[model]
    threads = len(os.sched_getaffinity(0))
    arguments = [str(n) for n in (size, side, threads)]
    command = [_TORCH.value, '-c', _TORCH_WORKER, *arguments]
  else:
    if _XLA_FLAGS[variant]:
      environ['XLA_FLAGS'] = _XLA_FLAGS[variant]
    command = [sys.executable, '-m', 'benchmarks.cpu_training']
    command.append(f'--worker={variant}:{model}')
  process = subprocess.Popen(
    command,
    env=environ,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    bufsize=1,
  )
  if process.stdout.readline().strip() != 'ready':
    raise SystemExit(f'{variant}:{model} did not start.')
  return process


def _measure(model):
  variants = [*_XLA_FLAGS]
  if _TORCH.value and model == 'resnet50':
    variants.append('torch')
  workers = {variant: _start(variant, model) for variant in variants}
  secs = {variant: [] for variant in variants}
  for _ in range(_ROUNDS.value):
    for variant, process in workers.items():
      process.stdin.write('step\n')
      secs[variant].append(float(process.stdout.readline()))
  for process in workers.values():
    process.stdin.close()
    process.wait()
  for variant in variants:
    ratios = [a / b for a, b in zip(secs['xla'], secs[variant], strict=True)]
    print(
      f'| {model} | {variant} | {1e3 * statistics.median(secs[variant]):.1f} '
      f'| {statistics.median(ratios):.2f} |'
    )


def main(argv):
  del argv
  if _WORKER.value:
    _work(*_WORKER.value.split(':'))
    return
  print('| step | variant | ms, median | times as fast as xla |')
  print('|---|---|---:|---:|')
  for model in _MODELS.value:
    _measure(model)


if __name__ == '__main__':
  app.run(main)
