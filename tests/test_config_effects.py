"""Every field changes what it is for, and nothing else.

A row says what a field must change between two configurations that differ in
it alone. What is compared is all that decides a run's numbers: the steps that
it takes, the initial state, the first batch, the train step's program and, where
that stays the same, what it does to a state; the images of evaluation; and when
the run evaluates, saves and logs. A field without a row fails, and so does one
that changes less than its row says, or more.
"""

import dataclasses
import functools
import io
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from flax import traverse_util

from configs import default, digits_cnn
from lossbench import build, models
from lossbench.data import datasets, pipeline, preprocess
from lossbench.data.examples import Examples, build_examples
from lossbench.runs.checkpoints import Checkpointer, to_host
from lossbench.runs.directory import OPERATIONAL_FIELDS, RunDirectory
from lossbench.runs.stored import BEST_METRIC
from lossbench.runtime import devices
from lossbench.train import program
from lossbench.train.checks import check_config
from lossbench.train.class_weights import (
  build_class_weights,
  build_label_counts,
)
from lossbench.train.dispatch import Batches
from lossbench.train.initialization import (
  initial_state,
  load_source,
  start_from,
)
from lossbench.train.inputs import build_train_inputs
from lossbench.train.plan import build_plan

# Where the averages' ramp, (1 + n) / (10 + n), is about 0.3.
STEP = 3
SIDE = 12


