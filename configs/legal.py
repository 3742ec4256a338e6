"""The legal values of every field of a run's configuration.

The binaries that start runs check them before anything is loaded or compiled.
What relates fields to one another or to the devices is in
`lossbench/train/checks.py`; runs of the past are never held against this table.
"""

import dataclasses
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from lossbench.data.catalogue import known_datasets
from lossbench.data.folder_names import parse_folder
from lossbench.names import did_you_mean
from lossbench.objectives import Interval, check_spec, get_part


@dataclasses.dataclass(frozen=True)
class Number:
  """Numbers of an interval, written '[0, 1)'."""

  interval: str

  def __contains__(self, value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and value in Interval(self.interval)

  def __str__(self):
    return f'in {self.interval}'


@dataclasses.dataclass(frozen=True)
class Count(Number):
  """Whole numbers of an interval."""

  def __contains__(self, value: Any) -> bool:
    return isinstance(value, numbers.Integral) and super().__contains__(value)

  def __str__(self):
    return f'a whole number in {self.interval}'


@dataclasses.dataclass(frozen=True)
class OneOf:
  """Some values, listed in errors unless `described`."""

  values: tuple[Any, ...]
  described: str = ''

  def __contains__(self, value: Any) -> bool:
    return any(value == v and type(value) is type(v) for v in self.values)

  def __str__(self):
    return self.described or f'one of {", ".join(map(repr, self.values))}'


@dataclasses.dataclass(frozen=True)
class DatasetName(OneOf):
  """Names of data sets, and of folders of images."""

  def __contains__(self, value: Any) -> bool:
    folder = parse_folder(value) if isinstance(value, str) else None
    return super().__contains__(value) or bool(folder and not folder.class_map)


@dataclasses.dataclass(frozen=True)
class Text:
  """Strings that match a regular expression."""

  pattern: str
  described: str

  def __contains__(self, value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(self.pattern, value))

  def __str__(self):
    return self.described


@dataclasses.dataclass(frozen=True)
class Several:
  """Tuples of legal values, of one of the given lengths; () for any."""

  each: Any
  lengths: tuple[int, ...] = ()

  def __contains__(self, value: Any) -> bool:
    return (
      isinstance(value, (tuple, list))
      and (not self.lengths or len(value) in self.lengths)
      and all(item in self.each for item in value)
    )

  def __str__(self):
    count = ' or '.join(map(str, self.lengths)) or 'any number of'
    return f'{count} values, each {self.each}'


@dataclasses.dataclass(frozen=True)
class Field:
  """The legal values of one field.

  Attributes:
    name: of the field; of one in a sub-dictionary 'model.width'.
    legal: its values; `in` tells them and `str` describes them.
    remedy: what to give instead.
  """

  name: str
  legal: Number | OneOf | Text | Several
  remedy: str


BOOL = OneOf((True, False))
PATH = Text(r'[^\0\n]*', 'a path')
# A run of more epochs is a slip, and its steps would not fit into int32.
_EPOCHS = '1000000'

_WIDTH = Count('[1, 4096]')
_PADDINGS = OneOf(('same', 'symmetric'))
# Model -> fields of its module.
MODEL_FIELDS = {
  'digits_cnn': (
    Field('model.width', _WIDTH, 'Give for example 32.'),
    Field(
      'model.strides',
      Several(Count('[1, 4]'), tuple(range(1, 7))),
      'Give one a block, for example (1, 1, 2).',
    ),
  ),
  'all_cnn_c': (
    # Below, layers would round to no channel at all.
    Field(
      'model.width_multiplier', Number('[0.01, 40]'), 'Give for example 1.'
    ),
  ),
  'wide_resnet': (
    Field(
      'model.depth',
      OneOf(tuple(range(10, 1001, 6)), '10, 16, 22, ..., 6 n + 4, up to 1000'),
      'Give for example 16.',
    ),
    Field('model.width', _WIDTH, 'Give for example 8.'),
  ),
  'resnet': (
    Field('model.depth', OneOf((18, 34, 50, 101, 152)), 'Give one of them.'),
    Field('model.width', _WIDTH, 'Give for example 64.'),
    Field('model.max_pool_padding', _PADDINGS, 'Give one of them.'),
    Field('model.conv_padding', _PADDINGS, 'Give one of them.'),
  ),
  'inception_v3': (
    Field('model.count_include_pad', BOOL, 'Give True or False.'),
  ),
}

FIELDS = (
  Field('seed', Count('[0, 4294967295]'), 'Give 0, 1, 2, ...'),
  Field(
    'dataset',
    DatasetName(known_datasets(), 'a data set of lossbench/data/catalogue.py'),
    "Give for example 'cifar10', or 'folder:PATH' for PATH/<split>/<class>/*.",
  ),
  Field('data_dir', PATH, "Give a TFDS directory, or '' for TFDS's own."),
  Field('num_classes', Count('[2, 1000000]'), "Give the data set's."),
  Field('image_size', Count('[1, 4096]'), 'Give the side in pixels.'),
  Field(
    'downscale', Count('[1, 4096]'), 'Give for example 2; 1 changes nothing.'
  ),
  Field('num_holdout', Count('[0, inf)'), 'Give 0 for no holdout.'),
  Field('data_on_device', BOOL, 'Give True or False.'),
  Field('shuffle_gib', Number('[0, 65536]'), 'Give for example 4.0.'),
  Field('on_bad_image', OneOf(('raise', 'skip')), 'Give one of them.'),
  Field('resize_images', BOOL, 'Give True or False.'),
  Field(
    'resize_ratio', Number('[1, 4]'), 'Give for example 1.143, that is 256/224.'
  ),
  Field(
    'eval_crop',
    OneOf(('crop_then_resize', 'resize_then_crop')),
    'Give one of them.',
  ),
  Field(
    'resize_method',
    OneOf(('bilinear', 'bicubic', 'bicubic_tf1')),
    'Give one of them.',
  ),
  Field('resize_antialias', BOOL, 'Give True or False.'),
  Field('eval_pixels', OneOf(('uint8', 'float32')), 'Give one of them.'),
  Field(
    'autoaugment',
    OneOf(('', 'imagenet', 'cifar')),
    "Give one of them; '' is none.",
  ),
  Field('crop_padding', Count('[0, 4096]'), 'Give pixels; 0 is none.'),
  Field('random_flip', BOOL, 'Give True or False.'),
  Field(
    'mixup_alpha', Number('[0, inf)'), 'Give for example 0.2; 0 is no mixup.'
  ),
  Field(
    'pixel_mean',
    Several(Number('[0, 1]'), (1, 3)),
    'Give one mean a channel, of pixels divided by 255.',
  ),
  Field(
    'pixel_std',
    Several(Number('(0, 1]'), (1, 3)),
    'Give one standard deviation a channel, of pixels divided by 255.',
  ),
  Field('model.name', OneOf(tuple(sorted(MODEL_FIELDS))), 'Give one of them.'),
  Field('compute_dtype', OneOf(('float32', 'bfloat16')), 'Give one of them.'),
  Field(
    'precision', OneOf(('default', 'high', 'highest')), 'Give one of them.'
  ),
  Field(
    'batch_norm_group',
    Count('[0, inf)'),
    'Give a divisor of the number of devices; 0 is each by itself.',
  ),
  Field('output_layer', OneOf(('paper', 'released')), 'Give one of them.'),
  Field('output_kernel_stddev', Number('[0, inf)'), 'Give for example 0.01.'),
  Field('init_from', PATH, "Give a run directory, or '' to start anew."),
  Field(
    'init_step',
    Text('best|last|[0-9]+', "'best', 'last' or a step"),
    'Give one of them.',
  ),
  Field(
    'class_weights',
    Text(
      r'|balanced|[^\0\n]+\.(json|npy)',
      "'', 'balanced', or a .json or .npy file",
    ),
    'Give one of them.',
  ),
  Field('batch_size', Count('[1, inf)'), 'Give for example 128.'),
  Field('num_epochs', Number(f'(0, {_EPOCHS}]'), 'Give for example 200.'),
  Field(
    'stop_epoch',
    Number(f'[0, {_EPOCHS}]'),
    'Give an epoch up to num_epochs; 0 trains all of them.',
  ),
  Field('accumulation_steps', Count('[1, inf)'), 'Give 1 for none.'),
  Field(
    'steps_per_dispatch',
    Count('[0, 4096]'),
    'Give for example 16, or 0 for as many as take half a second.',
  ),
  Field('learning_rate', Number('(0, inf)'), 'Give for example 0.1.'),
  Field(
    'learning_rate_batch_size',
    Count('[0, inf)'),
    'Give the batch size that learning_rate is meant for; 0 scales nothing.',
  ),
  Field(
    'schedule',
    OneOf(('constant', 'cosine', 'exponential')),
    'Give one of them.',
  ),
  Field('warmup_epochs', Number(f'[0, {_EPOCHS}]'), 'Give 0 for no warm-up.'),
  Field(
    'decay_per_epoch', Number('(0, 1]'), 'Give for example 0.975; 1 is none.'
  ),
  Field('momentum', Number('[0, 1)'), 'Give for example 0.9; 0 is none.'),
  Field(
    'weight_decay', Number('[0, inf)'), 'Give for example 1e-4; 0 is none.'
  ),
  Field('divide_weight_decay_by_learning_rate', BOOL, 'Give True or False.'),
  Field('decay_batch_norm', BOOL, 'Give True or False.'),
  Field(
    'ema_decay',
    Number('[0, 1)'),
    'Give for example 0.9999; 0 keeps no averages.',
  ),
  Field('ema_ramp', BOOL, 'Give True or False.'),
  Field('eval_batch_size', Count('[1, 1000000]'), 'Give for example 256.'),
  Field('eval_every_epochs', Number(f'(0, {_EPOCHS}]'), 'Give for example 1.'),
  Field('log_every_steps', Count('[1, inf)'), 'Give for example 50.'),
  Field(
    'checkpoint_every_steps', Count('[0, inf)'), 'Give 0 for none between.'
  ),
  Field('keep_checkpoints', Count('[1, inf)'), 'Give for example 2.'),
  Field('keep_every_epochs', Number(f'[0, {_EPOCHS}]'), 'Give 0 for none.'),
  Field(
    'replica_check_every_steps', Count('[0, inf)'), 'Give 0 for none between.'
  ),
  Field('stall_secs', Number('[0, 1000000]'), 'Give 300, or 0 for never.'),
  Field('profile_steps', Count('[0, inf)'), 'Give for example 5; 0 is off.'),
)


def check_value(field: Field, value: Any, *, flag: str = '--config.'):
  """Raises ValueError, in one line, if a value is not legal.

  Args:
    field: its row of a table.
    value: of the field.
    flag: what precedes the field's name on a command line.
  """
  if value in field.legal:
    return
  remedy = field.remedy
  if isinstance(field.legal, OneOf):
    known = map(str, field.legal.values)
    remedy = did_you_mean(str(value), known) or remedy
  raise ValueError(f'{flag}{field.name}={value} is not {field.legal}. {remedy}')


def check_table(
  values: Mapping[str, Any], fields: Iterable[Field], *, flag: str
):
  """Checks named values against a table that must have a row for each.

  Args:
    values: field -> value.
    fields: the table.
    flag: what precedes the fields' names on a command line.

  Raises:
    ValueError: if a value is not legal, or a field unknown or missing.
  """
  known = {field.name: field for field in fields}
  for name in values:
    if name not in known:
      hint = did_you_mean(name, known) or 'Delete it.'
      raise ValueError(f'{flag}{name}: there is no such field. {hint}')
  for name, field in known.items():
    if name in values:
      check_value(field, values[name], flag=flag)


def get_field(config: ml_collections.ConfigDict, name: str) -> Field | None:
  """The row of a field of this configuration; None if there is none.

  Args:
    config: whose model decides which fields 'model.' has.
    name: e.g. 'seed', 'model.width' or 'objective.dropout.keep_prob', whose
      interval its registered part gives.
  """
  if name.startswith('objective.'):
    _, part, hparam = name.split('.')
    remedy = "The recipe's table of objectives has the published value."
    return Field(name, Number(get_part(part).hparams[hparam].text), remedy)
  fields = (*FIELDS, *MODEL_FIELDS[config.model.name])
  return next((field for field in fields if field.name == name), None)


def _flatten(config, prefix=''):
  """Yields fields, 'model.width', with their values."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def check_config(config: ml_collections.ConfigDict):
  """Refuses a configuration with an illegal, unknown or missing field.

  Raises:
    ValueError: one line that names the field, its value and the remedy.
  """
  values = dict(_flatten(config))
  objective = {n: v for n, v in values.items() if n.startswith('objective.')}
  others = {n: v for n, v in values.items() if n not in objective}
  for field in FIELDS:
    if field.name not in others:
      raise ValueError(
        f'The configuration has no {field.name!r}. Start from '
        'configs/default.py.'
      )
    check_value(field, others[field.name])
  rows = (*FIELDS, *MODEL_FIELDS[config.model.name])
  check_table(others, rows, flag='--config.')
  for name, value in objective.items():
    if name != 'objective.name':
      check_value(get_field(config, name), value)
  parts = {k: v for k, v in config.objective.to_dict().items() if k != 'name'}
  check_spec(config.objective.name, parts)
