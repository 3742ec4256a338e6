"""A run directory is the unit of record: what is where, and whose it is.

config.json                       the configuration, as resolved
run.json                          objective, steps; every start: command, code,
                                  libraries, devices, data; source of fine-tuning
                                  or of an import
checkpoints/<step>/               Orbax
label_counts.json                 of class_weights=balanced, and what it counted
history.json                      holdout metrics at every evaluation
events.out.tfevents.*             TensorBoard
eval/<dataset>-<split>/           metrics.json, predictions.npz, per_example.npz
eval/evaluation.json              written last: what was evaluated, what not
finetune/<dataset>/               run directories of fine-tunings
lock                              held by whoever trains into the directory

Every record in these JSON files has a checksum, `write_json`'s, which `read_json`
verifies: a digit that was altered is JSON as good as any.
"""

import contextlib
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

import lossbench
from lossbench.runtime import locks, storage
from lossbench.runtime.console import LOGGER

# Fields that change no number of the run, so that a restart may change them.
OPERATIONAL_FIELDS = frozenset(
  {
    'checkpoint_every_steps',
    'data_dir',
    'eval_batch_size',
    'keep_checkpoints',
    'keep_every_epochs',
    'log_every_steps',
    'profile_steps',
    'replica_check_every_steps',
    'stall_secs',
    'steps_per_dispatch',
  }
)

# What runs did before there were these fields, which their config.json lacks.
_BEFORE_FIELDS = {
  'batch_norm_group': 0,
  'class_weights': '',
  'downscale': 1,
  'ema_ramp': False,
  'eval_crop': 'crop_then_resize',
  'eval_pixels': 'uint8',
  'on_bad_image': 'raise',
  'output_layer': 'paper',
  'precision': 'default',
  'resize_antialias': False,
  'resize_method': 'bilinear',
}
# What models do that were configured without these fields.
_BEFORE_MODEL_FIELDS = {
  'model.conv_padding': 'symmetric',
  'model.count_include_pad': False,
  'model.max_pool_padding': 'same',
}

# The name of the split that a run is trained on: train without its holdout.
TRAINING = 'training'

# Of a record, the checksum of all its other entries.
_CHECKSUM = 'record_crc32'


# What `is_plain` takes, in words.
PLAIN = 'letters from a to z, digits and "._+-"'


def is_plain(name: str) -> bool:
  """Whether a name is that of a directory, as it is, on every disk."""
  # Not '.' and '..', which are other directories.
  return bool(re.fullmatch(r'(?!\.+$)[\w.+-]+', name, flags=re.ASCII))


def plain(name: str) -> str:
  """A name with '_' in place of what `is_plain` does not take."""
  found = re.sub(r'[^\w.+-]', '_', name, flags=re.ASCII)
  return found if is_plain(found) else f'_{found}'


def safe_name(dataset: str) -> str:
  """A data set's name as that of a directory.

  'folder:/data/pets' becomes 'folder-pets-' and a checksum of the whole name.
  """
  if is_plain(dataset):
    return dataset
  kind, _, path = dataset.partition(':')
  last = path.partition('#')[0].rstrip('/').rpartition('/')[2]
  last = re.sub(r'[^\w.-]', '_', last, flags=re.ASCII)
  return f'{kind}-{last}-{zlib.crc32(dataset.encode()):08x}'


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
  """A record, of what JSON can hold, with its checksum (CRC-32)."""
  # As it will be read: JSON has no tuples, and all its names are strings.
  content = json.loads(json.dumps(record))
  return {**content, _CHECKSUM: _crc32(content)}


