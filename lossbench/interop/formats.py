"""The formats that can be imported, and what each must say of a checkpoint."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from configs.studies.default import OBJECTIVES
from lossbench.data.catalogue import get_dataset_spec
from lossbench.names import did_you_mean

Shape = tuple[int, ...]


def _unchanged(array: np.ndarray) -> np.ndarray:
  return array


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where an array of ours comes from.

  Attributes:
    name: of the array in the checkpoint.
    convert_fn: that array, as it was stored -> ours; nothing but views and
      arithmetic, for it is also asked for shapes.
  """

  name: str
  convert_fn: Callable[[np.ndarray], np.ndarray] = _unchanged


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint of another project, opened.

  Attributes:
    recipe: module of configs/ that the run's other fields come from.
    objective: as after the colon of --config.
    fields: field -> value, of one in a sub-dictionary 'model.width', of all that
      decides what the arrays mean: model, images, classes, output layer. Where
      there is any 'model.', the model has those alone.
    shapes: name -> shape of the arrays that must all be used.
    origin_fn: path of an array of ours, e.g. 'params/backbone/conv_stem/kernel'
      -> its origin; None for what the format has no place for.
    read_fn: name -> the array.
    about: of where it comes from, for run.json, as JSON.
  """

  recipe: str
  objective: str
  fields: Mapping[str, Any]
  shapes: Mapping[str, Shape]
  origin_fn: Callable[[str], Origin | None]
  read_fn: Callable[[str], np.ndarray]
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Format:
  """A kind of checkpoint.

  Attributes:
    name: of --format.
    module: of lossbench.interop, whose `open_source(path, **options)` returns a
      `Source`; imported when it is asked for.
    options: flags that must be given -> what they mean here.
    optional: flags that may be given.
    choices: flag -> its legal values, where they are few.
  """

  name: str
  module: str
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)
  optional: tuple[str, ...] = ()
  choices: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )

  def open_source(self, path: str, **options: Any) -> Source:
    """Opens a checkpoint.

    Args:
      path: of --source.
      **options: of this format.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: if it is damaged, or an option is not legal.
    """
    check_options(self, options)
    module = importlib.import_module(f'lossbench.interop.{self.module}')
    return module.open_source(path, **options)


_FORMATS = (
  Format(
    'loss_functions_transfer',
    module='loss_functions_transfer',
    options={
      'objective': 'one of the nine that the network was trained with',
      'seed': '0 to 7',
    },
    choices={'objective': OBJECTIVES},
  ),
  Format(
    'torchvision',
    module='torchvision',
    options={'weights': 'IMAGENET1K_V1 or IMAGENET1K_V2'},
    optional=('dataset',),
    choices={'weights': ('IMAGENET1K_V1', 'IMAGENET1K_V2')},
  ),
  Format('timm', module='timm', optional=('dataset',)),
  Format('flax_imagenet', module='flax_imagenet', optional=('dataset',)),
)


def known_formats() -> tuple[str, ...]:
  """The names of all formats."""
  return tuple(format_.name for format_ in _FORMATS)


def get_format(name: str) -> Format:
  """A format by name; an unknown name raises ValueError with the known ones."""
  for format_ in _FORMATS:
    if format_.name == name:
      return format_
  known = known_formats()
  raise ValueError(
    f'--format={name} is unknown. Known: {", ".join(known)}. '
    f'{did_you_mean(name, known)}'.rstrip()
  )


def check_options(format_: Format, given: Mapping[str, Any]):
  """Refuses options that are missing, illegal or none of the format's.

  Args:
    format_: that was asked for.
    given: flag -> value; None where it was not given.

  Raises:
    ValueError: naming the flag.
  """
  given = {name: value for name, value in given.items() if value is not None}
  for name, meaning in format_.options.items():
    if name not in given:
      raise ValueError(f'--format={format_.name} needs --{name}: {meaning}.')
  known = *format_.options, *format_.optional
  for name, value in given.items():
    if name not in known:
      raise ValueError(
        f'--{name}={value} is no option of --format={format_.name}. Leave it '
        f'out. {did_you_mean(name, known)}'.rstrip()
      )
    choices = format_.choices.get(name, (value,))
    if value not in choices:
      raise ValueError(
        f'--{name}={value} is none of {", ".join(choices)}. '
        f'{did_you_mean(value, choices)}'.rstrip()
      )
    if name == 'dataset':
      get_dataset_spec(value)  # refuses unknown ones
