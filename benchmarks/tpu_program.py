"""What the TPU's own compiler makes of the programs; needs libtpu, but no TPU.

  python -m benchmarks.tpu_program --case=train/imagenet_resnet50 --topology=v5e:8x8

Compiles the real training step, evaluation step or logistic regression for the
devices of a topology and prints, per device: FLOPs, bytes accessed, memory
against the chip's, all-reduces and their bytes, and the types that
convolutions compute in. Cases: train/RECIPE[:OBJECTIVE], objectives/RECIPE (the
nine of the paper in turn, and the bytes of each over softmax's), alone/RECIPE
(one run per device, batch undivided, nothing reduced), evaluate/RECIPE,
regression, and flax, the example step of google/flax
(--peer=.../examples/imagenet) under the same optimiser conditions as its own
script, at the same batch.
"""

import collections
import importlib
import os
import re
import sys

# What libtpu asks for where there is no TPU.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')

from absl import app, flags

_CASES = flags.DEFINE_multi_string(
  'case', ['train/imagenet_resnet50'], 'What to compile.'
)
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'As libtpu names it.')
_PER_DEVICE = flags.DEFINE_integer(
  'per_device', None, "Images a device; default: the recipe's batch, divided."
)
_PEER = flags.DEFINE_string('peer', None, "flax's examples/imagenet.")
_HLO = flags.DEFINE_string('hlo', None, 'Write the compiled text here.')
_OVERRIDES = flags.DEFINE_multi_string(
  'set', [], 'FIELD=VALUE of the recipe, Python literals.'
)

# GiB of a JAX device; a v2 or v3 device is one of two cores of a chip.
_HBM_GIB = {'v2': 8, 'v3': 16, 'v4': 32, 'v5e': 16, 'v5p': 95, 'v6e': 32}
_ITEM_BYTES = {'f32': 4, 'bf16': 2, 's32': 4, 'u32': 4, 'f16': 2, 'pred': 1}


def _mesh():
  import jax
  import numpy as np
  from jax.experimental import topologies

  from lossbench.runtime.devices import AXIS

  topology = topologies.get_topology_desc(
    topology_name=_TOPOLOGY.value, platform='tpu'
  )
  return jax.sharding.Mesh(np.array(topology.devices), (AXIS,))


def _compile(step_fn, mesh, arguments, split, *, donate=()):
  """Compiles a per-device function as pmap would, over a mesh.

  Args:
    step_fn: of one device.
    mesh: of all.
    arguments: shapes as one device sees them.
    split: for each argument whether devices have their own.
    donate: indices.
  """
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding, PartitionSpec

  axis = mesh.axis_names[0]
  specs = [PartitionSpec(axis) if own else PartitionSpec() for own in split]

  def per_device(*stacked):
    own = [
      jax.tree.map(lambda x: x[0], tree) if is_split else tree
      for tree, is_split in zip(stacked, split, strict=True)
    ]
    return jax.tree.map(lambda x: jnp.asarray(x)[None], step_fn(*own))

  def shape(leaf, spec, is_split):
    whole = (mesh.size, *leaf.shape) if is_split else leaf.shape
    sharding = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(whole, leaf.dtype, sharding=sharding)

  shapes = [
    jax.tree.map(lambda x, s=spec, o=own: shape(x, s, o), tree)
    for tree, spec, own in zip(arguments, specs, split, strict=True)
  ]
  mapped = jax.shard_map(
    per_device,
    mesh=mesh,
    in_specs=tuple(specs),
    out_specs=PartitionSpec(axis),
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=donate).lower(*shapes).compile()


def _recipe(text):
  """configs/<name>.py:<objective>, with what --set changes."""
  import ast

  name, _, objective = text.partition(':')
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(*([objective] if objective else []))
  for override in _OVERRIDES.value:
    field, value = override.split('=', 1)
    config.update_from_flattened_dict({field: ast.literal_eval(value)})
  return config


def _as_shapes(tree):
  import jax
  import numpy as np

  return jax.tree.map(
    lambda x: (
      jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)
      if not hasattr(x, 'dtype')
      else jax.ShapeDtypeStruct(x.shape, x.dtype)
    ),
    tree,
  )


