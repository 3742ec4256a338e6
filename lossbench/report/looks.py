"""How objectives look in tables and figures: label, order, colour, marker.

The nine of the paper have the same colour and marker in every report: those of
Paul Tol's 'muted' scheme, safe for colour-blind readers, and black. Of a study
over temperatures the colours are a sequential map; whatever else a study has
gets the next free place, so that no two look the same.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib

_OBJECTIVES = {
  # name: (label, colour, marker)
  'softmax': ('Softmax', '#000000', 'o'),
  'label_smoothing': ('Label smoothing', '#88CCEE', 's'),
  'dropout': ('Dropout', '#117733', '^'),
  'extra_final_layer_l2': ('More final layer L2', '#999933', 'v'),
  'logit_penalty': ('Logit penalty', '#332288', 'D'),
  'logit_normalization': ('Logit normalization', '#CC6677', 'P'),
  'cosine_softmax': ('Cosine softmax', '#882255', 'X'),
  'sigmoid': ('Sigmoid', '#44AA99', '<'),
  'squared_error': ('Squared error', '#AA4499', '>'),
}
PAPER_OBJECTIVES = tuple(_OBJECTIVES)
_MORE_LABELS = {
  'focal': 'Focal',
  'poly1': 'Poly-1',
  'cosface': 'CosFace',
  'arcface': 'ArcFace',
  'cosine': 'cosine logits',
  'scale_by_temperature': 'loss × τ',
  'mixup': 'mixup',
  'autoaugment': 'AutoAugment',
}
# Of the rest, in turn; none is one of the nine.
_MORE_COLORS = (
  '#DDCC77',
  '#777777',
  '#AA7744',
  '#4477AA',
  '#EE7733',
  '#BBBBBB',
)
_MORE_MARKERS = ('p', '*', 'h', '8', 'd', 'H')
_TEMPERATURE_MAP = 'plasma'  # of which the pale end is left out


class Key(NamedTuple):
  """What the seeds of one configuration share within a group.

  Attributes:
    objective: as after the colon of --config, e.g. 'softmax+mixup'.
    variant: (field, value) of what tells it from the objective's other
      variants, e.g. (('temperature', 0.05),).
  """

  objective: str
  variant: tuple[tuple[str, Any], ...] = ()

  @property
  def parts(self) -> tuple[str, ...]:
    """The objective's parts, its loss first."""
    return tuple(self.objective.split('+'))

  @property
  def temperature(self) -> float | None:
    """The temperature, where it is what varies, else None."""
    return dict(self.variant).get('temperature')


class Look(NamedTuple):
  """Colour and marker of an objective in figures."""

  color: str
  marker: str


def objective_label(objective: str) -> str:
  """'sigmoid+dropout' -> 'Sigmoid + Dropout'."""
  return ' + '.join(
    _OBJECTIVES[part][0]
    if part in _OBJECTIVES
    else _MORE_LABELS.get(part, part)
    for part in objective.split('+')
  )


def label(key: Key) -> str:
  """'Cosine softmax (τ = 0.05)'."""
  text = objective_label(key.objective)
  fields = [
    f'τ = {value:g}' if field == 'temperature' else f'{field}={value}'
    for field, value in key.variant
  ]
  return f'{text} ({", ".join(fields)})' if fields else text


def order(key: Key) -> tuple:
  """Sorts objectives as the paper lists them, combinations after their first
  part, variants by their numbers."""
  first, *rest = key.parts
  names = list(_OBJECTIVES)
  place = names.index(first) if first in names else len(names)
  values = [
    (field, isinstance(value, str), value) for field, value in key.variant
  ]
  return place, len(rest), key.objective, values


def group_order(group: str) -> tuple[int, str]:
  """Sorts groups: those of the paper's Table 1 first, as it sorts by them."""
  first = ('imagenet_resnet50', 'imagenet_inception_v3')
  return first.index(group) if group in first else len(first), group


def create_looks(keys: Iterable[Key]) -> dict[Key, Look]:
  """A look for each of a study's objectives; no two are the same.

  Args:
    keys: all of the study, so that a key looks the same in all figures.
  """
  keys = sorted(set(keys), key=order)
  temperatures = sorted({k.temperature for k in keys} - {None})
  places = itertools.count()
  looks, used = {}, set()
  for key in keys:
    if not key.variant and key.objective in _OBJECTIVES:
      look = Look(*_OBJECTIVES[key.objective][1:])
    elif key.temperature is not None:
      place = temperatures.index(key.temperature) / max(
        1, len(temperatures) - 1
      )
      color = matplotlib.colormaps[_TEMPERATURE_MAP](0.9 * place)
      color = matplotlib.colors.to_hex(color)
      first = _OBJECTIVES.get(key.parts[0], ('', '', 'h'))[2]
      # Sweeps of several objectives, or with scaling and without.
      look = next(
        look
        for marker in dict.fromkeys((first, *_MORE_MARKERS, *_markers()))
        if (look := Look(color, marker)) not in used
      )
    else:
      place = next(places)
      turn = place // len(_MORE_COLORS)
      look = Look(
        _MORE_COLORS[place % len(_MORE_COLORS)],
        (*_MORE_MARKERS, *_markers())[
          (place + turn) % (len(_MORE_MARKERS) + len(_OBJECTIVES))
        ],
      )
    used.add(look)
    looks[key] = look
  return looks


def _markers() -> list[str]:
  return [marker for _, _, marker in _OBJECTIVES.values()]
