"""Table B.2: accuracy out of distribution."""

from collections.abc import Sequence

from lossbench.data import catalogue
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.runs.records import get_measure

_METRICS = ('top1_accuracy', 'subset_top1_accuracy', 'real_accuracy')


def _columns(
  study: StudyRecords, group: str, metrics: Sequence[str], groups
) -> list[Column]:
  """A column for every data set that was measured.

  Of a family of corruptions only its mean, which evaluation makes and which an
  incomplete family lacks.
  """
  own = study.runs_of(group)[0].dataset
  measured = {
    (dataset, metric)
    for run in study.runs_of(group)
    for dataset, metric, _ in run.metrics
    if metric in metrics and dataset != own and not catalogue.family_of(dataset)
  }
  found = []
  for dataset, metric in sorted(measured):
    label = dataset
    if metric != 'top1_accuracy':
      label += f', {get_measure(metric).title}'
    found.append(
      Column(
        label=columns.titled(group, label, groups),
        group=group,
        read_fn=columns.reader(metric, dataset=dataset),
        is_percent=True,
        direction=get_measure(metric).direction,
      )
    )
  return found


def build_shifts_table(
  study: StudyRecords, caption: str, metrics: Sequence[str]
) -> Table:
  """A column for every metric on every out-of-distribution set."""
  groups = [
    group
    for group in columns.evaluated(study)
    if _columns(study, group, metrics, ())
  ]
  columns.require(groups, study, 'measurements out of distribution')
  return build_table(
    study,
    f'{caption}',
    [
      column
      for group in groups
      for column in _columns(study, group, metrics, groups)
    ],
    columns.all_plain_keys(study, groups),
  )


def build(study: StudyRecords) -> Table:
  """Table B.2."""
  return build_shifts_table(
    study,
    'Top-1 accuracy (%); of corruptions (…_c) the mean over all of them and their '
    'severities, where all were measured.',
    _METRICS,
  )