def _state_shapes(config, hparams):
  import jax

  from lossbench import build
  from lossbench.train import state as train_state

  model = build.build_classifier(config, hparams.objective)

  def create(key, images):
    variables = model.init(key, images, train=False)
    return train_state.create_state(
      variables,
      hparams=hparams,
      mask=train_state.decayed(
        variables['params'], batch_norm=config.decay_batch_norm
      ),
      keep_ema=config.ema_decay > 0,
    )

  images = jax.ShapeDtypeStruct((1, *build.image_shape(config)), 'float32')
  return jax.eval_shape(create, jax.random.key(0), images)


def _train(config, mesh, *, alone=False):
  import jax

  from lossbench import build
  from lossbench.train import program
  from lossbench.train.inputs import build_input_fn
  from lossbench.train.step import create_step_fn

  size = _PER_DEVICE.value or config.batch_size // (1 if alone else mesh.size)
  hparams = program.build_step_hparams(config)
  step_fn = create_step_fn(
    build.build_backbone(config),
    num_classes=config.num_classes,
    input_fn=build_input_fn(config),
    schedule_fn=program.build_schedule(config, steps_per_epoch=312),
    decay_batch_norm=config.decay_batch_norm,
    accumulation_steps=config.accumulation_steps,
    axis_name=None if alone else mesh.axis_names[0],
  )
  shape = build.image_shape(config)
  data = None
  if config.data_on_device:
    batch = {'index': jax.ShapeDtypeStruct((size,), 'int32')}
    data = {
      'image': jax.ShapeDtypeStruct((50_000, *shape), 'uint8'),
      'label': jax.ShapeDtypeStruct((50_000,), 'int32'),
    }
  else:
    batch = {
      'image': jax.ShapeDtypeStruct((size, *shape), 'uint8'),
      'label': jax.ShapeDtypeStruct((size,), 'int32'),
    }
  arguments = (
    _state_shapes(config, hparams),
    batch,
    data,
    _as_shapes(hparams),
  )
  compiled = _compile(
    step_fn, mesh, arguments, (True, True, True, alone), donate=0
  )
  return compiled, size


def _evaluate(config, mesh):
  import jax

  from lossbench import build
  from lossbench.evaluation import loop
  from lossbench.evaluation.collected import Collect
  from lossbench.train.program import build_step_hparams

  fields = build.pack_fields(config, loop._STEP_FIELDS)
  keep = Collect(logits=True)
  step, measurements = loop._compiled(fields, 'representations', keep)
  size = _PER_DEVICE.value or config.eval_batch_size // mesh.size
  hparams = build_step_hparams(config)
  state = _state_shapes(config, hparams)
  shape = build.image_shape(config)
  batch = {
    'image': jax.ShapeDtypeStruct((size, *shape), 'uint8'),
    'label': jax.ShapeDtypeStruct((size,), 'int32'),
    'mask': jax.ShapeDtypeStruct((size,), 'bool'),
  }
  accumulators = jax.eval_shape(measurements.empty_fn)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  arguments = (
    variables,
    _as_shapes(hparams.objective),
    accumulators,
    batch,
  )
  compiled = _compile(
    step.__wrapped__, mesh, arguments, (True, False, True, True), donate=2
  )
  return compiled, size


