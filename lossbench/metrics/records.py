"""What is written of a metric: name, value, unit, direction, n."""

import dataclasses
from typing import Any

HIGHER, LOWER, NEUTRAL = 'higher', 'lower', 'neutral'

# name -> (unit, which direction is better)
_KNOWN = {
  'top1_accuracy': ('fraction', HIGHER),
  'top5_accuracy': ('fraction', HIGHER),
  'nll': ('nats', LOWER),
  'ece': ('fraction', LOWER),
  'temperature': ('ratio', NEUTRAL),
  'tempered_nll': ('nats', LOWER),
  'tempered_ece': ('fraction', LOWER),
  'class_separation': ('R^2', NEUTRAL),
  'nonzero_fraction': ('fraction', NEUTRAL),
}


@dataclasses.dataclass(frozen=True)
class Record:
  """One measured number.

  Attributes:
    name: of the metric.
    value: None where it could not be measured; `note` says why.
    unit: e.g. 'fraction', 'nats'.
    direction: which is better, 'higher', 'lower' or 'neutral'.
    n: examples it was measured on.
    endpoint: the layer it belongs to, or None.
    note: what a reader of the number must know, or ''.
  """

  name: str
  value: float | None
  unit: str
  direction: str
  n: int
  endpoint: str | None = None
  note: str = ''

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def create_record(
  name: str,
  value: float | None,
  *,
  n: int,
  endpoint: str | None = None,
  note: str = '',
) -> Record:
  """A record of a known metric.

  Raises:
    ValueError: if the metric has no unit and direction in this module.
  """
  if name not in _KNOWN:
    raise ValueError(
      f'Unknown metric {name!r}. Known: {", ".join(sorted(_KNOWN))}.'
    )
  unit, direction = _KNOWN[name]
  return Record(
    name=name,
    value=value,
    unit=unit,
    direction=direction,
    n=n,
    endpoint=endpoint,
    note=note,
  )