def _crc32(content: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _unsealed(record: dict[str, Any]) -> dict[str, Any]:
  """A record without its checksum, which records of version 0.1 lack."""
  content = {k: v for k, v in record.items() if k != _CHECKSUM}
  if _CHECKSUM in record and record[_CHECKSUM] != _crc32(content):
    raise ValueError(
      'its content is not what was written: the checksum (CRC-32) differs'
    )
  return content


def _each_record(value: Any, function: Callable[[dict], dict]) -> Any:
  """Applies a function to a record, or to each in a list of them."""
  if isinstance(value, dict):
    return function(value)
  if isinstance(value, list) and all(isinstance(item, dict) for item in value):
    return [function(item) for item in value]
  return value


def write_json(path: storage.Path, value: Any):
  """Writes JSON so that a reader sees the old file or the whole new one.

  A record, or each in a list of them, is `sealed`; `read_json` verifies it.
  """
  value = _each_record(value, sealed)
  text = json.dumps(value, indent=2, sort_keys=True) + '\n'
  storage.write_whole(path, lambda file: file.write(text.encode()))


def parse_json(content: bytes) -> Any:
  """What `write_json` was given.

  Raises:
    ValueError: if it is not JSON, or a record is not what was written.
  """
  try:
    value = json.loads(content)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'it is not valid JSON: {error}') from error
  return _each_record(value, _unsealed)


def read_json(path: storage.Path, *, remedy: str = '') -> Any:
  """What `write_json` was given.

  Args:
    path: of the file.
    remedy: a sentence on what to do about a damaged one.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is damaged; names it, and the remedy.
  """
  try:
    return parse_json(path.read_bytes())
  except ValueError as error:
    words = f'{path} is damaged: {error}', remedy
    raise ValueError('. '.join(filter(None, words))) from error


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
  # to_json raises on values that to_json_best_effort would turn into strings.
  return json.loads(config.to_json())


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Field -> value, of one in a sub-dictionary 'model.width'."""
  leaves = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      leaves |= flatten(value, f'{prefix}{name}.')
    else:
      leaves[prefix + name] = value
  return leaves


def fields_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Field -> value, as JSON; of one in a sub-dictionary 'model.width'."""
  return flatten(_plain(config))


