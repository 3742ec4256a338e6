"""Table 4: temperature."""

import dataclasses

from lossbench.report import looks
from lossbench.report.looks import Key
from lossbench.report.records import StudyRecords
from lossbench.report.tables import columns
from lossbench.report.tables.building import build_table
from lossbench.report.tables.cells import Column, Table
from lossbench.report.temperatures import Sweep, sweeps


def _sweep_name(sweep: Sweep) -> str:
  objectives = {key.objective for key in sweep.keys.values()}
  if len(objectives) > 1:  # with and without scaling of the loss
    objectives = {key.parts[0] for key in sweep.keys.values()}
  return f'{sweep.group}, {looks.objective_label(objectives.pop())}'


def _sweep_columns(sweep: Sweep, name: str, names) -> list[Column]:
  """Columns whose rows are temperatures."""
  of_sweep = [
    columns.metric_column(name, 'top1_accuracy'),
    *(
      dataclasses.replace(column, group=name)
      for column in columns.separation_columns(sweep.study, sweep.group)
    ),
  ]
  of_sweep += [
    columns.transfer_column(
      name, target, columns.target_label(sweep.study, sweep.group, target)
    )
    for target in reversed(columns.targets(sweep.study, sweep.group))
  ]
  return [
    dataclasses.replace(
      column,
      label=columns.titled(name, column.label, names),
      key_fn=lambda key: sweep.keys.get(key.temperature),
    )
    for column in of_sweep
  ]


def build(study: StudyRecords) -> Table:
  """Table 4: a row a temperature, columns for each sweep."""
  found = sweeps(study)
  columns.require(
    found,
    study,
    'runs over temperatures',
    config='configs/studies/temperature.py',
  )
  names = [_sweep_name(sweep) for sweep in found]
  runs, of_sweeps, notes = [], [], []
  for sweep, name in zip(found, names, strict=True):
    runs += [dataclasses.replace(r, group=name) for r in sweep.study.runs]
    of_sweeps += _sweep_columns(sweep, name, names)
    notes += columns.relearning_notes(sweep.study, sweep.group)
    notes += columns.training_notes(sweep.study, [sweep.group])
  temperatures = sorted({t for sweep in found for t in sweep.keys})
  return build_table(
    dataclasses.replace(study, runs=tuple(runs)),
    'Over the temperature τ of the softmax over cosines: top-1 accuracy (%), '
    'class separation on training images, as in the paper, and on the test split, '
    'accuracy (%) of relearned and transferred classifiers.',
    of_sweeps,
    [Key('', (('temperature', t),)) for t in temperatures],
    sort=False,
    row_label_fn=lambda key: f'τ = {key.temperature:g}',
    notes=notes,
  )
