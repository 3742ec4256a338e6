"""The named parts that objectives are made of, and how to add one.

An objective is a string of parts joined by '+', such as `sigmoid`,
`cosine_softmax+label_smoothing` or `sigmoid+dropout+logit_penalty`. A `Part`
says which stages of the computation it fills (see `objective.Objective`), so
that all that is peculiar to an objective stands in one entry here and nobody
else asks for an objective by name.

Parts name the functions of `losses.py` instead of holding them: recipes and
their mistakes are read without JAX, whose import takes a second.
"""

import dataclasses
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lossbench.names import did_you_mean


@dataclasses.dataclass(frozen=True)
class Interval:
  """The values that a hyperparameter may take, written '[0, 1)'."""

  text: str

  def __post_init__(self):
    if not re.fullmatch(r'[\[(]\S+, \S+[\])]', self.text):
      raise ValueError(f"interval must look like '[0, 1)'; got {self.text!r}")

  def __contains__(self, value) -> bool:
    low, high = (float(bound) for bound in self.text[1:-1].split(', '))
    above = value >= low if self.text[0] == '[' else value > low
    below = value <= high if self.text[-1] == ']' else value < high
    return above and below


Hparams = Mapping[str, Mapping[str, Any]]
# A function, or the name of one in losses.py.
Stage = str | Callable

POSITIVE = Interval('(0, inf)')
NON_NEGATIVE = Interval('[0, inf)')


@dataclasses.dataclass(frozen=True)
class Part:
  """One named part of an objective; every stage it does not fill is None.

  A stage is filled by a function, or by the name of one in `losses.py`, which
  takes the part's own hyperparameters as keywords.

  Attributes:
    name: what it is called in config strings.
    hparams: hyperparameter name -> the interval of its legal values.
    loss_fn: (logits, targets, **hparams) -> [B].
    log_probs_fn: logits -> log-probabilities [B, K]; goes with `loss_fn`.
    bias_init_fn: num_classes -> starting bias; goes with `loss_fn`.
    cosine_head: ask for the cosine output layer; needs a `temperature`.
    dropout_head: ask for dropout on the features; needs a `keep_prob`.
    logits_fn: (logits, **hparams) -> the logits that everything after sees.
    margin_fn: (logits, targets, **hparams) -> logits; in training only. Its
      logits must be pure cosines, so the output layer has no bias.
    targets_fn: (targets, **hparams) -> targets.
    scale_fn: (**hparams) -> factor on the per-example loss.
    penalty_fn: (logits, **hparams) -> [B], added to the loss.
    kernel_penalty_fn: (kernel, **hparams) -> scalar, added to the loss.
    scale_by_temperature: multiply the whole loss by the objective's one
      temperature.
    regression: `loss_fn` draws logits to fixed values instead of apart.
    free_features: the cosine output layer looks at the kernel's directions
      only: features keep their length, and the temperature divides the bias.
    background_head: ask for an output layer that normalises its logits, among
      them one of no class, which is then dropped.
    released: attribute -> its value in the study's released code, where that
      differs.
  """

  name: str
  hparams: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
  loss_fn: Stage | None = None
  log_probs_fn: Stage = 'log_softmax'
  bias_init_fn: Stage = 'zero_bias'
  cosine_head: bool = False
  dropout_head: bool = False
  logits_fn: Stage | None = None
  margin_fn: Stage | None = None
  targets_fn: Stage | None = None
  scale_fn: Stage | None = None
  penalty_fn: Stage | None = None
  kernel_penalty_fn: Stage | None = None
  scale_by_temperature: bool = False
  regression: bool = False
  free_features: bool = False
  background_head: bool = False
  released: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_PARTS: dict[str, Part] = {}


def register(part: Part) -> Part:
  """Adds a part to the registry; a name can be registered once only."""
  if part.name in _PARTS:
    raise ValueError(f'Objective part {part.name!r} is already registered.')
  if not re.fullmatch(r'[a-z][a-z0-9_]*', part.name):
    raise ValueError(
      f'Objective part {part.name!r} must be named in lower case, digits and _.'
    )
  _PARTS[part.name] = part
  return part


def known_parts() -> tuple[str, ...]:
  """The names of all registered parts, sorted."""
  return tuple(sorted(_PARTS))


def get_part(name: str) -> Part:
  """Looks a part up; an unknown name raises ValueError with the known ones."""
  if name in _PARTS:
    return _PARTS[name]
  known = ', '.join(known_parts())
  hint = did_you_mean(name, _PARTS)
  raise ValueError(
    f'Unknown objective {name!r}. Known: {known}. {hint}'.rstrip()
  )


def check_spec(spec: str, hparams: Hparams) -> dict[str, dict[str, float]]:
  """The checked hyperparameters of an objective, by part in written order.

  Args:
    spec: names of parts joined by '+'.
    hparams: part name -> hyperparameter name -> value.

  Returns:
    Part name -> hyperparameter name -> value, of every part.

  Raises:
    ValueError: as `create_objective` does.
  """
  names = [name.strip() for name in spec.split('+')]
  parts = [get_part(name) for name in names]
  _refuse_nonsense(spec, parts)
  unused = set(hparams) - set(names)
  if unused:
    raise ValueError(
      f'Objective {spec!r} has no part {sorted(unused)[0]!r}, but '
      f'hyperparameters for it were given: {dict(hparams[sorted(unused)[0]])}.'
    )
  return {p.name: _checked_hparams(p, hparams.get(p.name, {})) for p in parts}