class Noise(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Random colour images, and a split with one that is none."""

  VERSION = tfds.core.Version('1.0.0')
  name = 'noise'

  def _info(self):
    shape = (SIDE, SIDE, 3)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=shape, encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      'train': self._generate_examples(80, None),
      'damaged': self._generate_examples(5, 3),
    }

  def _generate_examples(self, count, damaged):
    rng = np.random.default_rng(count)
    for i in range(count):
      image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
      content = tf.io.encode_png(image).numpy()
      if i == damaged:
        content = b'no image at all'
      yield i, {'image': io.BytesIO(content), 'label': i % 10}


@dataclasses.dataclass(frozen=True)
class Row:
  """What a field changes.

  Attributes:
    field: its name.
    value: another than that of the base.
    changes: what differs then; nothing else does.
    given: other fields, the same on both sides.
  """

  field: str
  value: Any
  changes: frozenset[str]
  given: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __str__(self):
    return f'{self.field}={self.value}{",..." if self.given else ""}'


# What may change.
LENGTH = 'the number of steps'
START = 'the initial state'
BATCH = 'the training batch'
STEP_FN = 'the train step'
EVAL_IMAGES = 'the images of evaluation'
LEFT_OUT = 'the images left out'
EVALUATIONS = 'when it evaluates'
UPKEEP = 'when it saves, logs and profiles, and what it keeps'

COLOUR = {
  'data_on_device': False,
  'image_size': SIDE,
  'pixel_mean': (0.5, 0.5, 0.5),
  'pixel_std': (0.2, 0.2, 0.2),
  'num_holdout': 16,
}
RESIZED = {**COLOUR, 'resize_images': True}
ANTIALIASED = {**RESIZED, 'image_size': 6, 'crop_padding': 0}
LOW = {
  'dataset': 'digits_low',
  'num_classes': 5,
  'num_holdout': 60,
  'data_on_device': False,
}
FROM = '<another run>'
COSINES = {
  'objective.name': 'cosine_softmax',
  'objective.cosine_softmax': {'temperature': 0.1},
}


def _row(field, value, *changes, **given):
  return Row(field, value, frozenset(changes), given)


ROWS = (
  _row('objective.name', 'sigmoid', START, STEP_FN),
  _row('seed', 1, START, BATCH, STEP_FN, random_flip=True),
  _row('dataset', 'digits_high', BATCH, EVAL_IMAGES, **LOW),
  _row('data_dir', '<elsewhere>'),
  _row('num_classes', 11, START, STEP_FN),
  _row('image_size', 16, BATCH, STEP_FN, EVAL_IMAGES, **RESIZED),
  _row('downscale', 2, STEP_FN),
  _row('num_holdout', 200, LENGTH, EVALUATIONS, BATCH, STEP_FN, EVAL_IMAGES),
  _row('num_holdout', 0, LENGTH, EVALUATIONS, BATCH, STEP_FN, EVAL_IMAGES),
  _row('data_on_device', False, BATCH, STEP_FN),
  _row('shuffle_gib', 0.0, BATCH, **COLOUR),
  _row('on_bad_image', 'skip', LEFT_OUT, **COLOUR),
  _row('resize_images', True, BATCH, EVAL_IMAGES, **COLOUR),
  _row('resize_ratio', 1.5, EVAL_IMAGES, **RESIZED),
  _row('eval_pixels', 'float32', EVAL_IMAGES, **RESIZED),
  _row('eval_crop', 'resize_then_crop', EVAL_IMAGES, **RESIZED),
  _row('resize_method', 'bicubic', BATCH, EVAL_IMAGES, **RESIZED),
  _row('resize_method', 'bicubic_tf1', BATCH, EVAL_IMAGES, **RESIZED),
  _row('resize_antialias', True, BATCH, EVAL_IMAGES, **ANTIALIASED),
  _row('autoaugment', 'cifar', BATCH, **COLOUR),
  _row('autoaugment', 'imagenet', BATCH, **COLOUR),
  _row('crop_padding', 2, STEP_FN),
  _row('crop_padding', 2, BATCH, **COLOUR),
  _row('random_flip', True, STEP_FN),
  _row('random_flip', True, BATCH, **COLOUR),
  _row('mixup_alpha', 0.4, STEP_FN),
  _row('pixel_mean', (0.4,), STEP_FN),
  _row('pixel_std', (0.4,), STEP_FN),
  _row('model.name', 'wide_resnet', START, STEP_FN),
  _row('model.width', 3, START, STEP_FN),
  _row('compute_dtype', 'bfloat16', STEP_FN),
  _row('precision', 'highest', STEP_FN),
  _row('batch_norm_group', 2, STEP_FN),
  # Logit normalization is only evaluated with it: tests/objectives/test_heads.py.
  _row('output_layer', 'released', STEP_FN, **COSINES),
  _row('output_kernel_stddev', 0.2, START),
  _row('init_from', FROM, START),
  _row('init_step', '1', START, init_from=FROM),
  _row('class_weights', 'balanced', STEP_FN),
  _row('batch_size', 64, LENGTH, EVALUATIONS, BATCH, STEP_FN),
  _row('num_epochs', 3.0, LENGTH, STEP_FN),
  _row('stop_epoch', 1.0, LENGTH),
  _row('accumulation_steps', 2, STEP_FN),
  _row('learning_rate', 0.2, STEP_FN),
  _row('learning_rate_batch_size', 64, STEP_FN),
  _row('schedule', 'constant', STEP_FN),
  _row('schedule', 'exponential', STEP_FN),
  _row('warmup_epochs', 1.0, STEP_FN),
  _row('decay_per_epoch', 0.9, STEP_FN, schedule='exponential'),
  _row('momentum', 0.8, STEP_FN),
  _row('weight_decay', 0.01, STEP_FN),
  _row('divide_weight_decay_by_learning_rate', True, STEP_FN),
  _row('decay_batch_norm', True, STEP_FN),
  _row('ema_decay', 0.1, STEP_FN),
  _row('ema_decay', 0.0, START, STEP_FN),
  _row('ema_ramp', False, STEP_FN, ema_decay=0.9),
  _row('eval_batch_size', 64),
  _row('eval_every_epochs', 0.5, EVALUATIONS),
  _row('log_every_steps', 7, UPKEEP),
  _row('checkpoint_every_steps', 7, UPKEEP),
  _row('keep_checkpoints', 7, UPKEEP),
  _row('keep_every_epochs', 0.5, UPKEEP),
  _row('replica_check_every_steps', 7, UPKEEP),
  # Of the watchdog: tests/faults/test_preemption.py stalls a run.
  _row('stall_secs', 7.0),
  _row('profile_steps', 7, UPKEEP),
  # Only how many steps a call takes: tests/train says that they are the same.
  _row('steps_per_dispatch', 7),
)


def _base() -> Any:
  config = digits_cnn.get_config('softmax')
  config.model.width = 2
  config.batch_size = 32
  config.num_epochs = 2.0
  config.crop_padding = 0
  config.ema_decay = 0.2
  return config


@pytest.fixture(scope='module')
def noise(tmp_path_factory):
  builder = Noise(data_dir=str(tmp_path_factory.mktemp('noise')))
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=1)
  )
  return builder


@pytest.fixture(scope='module')
def another_run(tmp_path_factory):
  """A run directory with two checkpoints of other parameters."""
  run = RunDirectory(tmp_path_factory.mktemp('another'))
  config = _base()
  run.claim(config, num_steps=2)
  history = []
  with Checkpointer(run.checkpoints_path, keep_last=2) as checkpointer:
    for step in (1, 2):
      config.seed = 100 + step
      state = initial_state(config, program.build_step_hparams(config))
      state = devices.replicate(state.replace(step=np.int32(step)))
      history.append({'step': step, BEST_METRIC: step / 10})
      checkpointer.save(to_host(state), history=history)
  return str(run.path)


def _host(tree):
  return jax.tree.map(np.asarray, jax.device_get(tree))


def _equal(a, b) -> bool:
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@functools.cache
def _program(step_fn, shapes):
  """The lowered text of a train step."""
  leaves, treedef = shapes
  return step_fn.lower(*jax.tree.unflatten(treedef, leaves)).as_text()


class Observed:
  """All that decides a run's numbers, of one configuration."""

  def __init__(self, config, builder, path):
    check_config(config)
    run = RunDirectory(path)
    train, holdout = datasets.holdout_splits(
      builder, num_holdout=config.num_holdout
    )
    plan = build_plan(
      config, num_examples=datasets.num_examples(builder, train)
    )
    examples = Examples(builder, train)
    inputs = build_train_inputs(config, examples)
    (batch,) = inputs.batches_fn(0, 1)
    counts = build_label_counts(
      config, examples, directory=run, dataset=datasets.describe(builder)
    )
    self.hparams = program.build_step_hparams(
      config, class_weights=build_class_weights(config, counts)
    )
    state = initial_state(config, self.hparams)
    if source := load_source(config, run):
      state = start_from(state, source)
    self.step_fn = program.build_train_step(
      config, steps_per_epoch=plan.steps_per_epoch
    )
    # How many steps a program takes at once is no part of a step.
    size = 1 if config.data_on_device else 0
    self.state = state.replace(step=np.int32(STEP))
    self.dispatch = Batches(inputs, 0, 1, size=size).take(1)
    self.data = inputs.data
    left_out = ()
    if 'damaged' in builder.info.splits:
      left_out = build_examples(config, builder, 'damaged', run=run).bad_ids
    evaluated = pipeline.load_examples(
      Examples(builder, holdout or 'train[-8:]'),
      image_fn=preprocess.build_eval_image_fn(config),
    )
    self.parts = {
      LENGTH: plan.num_steps,
      START: _host(state),
      BATCH: (_host(batch), _host(inputs.data)),
      EVAL_IMAGES: evaluated,
      LEFT_OUT: left_out,
      EVALUATIONS: plan.eval_every,
      UPKEEP: (
        plan.checkpoint_every,
        plan.keep_every,
        plan.keep_last,
        plan.log_every,
        plan.check_every,
        plan.num_profiled,
      ),
    }

  def _arguments(self, hparams):
    batch, count = self.dispatch
    state = devices.replicate(self.state)
    return state, batch, self.data, hparams, *count

  @property
  def program(self) -> str:
    arguments = self._arguments(self.hparams)
    shapes = jax.tree.map(
      lambda x: (
        jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, 'shape') else x
      ),
      arguments,
    )
    leaves, treedef = jax.tree.flatten(shapes)
    return _program(self.step_fn, (tuple(leaves), treedef))

  def step_with(self, hparams):
    """The state after this program's step with other numbers."""
    return _host(self.step_fn(*self._arguments(hparams))[0])

  def steps_like(self, other) -> bool:
    if self.program != other.program:
      return False
    hparams = self.hparams, other.hparams
    return _equal(*hparams) or _equal(*map(self.step_with, hparams))

  def differences(self, other) -> set[str]:
    found = {
      name
      for name, part in self.parts.items()
      if not _equal(part, other.parts[name])
    }
    return found if self.steps_like(other) else found | {STEP_FN}


