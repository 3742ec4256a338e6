"""What is searched: default ranges, ranges given by hand, values as overrides."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from configs import legal
from lossbench.tuning import search

# (low, high, step, log): appendix A.1's of learning rate and weight decay; of an
# objective's own hyperparameters the paper gives none, these are ours.
_DEFAULTS = {
  'learning_rate': (-2.0, 0.5, 0.5, True),
  'weight_decay': (-4.5, -3.0, 0.5, True),
  'alpha': (0.05, 0.2, 0.05, False),
  'keep_prob': (0.5, 0.9, 0.1, False),
  'lambda_final': (-4.0, -2.0, 0.5, True),
  'beta': (-4.0, -2.0, 0.5, True),
  'temperature': (-1.5, -0.5, 0.25, True),
  'kappa': (0.0, 1.0, 0.5, True),
  'target_logit': (0.0, 1.5, 0.5, True),
  'scale': None,  # a convention of the loss, held at the recipe's value
  'gamma': (1.0, 3.0, 1.0, False),
  'epsilon': (1.0, 3.0, 1.0, False),
  'margin': (0.1, 0.5, 0.1, False),
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
  return search.Dimension(field, low, high, step, log)


def build_dimensions(
  config, ranges: Sequence[search.Dimension] = ()
) -> tuple[search.Dimension, ...]:
  """What is searched: the protocol's fields, changed by `ranges`.

  Args:
    config: of the recipe and objective.
    ranges: replace the default of their fields, or come on top.

  Raises:
    ValueError: if a field is not a number of the configuration or is named
      twice, or a range has illegal values.
  """
  fields = {'learning_rate': 0.0, 'weight_decay': 0.0}
  for part, hparams in config.objective.items():
    if part != 'name':
      for name, value in hparams.items():
        fields[f'objective.{part}.{name}'] = value
  found = {}
  for field, value in fields.items():
    name = field.rpartition('.')[2]
    default = _DEFAULTS.get(name) or (value, value, 1.0, False)
    found[field] = search.Dimension(field, *default)
  given = [dimension.field for dimension in ranges]
  for dimension in ranges:
    _check_number(config, dimension.field)
    if given.count(dimension.field) > 1:
      raise ValueError(
        f'--search gives {dimension.field!r} two ranges. Leave one out.'
      )
    found[dimension.field] = dimension
  for field in found:
    if field.rpartition('.')[2] not in _DEFAULTS and field not in given:
      raise ValueError(
        f'{field!r} has no range of its own. Give --search or --search_linear.'
      )
  return tuple(_within_legal(config, dimension) for dimension in found.values())


def _within_legal(config, dimension: search.Dimension) -> search.Dimension:
  """The dimension, which knows by now what its field may be."""
  field = legal.get_field(config, dimension.field)
  for coordinate in (0, dimension.coarse()[-1]):
    legal.check_value(field, dimension.value(coordinate), flag='--search ')
  return dataclasses.replace(dimension, legal=field.legal)


def _check_number(config, field: str):
  node: Any = config
  for name in field.split('.'):
    node = node.get(name) if hasattr(node, 'get') else None
  if not isinstance(node, float):
    raise ValueError(
      f'--search: {field!r} is not a field of this configuration that holds a '
      'fraction. Hyperparameters are called objective.<part>.<name>.'
    )


def override_line(values: dict[str, float]) -> str:
  """What to add to main.py's command line to get these values."""
  return ' '.join(f'--config.{k}={v:.9g}' for k, v in values.items())
