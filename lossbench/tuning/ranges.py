"""What is searched: default ranges, ranges given by hand, values as overrides."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from configs import legal
from lossbench.tuning import search

_LEARNING_RATE = (-2.0, 0.5, 0.5)
_WEIGHT_DECAY = (-4.5, -3.0, 0.5)


@dataclasses.dataclass(frozen=True)
class _Range:
  low: float
  high: float
  step: float
  log: bool = True
  maximum: float = float('inf')


# Of an objective's own hyperparameters.
_HPARAMS = {
  'alpha': _Range(0.05, 0.2, 0.05, log=False, maximum=0.95),
  'keep_prob': _Range(0.5, 0.9, 0.1, log=False, maximum=1.0),
  'lambda_final': _Range(-4.0, -2.0, 0.5),
  'beta': _Range(-4.0, -2.0, 0.5),
  'temperature': _Range(-1.5, -0.5, 0.25),
  'kappa': _Range(0.0, 1.0, 0.5),
  'target_logit': _Range(0.0, 1.5, 0.5),
  'scale': None,  # a convention of the loss, held at the recipe's value
  'gamma': _Range(1.0, 3.0, 1.0, log=False),
  'epsilon': _Range(1.0, 3.0, 1.0, log=False),
  'margin': _Range(0.1, 0.5, 0.1, log=False, maximum=1.5),
}


def parse_range(text: str, *, log: bool) -> search.Dimension:
  """'FIELD=LOW:HIGH:STEP' -> a dimension.

  Raises:
    ValueError: if it is not, or the range is empty.
  """
  field, _, numbers = text.partition('=')
  try:
    low, high, step = (float(number) for number in numbers.split(':'))
  except ValueError as error:
    flag = '--search' if log else '--search_linear'
    raise ValueError(
      f'{flag}={text} is not FIELD=LOW:HIGH:STEP, e.g. learning_rate=-2:0.5:0.5'
      ' in powers of ten.'
    ) from error
  maximum = getattr(_HPARAMS.get(field.split('.')[-1]), 'maximum', float('inf'))
  return search.Dimension(field, low, high, step, log=log, maximum=maximum)


def build_dimensions(
  config, ranges: Sequence[search.Dimension] = ()
) -> tuple[search.Dimension, ...]:
  """What is searched: the protocol's fields, changed by `ranges`.

  Args:
    config: of the recipe and objective.
    ranges: replace the default of their fields, or come on top.

  Raises:
    ValueError: if a field is not a number of the configuration.
  """
  found = {
    'learning_rate': search.Dimension('learning_rate', *_LEARNING_RATE),
    'weight_decay': search.Dimension('weight_decay', *_WEIGHT_DECAY),
  }
  for part, hparams in config.objective.items():
    if part == 'name':
      continue
    for name in hparams:
      field, default = f'objective.{part}.{name}', _HPARAMS[name]
      if default is None:
        default = _Range(hparams[name], hparams[name], 1.0, log=False)
      found[field] = search.Dimension(field, **dataclasses.asdict(default))
  for dimension in ranges:
    _check_number(config, dimension.field)
    found[dimension.field] = dimension
  return tuple(found.values())


def _check_number(config, field: str):
  node: Any = config
  for name in field.split('.'):
    node = node.get(name) if hasattr(node, 'get') else None
  if not isinstance(node, float):
    raise ValueError(
      f'--search: {field!r} is not a field of this configuration that holds a '
      'fraction. Hyperparameters are called objective.<part>.<name>.'
    )


def check_ranges(config, dimensions: Sequence[search.Dimension]):
  """Refuses ranges with values that the configuration may not have.

  Raises:
    ValueError: naming the field, the value and the remedy.
  """
  for dimension in dimensions:
    field = legal.get_field(config, dimension.field)
    for coordinate in (0, dimension.coarse()[-1]):
      legal.check_value(field, dimension.value(coordinate), flag='--search ')


def override_line(values: dict[str, float]) -> str:
  """What to add to main.py's command line to get these values."""
  return ' '.join(f'--config.{k}={v:.9g}' for k, v in values.items())
