"""Claims on calibration and on shifted data sets."""

from collections.abc import Sequence

from lossbench.data import catalogue
from lossbench.report.bootstrap import Sample, contrast
from lossbench.report.claims import evidence
from lossbench.report.claims.claim import Claim, Evidence
from lossbench.report.looks import Key, label
from lossbench.report.records import StudyRecords
from lossbench.report.samples import mean_samples


def _samples(study, group, metric, names, *, at_least=2) -> dict[Key, Sample]:
  samples = evidence.read_samples(
    study, group, lambda run: run.measured(metric)
  )
  evidence.require(
    samples,
    names,
    study,
    planned=any('evaluate' in run.commands for run in study.runs_of(group)),
    at_least=at_least,
  )
  return samples


def _lower(study, group, metric, lower: str, higher: str, unit: str):
  """Evidence that one objective has a lower value than another."""
  samples = _samples(study, group, metric, (lower, higher))
  pair = evidence.only(samples, (lower, higher))
  is_percent = metric == 'ece'
  return evidence.all_against(
    study,
    group,
    pair,
    lower,
    what=f'{unit} of {{}} minus that of {label(Key(lower))}',
    is_percent=is_percent,
  )


def label_smoothing_calibrates(study: StudyRecords, group: str) -> Evidence:
  """ECE of softmax against that of label smoothing."""
  return _lower(study, group, 'ece', 'label_smoothing', 'softmax', 'ECE')


def cosine_softmax_likelier(study: StudyRecords, group: str) -> Evidence:
  """NLL of label smoothing against that of cosine softmax."""
  return _lower(
    study, group, 'nll', 'cosine_softmax', 'label_smoothing', 'NLL (nats)'
  )


def logit_penalty_worst_calibrated(study: StudyRecords, group: str) -> Evidence:
  """ECE of the logit penalty against every other."""
  samples = _samples(
    study, group, 'ece', ('logit_penalty',), at_least=evidence.MOST
  )
  return evidence.all_against(
    study,
    group,
    samples,
    'logit_penalty',
    sign=-1,
    what='ECE of the logit penalty minus that of {}',
    is_percent=True,
  )


def shifted_samples(
  study: StudyRecords, group: str, names: Sequence[str]
) -> tuple[dict[Key, Sample], list[str]]:
  """Mean top-1 accuracy over shifted data sets, and their names.

  Of data sets with few of the classes, accuracy among those; of corruptions the
  mean of the family.
  """
  runs = study.runs_of(group)
  found = {
    (dataset, metric)
    for run in runs
    for dataset, metric, _ in run.metrics
    if metric in ('top1_accuracy', 'subset_top1_accuracy')
    and dataset != run.dataset
    and not catalogue.family_of(dataset)
  }
  datasets = sorted({dataset for dataset, _ in found})
  parts = []
  for dataset in datasets:
    metric = 'top1_accuracy'
    if (dataset, 'subset_top1_accuracy') in found:
      metric = 'subset_top1_accuracy'

    def read_fn(run, metric=metric, dataset=dataset):
      return run.measured(metric, dataset=dataset)

    parts.append(evidence.read_samples(study, group, read_fn))
  samples = mean_samples(parts)
  evidence.require(
    samples,
    names,
    study,
    planned=any('evaluate' in run.commands for run in runs),
    at_least=evidence.MOST,
  )
  return samples, datasets


def alternatives_beat_softmax_shifted(
  study: StudyRecords, group: str
) -> Evidence:
  """Every other objective against softmax; one may be below."""
  samples, datasets = shifted_samples(study, group, ('softmax',))
  return evidence.all_against(
    study,
    group,
    samples,
    'softmax',
    what='of the second to last, {}: mean top-1 minus softmax’s',
    is_percent=True,
    of=datasets,
    but_for=1,
  )


def normalized_ahead_shifted(study: StudyRecords, group: str) -> Evidence:
  """The mean of both against every other objective."""
  ahead = ('logit_normalization', 'cosine_softmax')
  samples, datasets = shifted_samples(study, group, (*ahead, 'softmax'))
  effects = {
    label(key): contrast(
      [
        *((0.5, s) for s in evidence.only(samples, ahead).values()),
        (-1.0, sample),
      ]
    )
    for key, sample in evidence.others(samples, ahead).items()
  }
  return evidence.all_above(
    study,
    group,
    effects,
    what='mean top-1 of both minus that of {}',
    data=f'{evidence.describe(samples)} of {", ".join(datasets)}',
    is_percent=True,
  )


CLAIMS = (
  Claim(
    'label_smoothing_calibrates',
    'Label smoothing has a much lower ECE than softmax.',
    'Table B.3',
    'An ECE of label smoothing above softmax’s.',
    label_smoothing_calibrates,
  ),
  Claim(
    'cosine_softmax_likelier',
    'Cosine softmax has a lower NLL than label smoothing.',
    'Table B.3',
    'An NLL of cosine softmax above label smoothing’s.',
    cosine_softmax_likelier,
  ),
  Claim(
    'logit_penalty_worst_calibrated',
    'The logit penalty has the worst calibration.',
    'Table B.3',
    'A loss with a higher ECE than the logit penalty.',
    logit_penalty_worst_calibrated,
  ),
  Claim(
    'alternatives_beat_softmax_shifted',
    'Almost all alternatives beat softmax out of distribution (all but one).',
    'Table B.2',
    'Two losses or more that are below softmax.',
    alternatives_beat_softmax_shifted,
  ),
  Claim(
    'normalized_ahead_shifted',
    'Logit normalization and cosine softmax are slightly ahead out of '
    'distribution.',
    'Table B.2',
    'A loss above the mean of both.',
    normalized_ahead_shifted,
  ),
)
