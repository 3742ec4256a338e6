"""Evaluates a checkpoint: python -m lossbench.evaluate --workdir=RUN.

Rebuilds model, objective and data from the run directory, measures predictions
and representations on the test split and predictions on every
out-of-distribution set that is there, and prints tables. For each data set it
writes eval/<dataset>-<split>/metrics.json, predictions.npz and per_example.npz
into the run directory; for the test split also features.npz and curves.npz
(reliability diagram, singular values, cosine distances, angular visual
hardness). --split=training measures a fixed random part of what the run was
trained on, as the paper measures representations.
"""

from lossbench import cli  # isort: split

import collections
from collections.abc import Mapping, Sequence

from absl import flags
from rich import table as rich_table

from lossbench.runs.records import Record
from lossbench.runtime import console


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


def print_ood_table(
  results: Mapping[str, Sequence[Record]], missing: Mapping[str, str]
):
  """Prints one row a data set or corruption family, then what is missing."""
  from lossbench.data import catalogue

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
    table.add_column('dataset')
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


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  cli.define_workdir()
  cli.define_checkpoint_flags(
    split="Only this split of the run's data set: 'holdout', 'training' (what "
    "it was trained on), or a TFDS split such as 'test' or 'train[:1000]'. "
    'Default: the test split, then all out-of-distribution sets.'
  )
  flags.DEFINE_integer(
    'num_train_examples',
    None,
    'With --split=training: at most so many, the same random ones for all runs. '
    'Default: 50000.',
    lower_bound=1,
  )
  flags.DEFINE_bool(
    'ood', True, 'Evaluate on out-of-distribution sets after the test split.'
  )
  flags.DEFINE_bool(
    'strict', False, 'Fail, at the end, if a data set is not available.'
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  if args.strict and (args.split or not args.ood):
    raise ValueError(
      '--strict is about out-of-distribution sets, which --split and --noood '
      'leave out: give one or the other.'
    )
  from lossbench.evaluation.checkpoint import evaluate_checkpoint

  found = evaluate_checkpoint(
    args.workdir,
    num_train_examples=args.num_train_examples,
    ood=args.ood,
    **cli.checkpoint_arguments(),
  )
  print_table(
    f'{found.objective} on {found.dataset} {found.split}, step {found.step}, '
    f'{found.records[0].n} examples',
    found.records,
  )
  print_ood_table(found.ood, found.not_available)
  if args.strict and found.not_available:
    raise FileNotFoundError(
      f'--strict: {len(found.not_available)} data sets are not available: '
      f'{", ".join(found.not_available)}.'
    )


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir'], on_cluster=True)
