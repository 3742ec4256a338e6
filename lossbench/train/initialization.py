"""The state before the first step: from the seed, or from another run."""

import functools
from typing import Any

import jax
import ml_collections
import numpy as np

from lossbench import build
from lossbench.runs.checkpoints import Checkpoint, load_checkpoint
from lossbench.runs.directory import RunDirectory, what_decides_numbers
from lossbench.runtime.console import LOGGER
from lossbench.train.state import StepHparams, TrainState, create_state, decayed

PyTree = Any

# Fields that decide what the backbone is and sees: features trained under
# others would see other inputs.
_SHARED_FIELDS = ('model', 'pixel_mean', 'pixel_std')

# Fields that decide the shapes and distributions of initial parameters.
_INIT_FIELDS = (
  'compute_dtype',
  'decay_batch_norm',
  'downscale',
  'image_size',
  'model',
  'num_classes',
  'output_kernel_stddev',
  'pixel_mean',
  'precision',
)


def initial_state(
  config: ml_collections.ConfigDict, hparams: StepHparams
) -> TrainState:
  """The state before the first step, a function of the seed alone."""
  init = _compiled_init(
    build.pack_fields(config, _INIT_FIELDS), config.ema_decay > 0
  )
  return jax.device_get(init(hparams))


@functools.lru_cache(maxsize=64)
def _compiled_init(fields: str, keep_ema: bool):
  config = build.unpack_fields(fields)

  @jax.jit
  def init(hparams):
    classifier = build.build_classifier(config, hparams.objective)
    # No parameter's shape depends on the image size; small ones compile fast.
    side = classifier.backbone.min_image_size
    images = jax.numpy.zeros((1, side, side, len(config.pixel_mean)))
    key = jax.random.key(hparams.seed)
    variables = classifier.init(key, images, train=False)
    mask = decayed(variables['params'], batch_norm=config.decay_batch_norm)
    return create_state(
      variables, hparams=hparams, mask=mask, keep_ema=keep_ema
    )

  return init


def load_source(
  config: ml_collections.ConfigDict, run: RunDirectory
) -> Checkpoint | None:
  """The checkpoint that config.init_from names, checked; None without one.

  Args:
    config: of the run that is to start.
    run: its directory.

  Raises:
    FileNotFoundError: if init_from is not a run directory or has no such
      checkpoint.
    ValueError: if the checkpoint is damaged, init_from is the run itself, or
      its model or normalisation of pixels is another.
  """
  if not config.init_from:
    return None
  source = RunDirectory(config.init_from)
  if source.path.resolve() == run.path.resolve():
    raise ValueError(
      f'--config.init_from={config.init_from} is the --workdir itself. To '
      'continue a run leave init_from as it was.'
    )
  theirs = source.read_config()
  for field in _SHARED_FIELDS:
    old, new = (_plain(c, field) for c in (theirs, config))
    if old != new:
      raise ValueError(
        f'--config.init_from={config.init_from} has {field} = {old}, but this '
        f'run {new}. Its backbone can only be continued with its own '
        f'{field}: set --config.{field} to that.'
      )
  return load_checkpoint(source, config.init_step)


def _plain(config, field):
  if field == 'model':
    decisive = what_decides_numbers(config)
    return {
      name.removeprefix('model.'): value
      for name, value in decisive.items()
      if name.startswith('model.')
    }
  return list(config[field])


def start_from(state: TrainState, source: Checkpoint) -> TrainState:
  """A state with the source's backbone and a new output layer.

  The backbone starts at the variables that the source is evaluated with (its
  averages, where it kept any); moving averages of this run start there too.
  Step and momentum start at zero.

  Args:
    state: from `initial_state`, on the host.
    source: of the same backbone.
  """
  theirs = source.eval_variables
  params = {**state.params, 'backbone': theirs['params']['backbone']}
  batch_stats = theirs['batch_stats']
  _check_same_shapes(state.params['backbone'], params['backbone'])
  ema = state.ema
  if ema is not None:
    ema = {'params': params, 'batch_stats': batch_stats}
  LOGGER.info('Backbone of step %d of --config.init_from.', source.step)
  return state.replace(params=params, batch_stats=batch_stats, ema=ema)


def _check_same_shapes(ours: PyTree, theirs: PyTree):
  shapes = [jax.tree.map(np.shape, tree) for tree in (ours, theirs)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      'The parameters of --config.init_from have other shapes than those of '
      'this model. Was it trained with another version of lossbench?'
    )
