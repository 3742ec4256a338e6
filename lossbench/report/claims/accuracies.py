"""Claims on accuracy: of seeds, losses, Inception v3 and augmentations."""

import itertools

import numpy as np
from scipy import stats

from lossbench.report import looks
from lossbench.report.augmentations import joined
from lossbench.report.bootstrap import LEVEL, contrast, difference
from lossbench.report.claims import evidence
from lossbench.report.claims.claim import Claim, Evidence
from lossbench.report.records import NotRun, RunRecords, StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.inception import MODEL

_MAX_SEED_DEVIATION = 0.002
_MAX_RANGE = 0.015


def _evaluated(study: StudyRecords, group: str) -> bool:
  return any('evaluate' in run.commands for run in study.runs_of(group))


def _top1(run: RunRecords):
  return run.measured('top1_accuracy')


def _top5(run: RunRecords):
  return run.measured('top5_accuracy')


def seeds_differ_little(study: StudyRecords, group: str) -> Evidence:
  """Standard deviations over seeds, by the chi-square test of a variance."""
  samples = evidence.read_samples(study, group, _top1)
  samples = {k: s for k, s in samples.items() if len(s.values) > 1}
  planned = _evaluated(study, group)
  evidence.require(samples, (), study, planned=planned, at_least=1)
  found = {}
  for key, sample in samples.items():
    dof = len(sample.values) - 1
    deviation = float(np.std(sample.values, ddof=1))
    ratio = dof * (deviation / _MAX_SEED_DEVIATION) ** 2
    quantiles = stats.chi2.ppf([1 - LEVEL / 2, LEVEL / 2], dof)
    found[key] = (
      deviation,
      tuple(deviation * np.sqrt(dof / quantiles)),
      float(stats.chi2.cdf(ratio, dof)),
      float(stats.chi2.sf(ratio, dof)),
    )
  # Zero spread is no evidence: the next seed may differ.
  varying = [f for f in found.values() if f[0] > 1e-12]
  p_for = max(f[2] for f in varying) if len(varying) == len(found) else 1.0
  p_against = min([1.0, *(len(found) * f[3] for f in varying)])
  key = max(found, key=lambda k: found[k][0])
  deviation, interval, *_ = found[key]
  num_seeds = _seeds_for_deviation(deviation)
  return Evidence(
    what=f'the largest s.d. over seeds, {looks.label(key)}; claimed below 0.2',
    estimate=deviation,
    interval=interval if deviation > 1e-12 else None,
    p_for=p_for,
    p_against=p_against,
    is_percent=True,
    data=evidence.describe(samples),
    power=f'{num_seeds} seeds would tell this s.d. from 0.2 points'
    if num_seeds
    else 'no number of seeds tells this s.d. from 0.2 points',
    remedy=evidence.more_seeds(study, group, num_seeds) if num_seeds else '',
  )


def _seeds_for_deviation(deviation: float) -> int | None:
  """Seeds that find a true deviation different from the claimed, 80 % power."""
  if deviation <= 1e-12:
    return None
  for num_seeds in (*range(2, 100), *range(100, 1001, 20)):
    dof = num_seeds - 1
    scale = (_MAX_SEED_DEVIATION / deviation) ** 2
    low, high = stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], dof)
    if max(
      stats.chi2.cdf(low * scale, dof), stats.chi2.sf(high * scale, dof)
    ) >= (0.8):
      return num_seeds
  return None


def losses_differ_little(study: StudyRecords, group: str) -> Evidence:
  """Every two losses differ by less: an equivalence test of all pairs."""
  samples = evidence.read_samples(study, group, _top1)
  evidence.require(
    samples,
    (),
    study,
    planned=_evaluated(study, group),
    at_least=evidence.MOST,
  )
  margins = {
    f'{looks.label(a)} and {looks.label(b)}': contrast(
      [(-1.0, samples[a]), (1.0, samples[b])], constant=_MAX_RANGE
    )
    for a, b in itertools.permutations(samples, 2)
  }
  return evidence.all_above(
    study,
    group,
    margins,
    what='1.5 points less the difference between {}',
    data=evidence.describe(samples),
    is_percent=True,
  )