def what_decides_numbers(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Field -> value, as JSON, of all that a run's numbers depend on.

  Without those of the model that ask for what it does where they are absent.
  """
  return {
    name: value
    for name, value in fields_of(config).items()
    if name not in OPERATIONAL_FIELDS
    and value != _BEFORE_MODEL_FIELDS.get(name)
  }


def differing_fields(
  old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> list[tuple[str, Any, Any]]:
  """(name, old value, new value) wherever two runs' numbers may differ.

  Of a field that one side lacks the value is 'absent'.
  """
  old, new = what_decides_numbers(old), what_decides_numbers(new)
  return [
    (name, old.get(name, 'absent'), new.get(name, 'absent'))
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  ]


# What a run may only find changed where it is allowed to -> why.
CHANGES = {
  'data': (
    'prepared anew, its examples come in another order, or are others; or class '
    'weights in a file are'
  ),
  'device_kind': 'other devices round differently',
  'devices': (
    'batch normalisation and dropout go by the images of each device'
  ),
}


def _changes(start: Mapping[str, Any]) -> dict[str, Any]:
  """What `CHANGES` are of, at a start."""
  dataset = start['dataset']
  about = ('name', 'version', 'fingerprint', 'class_weights')
  return {
    # Weights only where a file has them.
    'data': ' '.join(dataset[name] for name in about if name in dataset),
    'device_kind': start['device_kind'],
    'devices': start['devices'],
  }


class RunDirectory:
  """Paths of one run and the rules of who may write into it."""

  def __init__(self, workdir: str | os.PathLike):
    self.path = storage.as_path(workdir)
    self.config_path = self.path / 'config.json'
    self.about_path = self.path / 'run.json'
    self.checkpoints_path = self.path / 'checkpoints'
    self.history_path = self.path / 'history.json'
    self.label_counts_path = self.path / 'label_counts.json'
    self.evaluation_path = self.path / 'eval' / 'evaluation.json'

  def eval_path(self, dataset: str, split: str) -> storage.Path:
    """Where results on a split lie; slices become part of the name."""
    plain = split.translate(str.maketrans({'[': '_', ']': '', ':': '-'}))
    return self.path / 'eval' / f'{safe_name(dataset)}-{plain}'

  def transfer_path(self, dataset: str, split: str | None) -> storage.Path:
    """Where a transfer's results lie; `split` None: the data set's own."""
    name = f'transfer-{safe_name(dataset)}'
    return self.eval_path(name, split) if split else self.path / 'eval' / name

  def finetune_path(self, dataset: str) -> storage.Path:
    """Where the results of a fine-tuning lie."""
    return self.path / 'eval' / f'finetune-{safe_name(dataset)}'

  @property
  def committed_steps(self) -> list[int]:
    """Steps that have a whole checkpoint, ascending; their bytes not verified.

    A save that was cut off does not count. On a disk it bears another name; in
    a bucket, which renames nothing, it lacks the file that Orbax writes last.
    """
    # Not above: Orbax brings JAX along.
    from orbax.checkpoint.path import step

    return sorted(step.checkpoint_steps(self.checkpoints_path))

  def has_checkpoints(self) -> bool:
    """Whether a whole checkpoint is there."""
    return bool(self.committed_steps)

  @property
  def last_step(self) -> int:
    """Step of the newest whole checkpoint, 0 without one."""
    return max(self.committed_steps, default=0)

  def read_config(self) -> ml_collections.ConfigDict:
    """The run's configuration, also of a run from before a field was added.

    Raises:
      FileNotFoundError: if this is not a run directory.
      ValueError: if config.json is damaged.
    """
    if not self.config_path.exists():
      raise FileNotFoundError(
        f'{self.path} is not a run directory: it has no config.json. Give the '
        '--workdir of a training run.'
      )
    remedy = (
      'Put it back from a copy; or make it anew by the command in run.json with '
      'another --workdir, which may be stopped at its first step.'
    )
    try:
      fields = read_json(self.config_path, remedy=remedy)
    except ValueError as error:
      if not self.config_path.read_bytes():
        raise ValueError(f'{self.config_path} is empty. {remedy}') from error
      raise
    if not isinstance(fields, dict):
      raise ValueError(f'{self.config_path} holds no configuration. {remedy}')
    fields = {**_BEFORE_FIELDS, **fields}
    if fields.get('data_on_device'):  # the order of streams was another
      fields.setdefault('shuffle_gib', 4.0)
    return ml_collections.ConfigDict(fields)

  def is_bare_claim(self) -> bool:
    """Whether nothing came of the run that claimed this directory."""
    evaluated = (self.path / 'eval').exists()
    return not evaluated and not self.has_checkpoints()

  def check_compatible(self, config: ml_collections.ConfigDict):
    """Raises ValueError if the directory holds a run of another config.

    A claim alone, without a checkpoint, binds nobody: what stopped that run may
    have been its configuration.
    """
    if not self.config_path.exists():
      if self.checkpoints_path.exists():
        raise ValueError(
          f'{self.path} has checkpoints but no config.json, so they cannot be '
          'trusted. Choose another --workdir.'
        )
      return
    if self.is_bare_claim():
      return
    differing = [
      f'{name}: {old!r} there, {new!r} now'
      for name, old, new in differing_fields(self.read_config(), config)
    ]
    if differing:
      raise ValueError(
        f'{self.path} holds another run. Differing fields: '
        f'{"; ".join(differing)}. Choose another --workdir, or the same config '
        'to resume.'
      )

  @property
  def imported_from(self) -> dict[str, Any] | None:
    """Source of an imported run, with 'format' and 'path'; None of others.

    'fingerprint', of its arrays as of a checkpoint, is in newer records.
    """
    path = self.about_path
    source = read_json(path).get('source') if path.exists() else None
    return source if source and 'format' in source else None

  def check_not_imported(self):
    """Raises ValueError if what is here came from another project.

    Its optimiser's state stayed there, and so it cannot be continued.
    """
    try:
      source = self.imported_from
    except ValueError:
      # Damaged. Training writes it anew, but not where an import is, which alone
      # has a checkpoint of step 0.
      if self.committed_steps == [0]:
        raise
      return
    if source and self.has_checkpoints():
      raise ValueError(
        f'{self.path} was imported from {source["path"]} and cannot be trained '
        f'further. Give --config.init_from={self.path} and another --workdir to '
        'fine-tune it.'
      )

  @property
  def num_steps(self) -> int | None:
    """Steps that the run takes; None before training has begun."""
    path = self.about_path
    return read_json(path).get('num_steps') if path.exists() else None

  @contextlib.contextmanager
  def locked(self):
    """Keeps a second process out for as long as this one lives.

    See `lossbench.runtime.locks`. Of the processes of one job only the first
    takes the lock. In buckets, which know no locks, nobody is kept out.

    Raises:
      BlockingIOError: if another process trains into the directory.
      OSError: if it cannot be written to.
    """
    import jax  # see `claim`

    if jax.process_index() > 0:
      yield
      return
    self.make()
    if storage.is_remote(self.path):  # buckets know no locks
      yield
      return
    with locks.locked(self.path):
      yield

  def _earlier(self, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What run.json says of the run that `config` describes; {} if nothing."""
    if not self.about_path.exists():
      return {}
    try:
      about = read_json(self.about_path)
      same = not differing_fields(self.read_config(), config)
    except (OSError, ValueError) as error:
      LOGGER.warning('%s. It is written anew, without earlier starts.', error)
      return {}
    return about if same and isinstance(about, dict) else {}

  def _check_changes(self, before: Mapping[str, Any], now: Mapping[str, Any]):
    """Raises ValueError where what decides numbers has changed since a start."""
    before, new = _changes(before), _changes(now)
    for name, why in CHANGES.items():
      if before[name] != new[name] and name not in now['allowed']:
        raise ValueError(
          f'{self.path} was trained with {name} = {before[name]}, but now it is '
          f'{new[name]}: {why}, so its numbers would change. Go back to that, or '
          f'give --allow={",".join([*now["allowed"], name])}, which run.json '
          'records.'
        )

  def claim(
    self,
    config: ml_collections.ConfigDict,
    *,
    num_steps: int,
    start: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
  ):
    """Makes this the directory of the run that `config` describes.

    What a run that left no checkpoint wrote of its holdout goes.

    Args:
      config: resolved.
      num_steps: that the run takes.
      start: as `lossbench.runs.provenance.describe_start` returns it; added to
        those before, the last of which it is compared with where there are
        checkpoints.
      source: of a fine-tuning that begins: path, step and fingerprint; or of an
        import: format, path, fingerprint, ...

    Raises:
      ValueError: if it holds another run, or `CHANGES` that were not allowed;
        nothing is written then.
      OSError: if it cannot be written to.
    """
    # Not above: those who only read run directories need not wait for it.
    import jax

    self.check_compatible(config)
    earlier = self._earlier(config)
    starts = earlier.get('starts', [])  # version 0.1 kept none
    if start and starts and self.has_checkpoints():
      self._check_changes(starts[-1], start)
    if jax.process_index() > 0:
      return
    self.make()
    if self.is_bare_claim():
      self.history_path.unlink(missing_ok=True)
    write_json(self.config_path, _plain(config))
    about = {
      'objective': config.objective.name,
      'num_steps': num_steps,
      'lossbench_version': lossbench.__version__,
      'jax_version': jax.__version__,
      'command': sys.argv,
      'starts': [*starts, start] if start else starts,
    }
    source = source or earlier.get('source')
    write_json(self.about_path, about | ({'source': source} if source else {}))

  def make(self):
    """Makes the directory and tries to write, before hours of work."""
    storage.make_directory(self.path, flag='--workdir')
    if storage.is_remote(self.path):
      storage.check_keeps_checkpoints(self.path)
