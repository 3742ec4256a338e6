"""Full fine-tuning, of the paper's later edition."""

from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.runs.records import HIGHER


def finetuning_column(group: str, dataset: str, label: str) -> Column:
  """The main metric of a fine-tuning."""
  return Column(
    label=label,
    group=group,
    read_fn=lambda run: run.finetuned.get(dataset),
    is_percent=True,
    direction=HIGHER,
  )


def build(study: StudyRecords) -> Table:
  """A column for each data set."""
  datasets = {
    group: list(
      dict.fromkeys(d for run in study.runs_of(group) for d in run.finetune)
    )
    for group in study.groups()
    if columns.plain_keys(study, group)
  }
  groups = [group for group, found in datasets.items() if found]
  columns.require(groups, study, 'fine-tuning (finetune of a group)')
  return build_table(
    study,
    'Accuracy (%) after fine-tuning all weights with softmax cross-entropy; '
    'learning rate and weight decay chosen on a fifth of the training data '
    '(Kornblith et al. 2019, arXiv:1805.08974), trained again on all of it, tested '
    'once; mean per class where the field reports it.',
    [
      finetuning_column(group, d, columns.titled(group, d, groups))
      for group in groups
      for d in datasets[group]
    ],
    columns.all_plain_keys(study, groups),
  )
