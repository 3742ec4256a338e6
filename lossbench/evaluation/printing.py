"""What a person sees of an evaluation."""

import collections
from collections.abc import Mapping, Sequence

from rich import table as rich_table

from lossbench.data import catalogue
from lossbench.metrics.by_class import ClassAccuracies
from lossbench.runs.records import Record
from lossbench.runtime import console

_NUM_CLASSES_SHOWN = 10


def print_table(title: str, records: Sequence[Record]):
  """Prints measures of predictions, then those of the endpoints."""
  output = console.output()
  output.print(title, style='bold', highlight=False)
  table = rich_table.Table()
  for column, justify in [
    ('metric', 'left'),
    ('value', 'right'),
    ('unit', 'left'),
  ]:
    table.add_column(column, justify=justify)
  for record in records:
    if record.endpoint is None:
      table.add_row(record.name, _format(record), record.unit)
  output.print(table)
  layers = rich_table.Table()
  layers.add_column('endpoint')
  names = list(dict.fromkeys(r.name for r in records if r.endpoint))
  for name in names:
    layers.add_column(name, justify='right')
  values = {(r.endpoint, r.name): _format(r) for r in records if r.endpoint}
  for endpoint in dict.fromkeys(r.endpoint for r in records if r.endpoint):
    layers.add_row(
      endpoint, *[values.get((endpoint, name), '') for name in names]
    )
  if names:
    output.print(layers)
  for note in dict.fromkeys(r.note for r in records if r.note):
    output.print(f'Note: {note}', style='dim', highlight=False)


def print_class_table(by_class: ClassAccuracies, class_names: Sequence[str]):
  """Prints accuracies of the classes, of many of them only the lowest.

  Args:
    by_class: to be shown.
    class_names: in the order of labels.
  """
  known = [k for k, n in enumerate(by_class.count) if n]
  title = 'by class'
  if len(known) > _NUM_CLASSES_SHOWN:
    known.sort(key=lambda k: by_class.accuracy[k])
    title = f'the {_NUM_CLASSES_SHOWN} worst of {len(known)} classes'
    known = known[:_NUM_CLASSES_SHOWN]
  table = rich_table.Table(title=title, title_justify='left')
  table.add_column('class', overflow='fold')
  for column in ('accuracy', 'n', 'predicted'):
    table.add_column(column, justify='right')
  for k in known:
    table.add_row(
      class_names[k],
      f'{by_class.accuracy[k]:.4f}',
      str(by_class.count[k]),
      str(by_class.num_predicted[k]),
    )
  console.output().print(table)


def print_ood_table(
  results: Mapping[str, Sequence[Record]], missing: Mapping[str, str]
):
  """Prints one row a data set or corruption family, then what is missing."""
  output = console.output()
  names = [
    'top1_accuracy',
    'subset_top1_accuracy',
    'real_accuracy',
    'nll',
    'ece',
    'max_probability_auroc',
    'energy_auroc',
  ]
  if results:
    measured = {r.name for records in results.values() for r in records}
    names = [name for name in names if name in measured]
    table = rich_table.Table(title='out of distribution', title_justify='left')
    table.add_column('dataset', overflow='fold')
    for name in names:
      table.add_column(name, justify='right')
    for dataset, records in results.items():
      values = {record.name: _format(record) for record in records}
      table.add_row(dataset, *[values.get(name, '') for name in names])
    output.print(table)
  families = collections.defaultdict(list)
  for name in missing:
    families[catalogue.family_of(name) or name].append(name)
  for family, sets in families.items():
    shown = family
    if len(sets) > 1:
      shown += f' ({len(sets)} sets, for example {sets[0]})'
    output.print(f'{shown}: {missing[sets[0]]}', style='dim', highlight=False)


def _format(record: Record) -> str:
  return '-' if record.value is None else f'{record.value:.4f}'
