"""Which L2 values can be fitted; imports nothing, so that flags are checked by it."""

from collections.abc import Sequence


def check_l2_values(values: Sequence[float], *, name: str = 'l2_values'):
  """Refuses L2 values that make no path.

  Args:
    values: on the sum of losses.
    name: of the argument or flag that they are of.

  Raises:
    ValueError: if there are none, one is not positive and finite, or is twice
      there.
  """
  bad = [value for value in values if not 0 < value < float('inf')]
  if bad or not values:
    got = f'{bad[0]:g}' if bad else 'none'
    raise ValueError(f'{name} must be positive and finite; got {got}.')
  twice = [value for value in values if values.count(value) > 1]
  if twice:
    raise ValueError(f'{name} must differ; got {twice[0]:g} twice.')