def sigmoid_and_cosine_beat_softmax(
  study: StudyRecords, group: str
) -> Evidence:
  """Both against softmax."""
  names = ('sigmoid', 'cosine_softmax', 'softmax')
  samples = evidence.read_samples(study, group, _top1)
  evidence.require(samples, names, study, planned=_evaluated(study, group))
  samples = evidence.only(samples, names)
  return evidence.all_against(
    study,
    group,
    samples,
    'softmax',
    what='top-1 of {} minus that of softmax (paper: 0.9)',
    is_percent=True,
  )


def _of_inception(study, group, read_fn, *, at_least: int):
  if study.runs_of(group)[0].model != MODEL:
    raise NotRun(evidence.missing(study, planned=False))
  samples = evidence.read_samples(study, group, read_fn)
  evidence.require(
    samples,
    ('softmax', 'sigmoid'),
    study,
    planned=_evaluated(study, group),
    at_least=at_least,
  )
  return samples


def sigmoid_best_of_inception(study: StudyRecords, group: str) -> Evidence:
  """Sigmoid against every other objective."""
  samples = _of_inception(study, group, _top1, at_least=evidence.MOST)
  return evidence.all_against(
    study,
    group,
    samples,
    'sigmoid',
    sign=-1,
    what='top-1 of sigmoid minus that of {}',
    is_percent=True,
  )


def sigmoid_top5_below_softmax(study: StudyRecords, group: str) -> Evidence:
  """Softmax against sigmoid."""
  samples = _of_inception(study, group, _top5, at_least=2)
  samples = evidence.only(samples, ('softmax', 'sigmoid'))
  return evidence.all_against(
    study,
    group,
    samples,
    'sigmoid',
    what='top-5 of {} minus that of sigmoid',
    is_percent=True,
  )


def augmentation_helps(study: StudyRecords, group: str) -> Evidence:
  """Each loss with an augmentation against the same loss without."""
  own, study = study, joined(study)
  keys = study.keys(group)
  if own.runs_of(group) and not keys:
    raise NotRun('not run by itself: with other groups of its recipe')
  augmented = [key for key in keys if columns.augmentation(key)]
  samples = evidence.read_samples(study, group, _top1, keys)
  effects = {
    looks.label(key): difference(samples[key], samples[plain])
    for key in augmented
    if (plain := columns.without_augmentation(key)) in samples
    and key in samples
  }
  if not effects:
    raise NotRun(
      evidence.missing(
        study,
        planned=bool(augmented) and _evaluated(study, group),
        config='configs/studies/augmentation.py',
      )
    )
  best = max(samples, key=lambda key: samples[key].mean)
  return evidence.all_above(
    study,
    group,
    effects,
    what=f'top-1 of {{}} minus that of the same without; best of all: '
    f'{looks.label(best)}, {100 * samples[best].mean:.1f} (paper: 79.1)',
    data=evidence.describe(samples, 'configuration'),
    is_percent=True,
  )


CLAIMS = (
  Claim(
    'seeds_differ_little',
    'Seeds of one loss differ by a standard deviation below 0.2 points of top-1.',
    'section 3.2',
    'A loss whose standard deviation over seeds is above 0.2 points.',
    seeds_differ_little,
  ),
  Claim(
    'losses_differ_little',
    'The best and the worst loss differ by less than 1.5 points of top-1.',
    'section 5',
    'Two losses that differ by more than 1.5 points.',
    losses_differ_little,
  ),
  Claim(
    'sigmoid_and_cosine_beat_softmax',
    'Sigmoid and cosine softmax improve on softmax, by 0.9 points of top-1 on '
    'ImageNet.',
    'section 3.1',
    'A top-1 accuracy of sigmoid or cosine softmax below softmax’s.',
    sigmoid_and_cosine_beat_softmax,
  ),
  Claim(
    'sigmoid_best_of_inception',
    'Of Inception v3 sigmoid has the best top-1 accuracy.',
    'Table B.1',
    'A loss with a higher top-1 accuracy than sigmoid.',
    sigmoid_best_of_inception,
  ),
  Claim(
    'sigmoid_top5_below_softmax',
    'Of Inception v3 sigmoid’s top-5 accuracy is below softmax’s.',
    'Table B.1',
    'A top-5 accuracy of sigmoid above softmax’s.',
    sigmoid_top5_below_softmax,
  ),
  Claim(
    'augmentation_helps',
    'AutoAugment and mixup raise the top-1 accuracy of every loss (best model: '
    '79.1 top-1, 94.5 top-5).',
    'Table C.2',
    'A loss that is worse with AutoAugment or mixup than without.',
    augmentation_helps,
  ),
)
