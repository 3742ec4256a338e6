"""Claims on cosine softmax over its temperature (Table 4)."""

from lossbench.report import looks
from lossbench.report.bootstrap import difference
from lossbench.report.claims import evidence
from lossbench.report.claims.claim import Claim, Evidence
from lossbench.report.claims.representations import transfer_samples
from lossbench.report.records import NotRun, StudyRecords
from lossbench.report.temperatures import sweeps

_CONFIG = 'configs/studies/temperature.py'


def _sweep(study: StudyRecords, group: str):
  for sweep in sweeps(study):
    if sweep.group == group and len(sweep.keys) > 1:
      return sweep
  raise NotRun(evidence.missing(study, planned=False, config=_CONFIG))


def _against_lowest(study, samples, sweep, *, sign, what, more=''):
  lowest = sweep.keys[min(sweep.keys)]
  if lowest not in samples or len(samples) < 2:
    raise NotRun(evidence.missing(study, planned=True))
  effects = {
    looks.label(key): difference(sample, samples[lowest])
    if sign > 0
    else difference(samples[lowest], sample)
    for key, sample in samples.items()
    if key != lowest
  }
  return evidence.all_above(
    sweep.study,
    sweep.group,
    effects,
    what=what,
    data=evidence.describe(samples, 'temperature') + more,
    is_percent=True,
  )


def lowest_temperature_least_accurate(
  study: StudyRecords, group: str
) -> Evidence:
  """Every other temperature against the lowest."""
  sweep = _sweep(study, group)
  samples = evidence.read_samples(
    sweep.study,
    sweep.group,
    lambda run: run.measured('top1_accuracy'),
    list(sweep.keys.values()),
  )
  return _against_lowest(
    study,
    samples,
    sweep,
    sign=1,
    what='top-1 of {} minus that of the lowest temperature (paper, of the best: '
    '2.7)',
  )


def lowest_temperature_transfers_best(
  study: StudyRecords, group: str
) -> Evidence:
  """The lowest temperature against every other."""
  sweep = _sweep(study, group)
  samples, targets = transfer_samples(
    sweep.study, sweep.group, keys=list(sweep.keys.values()), at_least=1
  )
  return _against_lowest(
    study,
    samples,
    sweep,
    sign=-1,
    what='mean transfer accuracy of the lowest temperature minus that of {}',
    more=f' of {", ".join(targets)}',
  )


CLAIMS = (
  Claim(
    'lowest_temperature_least_accurate',
    'Of cosine softmax the lowest temperature has the lowest top-1 accuracy, 2.7 '
    'points below the best.',
    'Table 4',
    'A temperature with a lower top-1 accuracy than the lowest temperature.',
    lowest_temperature_least_accurate,
  ),
  Claim(
    'lowest_temperature_transfers_best',
    'Of cosine softmax the lowest temperature transfers best.',
    'Table 4',
    'A temperature that transfers better on average than the lowest.',
    lowest_temperature_transfers_best,
  ),
)