@pytest.fixture(scope='module')
def observe(noise, digits_dir, another_run, tmp_path_factory):
  elsewhere = str(tmp_path_factory.mktemp('elsewhere'))
  known = {}

  def observe(changes):
    config = _base()
    config.data_dir = digits_dir
    for name, value in changes.items():
      if isinstance(value, str):
        value = {FROM: another_run, '<elsewhere>': elsewhere}.get(value, value)
      config.update_from_flattened_dict({name: value})
    key = config.to_json()
    if key not in known:
      builder = noise
      if len(config.pixel_mean) == 1:
        builder = datasets.open_dataset(
          config.dataset, data_dir=config.data_dir
        )
      path = tmp_path_factory.mktemp('run')
      known[key] = Observed(config, builder, path)
    return known[key]

  return observe


@pytest.mark.parametrize('row', ROWS, ids=str)
def test_field_changes_what_it_is_for(row, observe):
  base = observe(row.given)
  found = base.differences(observe({**row.given, row.field: row.value}))
  assert found == row.changes


def test_every_field_has_a_row():
  config = default.get_default_config()
  fields = set(traverse_util.flatten_dict(config.to_dict(), sep='.'))
  rows = {row.field for row in ROWS}
  assert rows == fields | {'model.width'}


def test_operational_fields_change_no_number():
  for row in ROWS:
    operational = row.changes <= {UPKEEP}
    assert operational == (row.field in OPERATIONAL_FIELDS), row


