"""Claims of the paper's later edition: what transfers, and how."""

from collections.abc import Sequence

import numpy as np

from lossbench.report import statistics
from lossbench.report.bootstrap import Sample, contrast
from lossbench.report.claims import evidence
from lossbench.report.claims.claim import Claim, Evidence
from lossbench.report.claims.representations import (
  inversely_ranked,
  softmax_transfers_best,
  transfer_samples,
)
from lossbench.report.correlation import MIN_OBJECTIVES
from lossbench.report.looks import Key
from lossbench.report.records import NEIGHBOURS, NotRun, StudyRecords
from lossbench.report.samples import mean_samples

_FINETUNING = 'configs/studies/finetuning.py'


def accuracy_inverse_to_transfer(study: StudyRecords, group: str) -> Evidence:
  """Top-1 on the own test split against mean transfer accuracy."""
  transferred, targets = transfer_samples(study, group)
  accuracies = evidence.read_samples(
    study, group, lambda run: run.measured('top1_accuracy')
  )
  return inversely_ranked(
    study,
    group,
    accuracies,
    transferred,
    what='top-1 accuracy and mean transfer accuracy',
    of=targets,
  )


def softmax_nearest_best(study: StudyRecords, group: str) -> Evidence:
  """Softmax against every other, by nearest neighbours."""
  return softmax_transfers_best(
    study,
    group,
    protocol=NEIGHBOURS,
    what='mean accuracy by nearest neighbours',
  )


def _transferred_and_finetuned(
  study: StudyRecords, group: str
) -> tuple[dict[Key, Sample], dict[Key, Sample], list[str]]:
  """Means over the data sets that both were done on; these; raises NotRun."""
  runs = study.runs_of(group)
  finetuned = {dataset for run in runs for dataset in run.finetune}
  targets = dict.fromkeys(
    target
    for run in runs
    for target in run.transfer
    if target.dataset in finetuned and target.split is None
  )
  linear = mean_samples(
    [
      evidence.read_samples(
        study, group, lambda run, t=t: run.transferred(t.name)
      )
      for t in targets
    ]
  )
  tuned = mean_samples(
    [
      evidence.read_samples(
        study, group, lambda run, t=t: run.finetuned.get(t.dataset)
      )
      for t in targets
    ]
  )
  keys = [key for key in linear if key in tuned]
  linear, tuned = ({k: of[k] for k in keys} for of in (linear, tuned))
  evidence.require(
    tuned,
    (),
    study,
    planned=bool(targets),
    config=_FINETUNING,
    at_least=MIN_OBJECTIVES,
  )
  return linear, tuned, [target.name for target in targets]


def finetuning_evens_out(study: StudyRecords, group: str) -> Evidence:
  """Spread over objectives of linear transfer against that of fine-tuning.

  Objectives are taken as a sample of losses. Seeds and examples spread them too,
  which is taken off; of single seeds nobody knows how much.
  """
  linear, tuned, targets = _transferred_and_finetuned(study, group)
  both = [list(of.values()) for of in (linear, tuned)]
  means = [[sample.mean for sample in of] for of in both]
  noise = [_noise(of) for of in both]
  known = all(len(sample.values) > 1 for of in both for sample in of)
  found = statistics.spread_ratio(*means, noise=tuple(noise))
  if found is None:
    raise NotRun('no loss differs from another, so there is no spread')
  spreads = [
    f'{100 * np.std(of, ddof=1):.2g} points '
    f'({100 * np.sqrt(noise_of.variance):.2g} of equal losses)'
    for of, noise_of in zip(means, noise, strict=True)
  ]
  told = known and np.isfinite(found.interval[1])
  return Evidence(
    what=f'standard deviation over objectives of linear transfer, {spreads[0]}, '
    f'over that of fine-tuning, {spreads[1]}; claimed above 1',
    estimate=found.ratio,
    interval=found.interval if told else None,
    p_for=found.p_above if known else 1.0,
    p_against=found.p_below if known else 1.0,
    is_percent=False,
    data=f'{evidence.describe(tuned)} of {", ".join(targets)}',
    power=f'80 % to find a ratio of {found.detectable:.2g}'
    if known
    else 'none: one seed does not tell its noise from its loss',
    remedy=evidence.more_seeds(study, group, 3),
  )


def _noise(samples: Sequence[Sample]) -> statistics.Noise:
  """The spread of objectives' means that comes from seeds and examples."""
  n = len(samples)
  effects = [
    contrast([(float(other is sample) - 1 / n, other) for other in samples])
    for sample in samples
  ]
  variances = np.array([effect.variance or 0.0 for effect in effects])
  total = float(variances.sum())
  if not total:
    return statistics.Noise()
  dofs = np.array([effect.dof for effect in effects])
  return statistics.Noise(
    variance=total / (n - 1), dof=float(total**2 / np.sum(variances**2 / dofs))
  )


CLAIMS = (
  Claim(
    'accuracy_inverse_to_transfer',
    'Losses that are more accurate on their own task transfer worse.',
    'later edition, abstract',
    'More accurate losses that transfer better: a positive rank correlation.',
    accuracy_inverse_to_transfer,
  ),
  Claim(
    'softmax_nearest_best',
    'Fixed features of softmax transfer best by nearest neighbours, too.',
    'later edition',
    'A loss whose features transfer better by nearest neighbours on average.',
    softmax_nearest_best,
  ),
  Claim(
    'finetuning_evens_out',
    'With full fine-tuning the loss makes little difference.',
    'later edition, abstract',
    'Losses that differ more after fine-tuning than by linear transfer.',
    finetuning_evens_out,
  ),
)
