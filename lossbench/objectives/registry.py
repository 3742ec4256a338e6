"""The named parts that objectives are made of, and how to add one.

An objective is a string of parts joined by '+', such as `sigmoid`,
`cosine_softmax+label_smoothing` or `sigmoid+dropout+logit_penalty`. A `Part`
says which stages of the computation it fills (see `objective.Objective`), so
that all that is peculiar to an objective stands in one entry here and nobody
else asks for an objective by name.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from lossbench.names import did_you_mean
from lossbench.objectives import losses


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


POSITIVE = Interval('(0, inf)')
NON_NEGATIVE = Interval('[0, inf)')


@dataclasses.dataclass(frozen=True)
class Part:
  """One named part of an objective; every stage it does not fill is None.

  Stage functions take the part's own hyperparameters as keywords.

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
  """

  name: str
  hparams: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
  loss_fn: Callable | None = None
  log_probs_fn: Callable = losses.log_softmax
  bias_init_fn: Callable = lambda num_classes: 0.0
  cosine_head: bool = False
  dropout_head: bool = False
  logits_fn: Callable | None = None
  margin_fn: Callable | None = None
  targets_fn: Callable | None = None
  scale_fn: Callable | None = None
  penalty_fn: Callable | None = None
  kernel_penalty_fn: Callable | None = None
  scale_by_temperature: bool = False
  regression: bool = False


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


def _label_smoothing_scale(*, alpha):
  # Keeps the gradient on the right class's logit at its unsmoothed scale.
  return 1.0 / (1.0 - alpha)


def _softmax_over_cosines(logits, targets, *, temperature):
  del temperature  # The output layer has divided by it.
  return losses.softmax(logits, targets)


# The nine objectives of the paper, in its order.
register(Part('softmax', loss_fn=losses.softmax))
register(
  Part(
    'label_smoothing',
    hparams={'alpha': Interval('[0, 1)')},
    targets_fn=losses.smooth_targets,
    scale_fn=_label_smoothing_scale,
  )
)
register(
  Part('dropout', hparams={'keep_prob': Interval('(0, 1]')}, dropout_head=True)
)
register(
  Part(
    'extra_final_layer_l2',
    hparams={'lambda_final': NON_NEGATIVE},
    kernel_penalty_fn=losses.kernel_l2,
  )
)
register(
  Part(
    'logit_penalty',
    hparams={'beta': NON_NEGATIVE},
    penalty_fn=losses.logit_penalty,
  )
)
register(
  Part(
    'logit_normalization',
    hparams={'temperature': POSITIVE},
    logits_fn=losses.normalize_logits,
  )
)
register(
  Part(
    'cosine_softmax',
    hparams={'temperature': POSITIVE},
    loss_fn=_softmax_over_cosines,
    cosine_head=True,
  )
)
register(
  Part(
    'sigmoid',
    loss_fn=losses.sigmoid,
    log_probs_fn=losses.normalized_sigmoid_log_probs,
    bias_init_fn=losses.uniform_bias,
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
    loss_fn=losses.squared_error,
    regression=True,
  )
)

# Beyond the paper: what its users compare against.
register(Part('focal', hparams={'gamma': NON_NEGATIVE}, loss_fn=losses.focal))
register(
  Part(
    'poly1', hparams={'epsilon': Interval('[-1, inf)')}, loss_fn=losses.poly1
  )
)
register(
  Part(
    'cosface',
    hparams={'temperature': POSITIVE, 'margin': Interval('[0, 2)')},
    cosine_head=True,
    margin_fn=losses.additive_margin,
  )
)
register(
  Part(
    'arcface',
    hparams={'temperature': POSITIVE, 'margin': Interval('[0, 1.5707963]')},
    cosine_head=True,
    margin_fn=losses.additive_angular_margin,
  )
)

# Parts that exist only to be combined.
register(Part('cosine', hparams={'temperature': POSITIVE}, cosine_head=True))
register(Part('scale_by_temperature', scale_by_temperature=True))