# Fields of the models.

MODEL_ROWS = {
  'all_cnn_c': {'width_multiplier': 0.5},
  'digits_cnn': {'width': 3, 'strides': (1, 2)},
  'inception_v3': {'count_include_pad': True},
  'resnet': {
    'depth': 18,
    'width': 8,
    'max_pool_padding': 'symmetric',
    'conv_padding': 'same',
  },
  'wide_resnet': {'depth': 10, 'width': 2},
}
# What changes the function, and no parameter's shape.
SHAPELESS = ('count_include_pad', 'max_pool_padding', 'conv_padding')


@pytest.mark.parametrize('model', models.known_backbones())
def test_fields_of_models_change_parameters_or_the_function(model):
  config = _base()
  config.image_size = 96
  images = np.zeros((1, 96, 96, 3), np.float32)

  def traced(**fields):
    """The shapes of the parameters; and the program, as text."""
    config.model = {'name': model, **fields}
    backbone = build.build_backbone(config)
    variables = jax.eval_shape(
      lambda: backbone.init(jax.random.key(0), images, train=False)
    )
    shapes = jax.tree.map(lambda x: x.shape, variables['params'])
    apply = functools.partial(backbone.apply, train=False)
    return shapes, str(jax.make_jaxpr(apply)(variables, images))

  module = type(models.create_backbone(model, image_size=96))
  fields = {f.name for f in dataclasses.fields(module)}
  given = {'batch_norm', 'dtype', 'precision'}
  assert MODEL_ROWS[model].keys() == fields - given - {'name', 'parent'}
  shapes, text = traced()
  for name, value in MODEL_ROWS[model].items():
    other_shapes, other_text = traced(**{name: value})
    assert (shapes == other_shapes) == (name in SHAPELESS), name
    assert text != other_text, name
