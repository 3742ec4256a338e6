"""Every measure's unit, direction and title; and what is written of one."""

import dataclasses
import math
from typing import Any, NamedTuple

HIGHER, LOWER, NEUTRAL = 'higher', 'lower', 'neutral'


class Measure(NamedTuple):
  """What is known of a measure, besides its name.

  Attributes:
    unit: e.g. 'fraction', 'nats'.
    direction: which is better, 'higher', 'lower' or 'neutral'.
    title: what people call it; '' where that is its name.
  """

  unit: str
  direction: str
  title: str = ''


_MEASURES = {
  'top1_accuracy': Measure('fraction', HIGHER, 'top-1'),
  'top5_accuracy': Measure('fraction', HIGHER, 'top-5'),
  'nll': Measure('nats', LOWER, 'NLL (nats)'),
  'ece': Measure('fraction', LOWER, 'ECE'),
  'temperature': Measure('ratio', NEUTRAL),
  'tempered_nll': Measure('nats', LOWER, 'NLL, tempered'),
  'tempered_ece': Measure('fraction', LOWER, 'ECE, tempered'),
  'held_out_temperature': Measure('ratio', NEUTRAL, 'temperature, held-out'),
  'held_out_tempered_nll': Measure('nats', LOWER, 'NLL, tempered (held-out)'),
  'held_out_tempered_ece': Measure(
    'fraction', LOWER, 'ECE, tempered (held-out)'
  ),
  'class_separation': Measure('R^2', NEUTRAL, 'class separation (R²)'),
  'nonzero_fraction': Measure('fraction', NEUTRAL),
  'brier_score': Measure('squared error', LOWER, 'Brier score'),
  'classwise_ece': Measure('fraction', LOWER, 'class-wise ECE'),
  'adaptive_ece': Measure('fraction', LOWER, 'adaptive ECE'),
  'adaptive_classwise_ece': Measure('fraction', LOWER),
  'subset_top1_accuracy': Measure('fraction', HIGHER, 'top-1 (of its classes)'),
  'subset_nll': Measure('nats', LOWER),
  'subset_ece': Measure('fraction', LOWER),
  'real_accuracy': Measure('fraction', HIGHER, 'ReaL accuracy'),
  'mean_class_accuracy': Measure('fraction', HIGHER),
  'worst_class_accuracy': Measure('fraction', HIGHER),
  'holdout_accuracy': Measure('fraction', HIGHER),
  'train_accuracy': Measure('fraction', NEUTRAL),
  'knn_top1_accuracy': Measure('fraction', HIGHER, 'top-1, kNN'),
  'knn_mean_class_accuracy': Measure('fraction', HIGHER),
  'knn_holdout_accuracy': Measure('fraction', HIGHER),
  'num_neighbours': Measure('neighbours', NEUTRAL),
  'learning_rate': Measure('per step', NEUTRAL),
  'weight_decay': Measure('over the learning rate', NEUTRAL),
  'l2': Measure('on the sum of losses', NEUTRAL),
  'num_equal_l2': Measure('L2 values', NEUTRAL),
  'train_objective': Measure('nats, summed', LOWER),
  'gradient_norm': Measure('nats, summed', LOWER),
  'relative_gap_bound': Measure('fraction', LOWER),
  'angular_visual_hardness': Measure('fraction', LOWER),
  'participation_ratio': Measure('directions', NEUTRAL),
  'dead_unit_fraction': Measure('fraction', NEUTRAL, 'dead units'),
  'nc1': Measure('ratio', NEUTRAL),
  'nc2_mean_norms': Measure('ratio', NEUTRAL),
  'nc2_mean_angles': Measure('cosine', NEUTRAL),
  'nc2_mean_simplex': Measure('cosine', NEUTRAL),
  'nc2_kernel_norms': Measure('ratio', NEUTRAL),
  'nc2_kernel_angles': Measure('cosine', NEUTRAL),
  'nc2_kernel_simplex': Measure('cosine', NEUTRAL),
  'nc3': Measure('squared distance', NEUTRAL),
  'nc4': Measure('fraction', NEUTRAL),
  'linear_cka': Measure('fraction', NEUTRAL),
  'debiased_cka': Measure('fraction', NEUTRAL),
  'rbf_cka': Measure('fraction', NEUTRAL),
  'minibatch_cka': Measure('fraction', NEUTRAL),
  'same_top1': Measure('fraction', NEUTRAL),
  'both_right_or_wrong': Measure('fraction', NEUTRAL),
  'same_when_both_wrong': Measure('fraction', NEUTRAL),
  'max_probability_auroc': Measure(
    'fraction', HIGHER, 'AUROC, max. probability'
  ),
  'max_probability_fpr_at_95_tpr': Measure(
    'fraction', LOWER, 'FPR at 95 % TPR, max. probability'
  ),
  'energy_auroc': Measure('fraction', HIGHER, 'AUROC, energy'),
  'energy_fpr_at_95_tpr': Measure('fraction', LOWER, 'FPR at 95 % TPR, energy'),
}

# Training examples a class, of transfer by few.
FEW_SHOTS = (1, 5, 10)
for _shots in FEW_SHOTS:
  _MEASURES |= {
    f'few_shot_{_shots}_top1_accuracy': Measure('fraction', HIGHER),
    f'few_shot_{_shots}_mean_class_accuracy': Measure('fraction', HIGHER),
    # Of the top-1 accuracy, over draws of the training examples.
    f'few_shot_{_shots}_standard_error': Measure('fraction', NEUTRAL),
  }


def get_measure(name: str) -> Measure:
  """Looks a measure up, with its title.

  Raises:
    ValueError: if this module does not list it.
  """
  if name not in _MEASURES:
    raise ValueError(
      f'Unknown metric {name!r}. Known: {", ".join(sorted(_MEASURES))}.'
    )
  measure = _MEASURES[name]
  return measure._replace(title=measure.title or name.replace('_', ' '))


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
  """A record of a known metric; NaN or infinity is noted as no value.

  Raises:
    ValueError: if this module does not list the metric.
  """
  measure = get_measure(name)
  if value is not None and not math.isfinite(value):
    value, note = None, note or f'not available: {name} is {value}'
  return Record(
    name=name,
    value=value,
    unit=measure.unit,
    direction=measure.direction,
    n=n,
    endpoint=endpoint,
    note=note,
  )
