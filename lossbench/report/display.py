"""How things look in tables and figures: labels, colours, percent.

The one place where fractions become percent. Colours are those of Paul Tol's
'muted' scheme, safe for colour-blind readers, and black; markers differ too.
"""

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
# Of combinations, in turn; with the marker of their first part.
_MORE_COLORS = ('#DDCC77', '#777777', '#AA7744', '#4477AA', '#BBBBBB')

_METRICS = {
  'top1_accuracy': 'top-1',
  'top5_accuracy': 'top-5',
  'nll': 'NLL (nats)',
  'ece': 'ECE',
  'brier_score': 'Brier score',
  'classwise_ece': 'class-wise ECE',
  'adaptive_ece': 'adaptive ECE',
  'temperature': 'temperature',
  'tempered_nll': 'NLL, tempered',
  'tempered_ece': 'ECE, tempered',
  'class_separation': 'class separation (R²)',
  'angular_visual_hardness': 'angular visual hardness',
  'participation_ratio': 'participation ratio',
  'subset_top1_accuracy': 'top-1 (of 200)',
  'real_accuracy': 'ReaL accuracy',
  'max_probability_auroc': 'AUROC, max. probability',
  'energy_auroc': 'AUROC, energy',
  'max_probability_fpr_at_95_tpr': 'FPR at 95 % TPR, max. probability',
  'energy_fpr_at_95_tpr': 'FPR at 95 % TPR, energy',
}

NOT_RUN = 'not run'


def objective_label(objective: str) -> str:
  """'sigmoid+dropout' -> 'Sigmoid + Dropout'."""
  return ' + '.join(
    _OBJECTIVES[part][0]
    if part in _OBJECTIVES
    else _MORE_LABELS.get(part, part)
    for part in objective.split('+')
  )


def label(key: tuple[str, str]) -> str:
  """Of an (objective, variant)."""
  objective, variant = key
  text = objective_label(objective)
  return (
    f'{text} ({variant.replace("temperature=", "τ = ")})' if variant else text
  )


def order(key: tuple[str, str]) -> tuple:
  """Sorts objectives as the paper lists them, combinations after their first
  part, variants by their numbers."""
  objective, variant = key
  first, *rest = objective.split('+')
  names = list(_OBJECTIVES)
  place = names.index(first) if first in names else len(names)
  value = variant.rpartition('=')[2]
  try:
    number = float(value)
  except ValueError:
    number = 0.0
  return place, len(rest), objective, number, variant


def recipe_order(recipe: str) -> tuple[int, str]:
  """Sorts groups: those of the paper's Table 1 first, as it sorts by them."""
  first = ('imagenet_resnet50', 'imagenet_inception_v3')
  return first.index(recipe) if recipe in first else len(first), recipe


def color(key: tuple[str, str]) -> str:
  """The same colour for an objective in all figures."""
  objective, variant = key
  if objective in _OBJECTIVES and not variant:
    return _OBJECTIVES[objective][1]
  # Deterministic, unlike hash() of text.
  number = sum(ord(letter) for letter in objective + variant)
  return _MORE_COLORS[number % len(_MORE_COLORS)]


def marker(key: tuple[str, str]) -> str:
  """The same marker for an objective in all figures."""
  return _OBJECTIVES.get(key[0].split('+')[0], ('', '', 'h'))[2]


def metric_label(metric: str) -> str:
  """What a metric is called in tables and on axes."""
  return _METRICS.get(metric, metric.replace('_', ' '))


def is_percent(metric: str) -> bool:
  """Whether a fraction is shown in percent: accuracies, AUROC and FPR are."""
  return 'accuracy' in metric or 'auroc' in metric or 'fpr' in metric


def percent(fraction: float) -> float:
  """A fraction in percent."""
  return 100 * fraction


def number(
  mean: float, standard_error: float | None, *, is_percent: bool
) -> str:
  """'77.01 ± 0.06' for percent, '0.325 ± 0.002' for everything else.

  Of a single value there is no standard error, and none is shown.
  """
  scale, digits = (100, 2) if is_percent else (1, 3)
  text = f'{scale * mean:.{digits}f}'
  if standard_error is None:
    return text
  return f'{text} ± {scale * standard_error:.{digits}f}'
