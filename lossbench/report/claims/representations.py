"""Claims on class separation, relearning and transfer."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from lossbench.report.bootstrap import Sample
from lossbench.report.claims import evidence
from lossbench.report.claims.claim import Claim, Evidence
from lossbench.report.correlation import (
  MIN_OBJECTIVES,
  rank_correlation,
  rank_correlations,
)
from lossbench.report.looks import Key
from lossbench.report.records import NotRun, RunRecords, StudyRecords
from lossbench.report.samples import mean_samples
from lossbench.report.tables import columns

_MAX_EXACT = 7  # objectives whose orders are all tried


def _separation(run: RunRecords):
  """R² of images that the network was trained on, as in the paper's Table 2."""
  return run.measured('class_separation', endpoint='features', training=True)


def _separation_samples(
  study, group, names=(), *, at_least=2
) -> dict[Key, Sample]:
  samples = evidence.read_samples(study, group, _separation)
  planned = study.measures_training(group)
  evaluated = any('evaluate' in run.commands for run in study.runs_of(group))
  if evaluated and not planned:
    raise NotRun(study.how_to_measure_training(group))
  evidence.require(samples, names, study, planned=planned, at_least=at_least)
  return samples


def softmax_separates_least(study: StudyRecords, group: str) -> Evidence:
  """Every other objective against softmax."""
  samples = _separation_samples(
    study, group, ('softmax',), at_least=evidence.MOST
  )
  return evidence.all_against(
    study,
    group,
    samples,
    'softmax',
    what='R² of {} minus softmax’s',
    is_percent=False,
  )


def _target_samples(
  study: StudyRecords, group: str, *, own: bool, keys=None, protocol: str = ''
) -> tuple[dict[Key, Sample], list[str]]:
  """Mean accuracy over transfers, or of the source task relearned; names."""
  runs = study.runs_of(group)
  targets = [
    target
    for target in columns.targets(study, group)
    if (target.dataset == runs[0].dataset) == own
  ]
  parts = [
    evidence.read_samples(
      study,
      group,
      lambda run, name=t.name: run.transferred(name, protocol),
      keys,
    )
    for t in targets
  ]
  return mean_samples(parts), [target.name for target in targets]


def transfer_samples(
  study: StudyRecords,
  group: str,
  names=(),
  *,
  keys=None,
  at_least: int = 2,
  protocol: str = '',
) -> tuple[dict[Key, Sample], list[str]]:
  """Mean accuracy over the data sets transferred to; raises NotRun."""
  samples, targets = _target_samples(
    study, group, own=False, keys=keys, protocol=protocol
  )
  evidence.require(
    samples, names, study, planned=bool(targets), at_least=at_least
  )
  return samples, targets


def softmax_transfers_best(
  study: StudyRecords,
  group: str,
  *,
  protocol: str = '',
  what: str = 'mean transfer accuracy',
) -> Evidence:
  """Softmax against every other, on average over data sets.

  Args:
    study: the records.
    group: of runs.
    protocol: of `PROTOCOLS`; '' for the linear probe.
    what: it measures, in words.
  """
  samples, targets = transfer_samples(
    study, group, ('softmax',), protocol=protocol, at_least=evidence.MOST
  )
  return evidence.all_against(
    study,
    group,
    samples,
    'softmax',
    sign=-1,
    what=f'{what} of softmax minus that of {{}}',
    is_percent=True,
    of=targets,
  )


def softmax_relearned_worst(study: StudyRecords, group: str) -> Evidence:
  """Every other objective against softmax."""
  samples, targets = _target_samples(study, group, own=True)
  evidence.require(
    samples,
    ('softmax',),
    study,
    planned=bool(targets),
    at_least=evidence.MOST,
  )
  return evidence.all_against(
    study,
    group,
    samples,
    'softmax',
    what='relearned accuracy of {} minus softmax’s',
    is_percent=True,
  )


