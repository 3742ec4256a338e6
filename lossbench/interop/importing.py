"""Makes a run directory of a checkpoint of another project."""

import importlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from configs import legal
from lossbench import build
from lossbench.interop.formats import Format, Source
from lossbench.interop.matching import model_shapes, take_arrays
from lossbench.runs import provenance
from lossbench.runs.checkpoints import (
  Checkpointer,
  DamagedCheckpointError,
  HostState,
  on_host,
  open_checkpoints,
)
from lossbench.runs.directory import RunDirectory, fields_of
from lossbench.runs.stored import find_checkpoint, fingerprint_of
from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER
from lossbench.train.checks import check_relations
from lossbench.train.state import TrainState


def build_import_config(
  source: Source, *, seed: int = 0
) -> ml_collections.ConfigDict:
  """The configuration of an imported run, where none was given.

  Args:
    source: the checkpoint.
    seed: of the network's training.
  """
  recipe = importlib.import_module(f'configs.{source.recipe}')
  config = recipe.get_config(source.objective)
  if any(name.startswith('model.') for name in source.fields):
    config.model = ml_collections.ConfigDict()
  config.update_from_flattened_dict(dict(source.fields))
  config.seed = seed
  return config


def _check_fields(
  config: ml_collections.ConfigDict,
  source: Source,
  options: Mapping[str, Any],
):
  """Refuses a configuration that would give the arrays another meaning."""
  fields = fields_of(config)
  wanted = {'objective.name': source.objective, **source.fields}
  if 'seed' in options:
    wanted['seed'] = options['seed']
  differing = [
    f'{name}={fields.get(name, "absent")} instead of {value}'
    for name, value in json.loads(json.dumps(wanted)).items()
    if fields.get(name, 'absent') != value
  ]
  if differing:
    raise ValueError(
      f'The configuration is not that of the checkpoint: {"; ".join(differing)}. '
      'Give these values.'
    )


def _check_classes(config: ml_collections.ConfigDict):
  """Refuses a data set of --dataset that has not the network's classes."""
  from lossbench.data import datasets  # TensorFlow's import takes seconds

  found = len(datasets.class_names(config.dataset, config.data_dir))
  if found != config.num_classes:
    raise ValueError(
      f'--dataset={config.dataset} has {found} classes, but the network tells '
      f'{config.num_classes} apart. Name the data set that it was trained on.'
    )


def import_checkpoint(
  format_: Format,
  path: str,
  *,
  workdir: str,
  options: Mapping[str, Any],
  data_dir: str = '',
  config: ml_collections.ConfigDict | None = None,
):
  """Makes a run directory that is evaluated and compared like any other.

  Its only checkpoint is of step 0. What was imported before is left as it is if
  it is whole, made again if it is damaged, and refused if the source holds other
  arrays now.

  Args:
    format_: of the checkpoint.
    path: of the checkpoint, as the format wants it; may be gs://.
    workdir: the run directory.
    options: of the format.
    data_dir: TFDS directory of the run; '' takes the recipe's, or `config`'s.
    config: of the run; None takes the recipe's with the checkpoint's fields.

  Raises:
    FileNotFoundError: if there is no such checkpoint, or folder of images.
    ValueError: if it does not hold the model, an option is not legal, or the
      directory holds another run; nothing is written then.
    OSError: if the directory cannot be written to.
  """
  source = format_.open_source(path, **options)
  if config is None:
    config = build_import_config(source, seed=options.get('seed') or 0)
  if data_dir:
    config = config.copy_and_resolve_references()
    config.data_dir = data_dir
  _check_fields(config, source, options)
  legal.check_config(config)
  check_relations(config)
  if options.get('dataset'):
    _check_classes(config)
  about = {'format': format_.name, 'path': path, **source.about}
  directory = RunDirectory(workdir)
  directory.check_compatible(config)
  wanted = model_shapes(
    build.build_classifier(config, build.build_objective(config)),
    num_channels=len(config.pixel_mean),
  )
  variables = take_arrays(source, wanted, where=path)
  state = on_host(
    TrainState(step=np.zeros((), np.int32), opt_state={}, ema=None, **variables)
  )
  # Of the checkpoint, which has it in its metadata too.
  about['fingerprint'] = fingerprint_of(state.crc32)
  if _is_imported(directory, about):
    LOGGER.info('Already imported: %s', directory.path)
    return
  with directory.locked():
    _write(directory, config, state, about)
  LOGGER.info(
    'Imported %d numbers into %s. Evaluate with: python -m lossbench.evaluate '
    '--workdir=%s',
    sum(leaf.size for leaf in jax.tree.leaves(variables)),
    directory.path,
    directory.path,
  )


def _is_imported(directory: RunDirectory, about: Mapping[str, Any]) -> bool:
  """Whether a directory holds this import already, undamaged.

  Raises:
    ValueError: if it holds a run that came from elsewhere, or other arrays.
  """
  if not directory.has_checkpoints():
    return False
  lost = not directory.about_path.exists()
  try:
    found = directory.imported_from
  except ValueError:
    found, lost = None, True
  lost = lost and directory.committed_steps == [0]  # as imports alone have it
  names = 'format', 'path'
  if not lost and (not found or any(found[n] != about[n] for n in names)):
    came = f'imported from {found["path"]}' if found else 'trained'
    raise ValueError(
      f'{directory.path} holds a run that was {came}. Choose another --workdir.'
    )
  _check_unchanged(directory, found or {}, about)
  if lost:
    LOGGER.warning('%s is lost. Importing again.', directory.about_path)
    return False
  with open_checkpoints(directory) as checkpointer:
    try:
      checkpointer.restore(checkpointer.resolve('last'))
    except DamagedCheckpointError as error:
      LOGGER.warning('%s. Importing again.', error)
      return False
  return True


def _check_unchanged(
  directory: RunDirectory, found: Mapping[str, Any], about: Mapping[str, Any]
):
  """Refuses a source whose arrays are others than those of the import."""
  before = found.get('fingerprint')
  if before is None:  # lost, or from before it was recorded
    stored = find_checkpoint(directory, 'last')
    before = stored.fingerprint if stored else about['fingerprint']
  if before != about['fingerprint']:
    raise ValueError(
      f'{directory.path} was imported when its source held other arrays: '
      f'fingerprint {before} there, {about["fingerprint"]} now of '
      f'{about["path"]}. Choose another --workdir for what it holds now.'
    )


def _write(
  directory: RunDirectory,
  config: ml_collections.ConfigDict,
  state: HostState,
  about: Mapping[str, Any],
):
  """Writes the records, then the checkpoint, without which they bind nobody."""
  storage.remove_tree(directory.checkpoints_path)
  record = {
    **about,
    'code': provenance.code_version(),
    'libraries': provenance.library_versions(),
  }
  directory.claim(config, num_steps=0, source=record)
  with Checkpointer(directory.checkpoints_path) as checkpointer:
    checkpointer.save(state, history=[])
    checkpointer.wait()