def _regression(mesh):
  """A Newton step of Food-101's linear probe on ResNet-50's features, float32.

  The conjugate gradients of it, whose products with the Hessian are where the
  time of a path goes; costs are of one such product, since XLA counts the body
  of a loop once.
  """
  import jax

  from lossbench.probe import newton

  num_classes, num_features = 101, 2048
  size = _PER_DEVICE.value or -(-75_750 // mesh.size)

  def array(*shape, dtype='float32'):
    return jax.ShapeDtypeStruct(shape, dtype)

  own = (
    array(size, num_features),
    array(size, num_classes),
    array(size, dtype='int32'),
  )
  shared = (
    (array(num_classes, num_features), array(num_classes)),
    array(),
    array(num_features),
    array(),
    array(),
    array(dtype='int32'),
  )
  compiled = _compile(
    newton.conjugate_gradients.__wrapped__,
    mesh,
    (*own, *shared),
    (True,) * len(own) + (False,) * len(shared),
  )
  return compiled, size


def _flax(mesh):
  import functools

  import jax
  import optax

  sys.path.insert(0, _PEER.value)
  peer = importlib.import_module('train')
  models = importlib.import_module('models')
  size = _PER_DEVICE.value or 64
  model = models.ResNet50(num_classes=1000, dtype=jax.numpy.bfloat16)

  def create(key):
    variables = model.init(key, jax.numpy.ones((1, 224, 224, 3)))
    return peer.TrainState.create(
      apply_fn=model.apply,
      params=variables['params'],
      tx=optax.sgd(0.1, momentum=0.9, nesterov=True),
      batch_stats=variables['batch_stats'],
      dynamic_scale=None,
    )

  batch = {
    'image': jax.ShapeDtypeStruct((size, 224, 224, 3), jax.numpy.bfloat16),
    'label': jax.ShapeDtypeStruct((size,), 'int32'),
  }
  step_fn = functools.partial(
    peer.train_step, learning_rate_fn=optax.constant_schedule(0.1)
  )
  state = jax.eval_shape(create, jax.random.key(0))
  return _compile(step_fn, mesh, (state, batch), (True, True), donate=0), size


def _describe(case, compiled, size, mesh):
  costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
  text = compiled.as_text()
  if _HLO.value:
    with open(_HLO.value, 'w') as file:
      file.write(text)
  used = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  ) / 2**30
  hbm = _HBM_GIB[_TOPOLOGY.value.split(':')[0]]
  convolutions = collections.Counter(
    re.findall(r'= (\w+)\[[^=]*? convolution\(', text)
  )
  reduces, reduced = 0, 0
  for shapes in re.findall(r'= (.*?) all-reduce(?:-start)?\(', text):
    reduces += 1
    for kind, sizes in re.findall(r'(\w+)\[([\d,]*)\]', shapes):
      count = 1
      for n in filter(None, sizes.split(',')):
        count *= int(n)
      reduced += count * _ITEM_BYTES.get(kind, 4)
  kinds = ', '.join(f'{n} {kind}' for kind, n in sorted(convolutions.items()))
  print(
    f'| {case} | {_TOPOLOGY.value} | {mesh.size} x {size} '
    f'| {costs["flops"] / size / 1e9:.2f} '
    f'| {costs["bytes accessed"] / 1e9:.3f} '
    f'| {used:.2f} of {hbm} | {reduces}: {reduced / 1e6:.1f} MB | {kinds} |',
    flush=True,
  )


def main(argv):
  del argv
  mesh = _mesh()
  print(
    '| case | topology | devices x images | GFLOP an image | GB accessed a step '
    '| GiB of memory | all-reduces | convolutions |\n|---|---|---|---:|---:|---|---|---|'
  )
  for case in _CASES.value:
    kind, _, recipe = case.partition('/')
    if kind == 'objectives':
      _print_objectives(recipe, mesh)
    else:
      _print_case(kind, recipe, mesh)


def _print_objectives(recipe, mesh):
  from configs.studies.default import OBJECTIVES

  moved = {
    name: _print_case('train', f'{recipe}:{name}', mesh) for name in OBJECTIVES
  }
  ratios = {name: size / moved['softmax'] for name, size in moved.items()}
  listed = ', '.join(f'{name} {ratio:.4f}' for name, ratio in ratios.items())
  print(f"\nBytes over softmax's: {listed}", flush=True)


def _print_case(kind, recipe, mesh):
  """Compiles a case and prints its row; returns the bytes it accesses."""
  from lossbench.models.convolution import tracing_for

  with tracing_for('tpu'):
    match kind:
      case 'train' | 'alone':
        config = _recipe(recipe)
        compiled, size = _train(config, mesh, alone=kind == 'alone')
      case 'evaluate':
        compiled, size = _evaluate(_recipe(recipe), mesh)
      case 'regression':
        compiled, size = _regression(mesh)
      case 'flax':
        compiled, size = _flax(mesh)
      case _:
        raise app.UsageError(f'Unknown --case={kind}.')
  _describe(f'{kind}/{recipe}'.strip('/'), compiled, size, mesh)
  return compiled.cost_analysis()['bytes accessed']


if __name__ == '__main__':
  app.run(main)