def _checked_hparams(part: Part, given: Mapping[str, Any]):
  for name in given:
    if name not in part.hparams:
      raise ValueError(
        f'Objective {part.name!r} has no hyperparameter {name!r}. '
        f'Known: {", ".join(part.hparams) or "none"}.'
      )
  for name, interval in part.hparams.items():
    if name not in given:
      raise ValueError(
        f'Objective {part.name!r} needs {name!r}, a number in {interval.text}.'
      )
    value = given[name]
    if not isinstance(value, numbers.Real) or float(value) not in interval:
      raise ValueError(
        f'{part.name}.{name} must be in {interval.text}; got {value!r}.'
      )
  return {name: float(given[name]) for name in part.hparams}


def _refuse_nonsense(spec: str, parts: Sequence[Part]):
  """Raises ValueError with the reason where parts contradict each other."""

  def named(condition):
    return [part.name for part in parts if condition(part)]

  def refuse(reason):
    raise ValueError(f'Objective {spec!r} is refused: {reason}')

  names = [part.name for part in parts]
  repeated = sorted({name for name in names if names.count(name) > 1})
  if repeated:
    refuse(f'{repeated[0]!r} is named twice.')
  loss_names = named(lambda part: part.loss_fn)
  if len(loss_names) > 1:
    refuse(
      f'{" and ".join(loss_names)} are both losses; name one. (A sigmoid over '
      "cosine logits is 'sigmoid+cosine'.)"
    )
  cosine = named(lambda part: part.cosine_head)
  if len(cosine) > 1:
    refuse(f'{" and ".join(cosine)} both bring the cosine output layer.')
  normalizing = named(lambda part: part.logits_fn)
  if normalizing and cosine:
    refuse(
      f'{normalizing[0]} would cancel the scale of the logits that the '
      f'temperature of {cosine[0]} sets.'
    )
  penalties = named(lambda part: part.penalty_fn)
  if normalizing and penalties:
    refuse(
      f'{normalizing[0]} fixes the norm of the logits, so {penalties[0]} '
      'would only add a constant.'
    )
  margins = named(lambda part: part.margin_fn)
  regressions = named(lambda part: part.regression)
  if margins and regressions:
    refuse(
      f'{regressions[0]} draws logits to fixed values, which the margin of '
      f'{margins[0]} would only displace.'
    )
  scaled = named(lambda part: part.scale_by_temperature)
  if scaled and not named(lambda part: 'temperature' in part.hparams):
    refuse('there is no temperature to scale the loss by.')


# The nine objectives of the paper, in its order.
register(Part('softmax', loss_fn='softmax'))
register(
  Part(
    'label_smoothing',
    hparams={'alpha': Interval('[0, 1)')},
    targets_fn='smooth_targets',
    scale_fn='label_smoothing_scale',
  )
)
register(
  Part('dropout', hparams={'keep_prob': Interval('(0, 1]')}, dropout_head=True)
)
register(
  Part(
    'extra_final_layer_l2',
    hparams={'lambda_final': NON_NEGATIVE},
    kernel_penalty_fn='kernel_l2',
  )
)
register(
  Part(
    'logit_penalty',
    hparams={'beta': NON_NEGATIVE},
    penalty_fn='logit_penalty',
  )
)
register(
  Part(
    'logit_normalization',
    hparams={'temperature': POSITIVE},
    logits_fn='normalize_logits',
    released={'background_head': True, 'logits_fn': 'temper_logits'},
  )
)
register(
  Part(
    'cosine_softmax',
    hparams={'temperature': POSITIVE},
    loss_fn='softmax_of_cosines',
    cosine_head=True,
    released={'free_features': True},
  )
)
register(
  Part(
    'sigmoid',
    loss_fn='sigmoid',
    log_probs_fn='normalized_sigmoid_log_probs',
    bias_init_fn='uniform_bias',
  )
)
register(
  Part(
    'squared_error',
    hparams={
      'kappa': POSITIVE,
      'target_logit': POSITIVE,
      'scale': POSITIVE,
    },
    loss_fn='squared_error',
    regression=True,
  )
)

# Beyond the paper: what its users compare against.
register(Part('focal', hparams={'gamma': NON_NEGATIVE}, loss_fn='focal'))
register(
  Part('poly1', hparams={'epsilon': Interval('[-1, inf)')}, loss_fn='poly1')
)
register(
  Part(
    'cosface',
    hparams={'temperature': POSITIVE, 'margin': Interval('[0, 2)')},
    cosine_head=True,
    margin_fn='additive_margin',
  )
)
register(
  Part(
    'arcface',
    hparams={'temperature': POSITIVE, 'margin': Interval('[0, 1.5707963]')},
    cosine_head=True,
    margin_fn='additive_angular_margin',
  )
)

# Parts that exist only to be combined.
register(Part('cosine', hparams={'temperature': POSITIVE}, cosine_head=True))
register(Part('scale_by_temperature', scale_by_temperature=True))
