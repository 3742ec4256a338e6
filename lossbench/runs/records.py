"""What is written of a metric: name, value, unit, direction, n."""

import dataclasses
import math
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
  'brier_score': ('squared error', LOWER),
  'classwise_ece': ('fraction', LOWER),
  'adaptive_ece': ('fraction', LOWER),
  'adaptive_classwise_ece': ('fraction', LOWER),
  'subset_top1_accuracy': ('fraction', HIGHER),
  'subset_nll': ('nats', LOWER),
  'subset_ece': ('fraction', LOWER),
  'real_accuracy': ('fraction', HIGHER),
  'mean_class_accuracy': ('fraction', HIGHER),
  'holdout_accuracy': ('fraction', HIGHER),
  'train_accuracy': ('fraction', NEUTRAL),
  'l2': ('on the sum of losses', NEUTRAL),
  'num_equal_l2': ('L2 values', NEUTRAL),
  'train_objective': ('nats, summed', LOWER),
  'gradient_norm': ('nats, summed', LOWER),
  'relative_gap_bound': ('fraction', LOWER),
  'angular_visual_hardness': ('fraction', LOWER),
  'participation_ratio': ('directions', NEUTRAL),
  'dead_unit_fraction': ('fraction', NEUTRAL),
  'nc1': ('ratio', NEUTRAL),
  'nc2_mean_norms': ('ratio', NEUTRAL),
  'nc2_mean_angles': ('cosine', NEUTRAL),
  'nc2_mean_simplex': ('cosine', NEUTRAL),
  'nc2_kernel_norms': ('ratio', NEUTRAL),
  'nc2_kernel_angles': ('cosine', NEUTRAL),
  'nc2_kernel_simplex': ('cosine', NEUTRAL),
  'nc3': ('squared distance', NEUTRAL),
  'nc4': ('fraction', NEUTRAL),
  'linear_cka': ('fraction', NEUTRAL),
  'debiased_cka': ('fraction', NEUTRAL),
  'rbf_cka': ('fraction', NEUTRAL),
  'minibatch_cka': ('fraction', NEUTRAL),
  'same_top1': ('fraction', NEUTRAL),
  'both_right_or_wrong': ('fraction', NEUTRAL),
  'same_when_both_wrong': ('fraction', NEUTRAL),
  'max_probability_auroc': ('fraction', HIGHER),
  'max_probability_fpr_at_95_tpr': ('fraction', LOWER),
  'energy_auroc': ('fraction', HIGHER),
  'energy_fpr_at_95_tpr': ('fraction', LOWER),
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
  """A record of a known metric; NaN or infinity is noted as no value.

  Raises:
    ValueError: if the metric has no unit and direction in this module.
  """
  if name not in _KNOWN:
    raise ValueError(
      f'Unknown metric {name!r}. Known: {", ".join(sorted(_KNOWN))}.'
    )
  unit, direction = _KNOWN[name]
  if value is not None and not math.isfinite(value):
    value, note = None, note or f'not available: {name} is {value}'
  return Record(
    name=name,
    value=value,
    unit=unit,
    direction=direction,
    n=n,
    endpoint=endpoint,
    note=note,
  )