def relearned_below_head(study: StudyRecords, group: str) -> Evidence:
  """Softmax, seed by seed: the head it was trained with against a new one."""
  relearned, targets = _target_samples(study, group, own=True)
  own = evidence.read_samples(
    study, group, lambda run: run.measured('top1_accuracy'), [Key('softmax')]
  )
  evaluated = any('evaluate' in run.commands for run in study.runs_of(group))
  pairs = {
    key: evidence.of_the_same_seeds(own[key], relearned[key])
    for key in own
    if key in relearned
  }
  pairs = {key: pair for key, pair in pairs.items() if pair[0].seeds}
  evidence.require(
    {key: trained for key, (trained, _) in pairs.items()},
    ('softmax',),
    study,
    planned=bool(targets) and evaluated,
    config='configs/studies/released.py',
    at_least=1,
  )
  [(trained, again)] = pairs.values()
  return evidence.all_above(
    study,
    group,
    {'Softmax': evidence.paired_difference(trained, again)},
    what='top-1 of {}’s own head minus that of the relearned one',
    data=evidence.describe({Key('softmax'): trained}),
    is_percent=True,
  )


def _orders(size: int) -> np.ndarray:
  """[P, size] orders but the first: all of few, a random sample of many."""
  if size <= _MAX_EXACT:
    return np.array(list(itertools.permutations(range(size))))[1:]
  rng = np.random.default_rng(0)
  return rng.permuted(
    np.tile(np.arange(size), (evidence.NUM_PERMUTATIONS, 1)), axis=1
  )


def inversely_ranked(
  study: StudyRecords,
  group: str,
  x: dict[Key, Sample],
  y: dict[Key, Sample],
  *,
  what: str,
  of: Sequence[str],
) -> Evidence:
  """Spearman's rank correlation over objectives, claimed below 0, by permutation.

  Args:
    study: the records.
    group: of runs.
    x: a quantity of each objective.
    y: another.
    what: both, in words.
    of: data sets that y is a mean over.
  """
  keys = [key for key in x if key in y]
  evidence.require(
    {key: x[key] for key in keys},
    (),
    study,
    planned=True,
    at_least=MIN_OBJECTIVES,
  )
  rho, interval = rank_correlation(
    *([samples[key] for key in keys] for samples in (x, y))
  )
  x_means, y_means = (
    np.array([[samples[key].mean for key in keys]]) for samples in (x, y)
  )
  permuted = rank_correlations(x_means[:, _orders(len(keys))][0], y_means)
  p_high, p_low = evidence.permutation_p_values(rho, permuted)
  smallest = 1 / math.factorial(len(keys)) if len(keys) <= _MAX_EXACT else 5e-4
  power = f'p is never below {smallest:.2g}; '
  if abs(rho) > 1e-9:
    normal = (1.96 + 0.84) / math.atanh(min(abs(rho), 0.99))
    power += (
      f'this correlation takes about {math.ceil(normal**2) + 3} objectives for '
      '80 %'
    )
  else:
    power += 'no number of objectives tells this correlation from 0'
  return Evidence(
    what=f'rank correlation of {what} over objectives; claimed below 0',
    estimate=rho,
    interval=interval,
    p_for=p_low,
    p_against=p_high,
    is_percent=False,
    data=f'{evidence.describe({k: y[k] for k in keys})} of {", ".join(of)}',
    power=power,
  )


def transfer_inverse_to_separation(study: StudyRecords, group: str) -> Evidence:
  """R² of training images against mean transfer accuracy."""
  transferred, targets = transfer_samples(study, group)
  return inversely_ranked(
    study,
    group,
    _separation_samples(study, group),
    transferred,
    what='R² and mean transfer accuracy',
    of=targets,
  )


CLAIMS = (
  Claim(
    'softmax_separates_least',
    'Class separation R², on training images, is lowest for softmax.',
    'Table 2',
    'A loss with a lower R² than softmax.',
    softmax_separates_least,
  ),
  Claim(
    'softmax_relearned_worst',
    'The source task relearned from fixed features, IN(50k), is least accurate '
    'for softmax.',
    'Table 3',
    'A loss with a lower relearned accuracy than softmax.',
    softmax_relearned_worst,
  ),
  Claim(
    'relearned_below_head',
    'Softmax’s relearned head is less accurate than the one it was trained with.',
    'Table 3',
    'A relearned head of softmax above its own.',
    relearned_below_head,
  ),
  Claim(
    'softmax_transfers_best',
    'Fixed features of softmax transfer best.',
    'Table 3',
    'A loss whose features transfer better on average.',
    softmax_transfers_best,
  ),
  Claim(
    'transfer_inverse_to_separation',
    'Transfer is nearly inverse to class separation.',
    'section 5',
    'Losses that separate more and transfer better: a positive rank correlation.',
    transfer_inverse_to_separation,
  ),
)
