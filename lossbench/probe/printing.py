"""What a person sees of a transfer."""

from collections.abc import Mapping, Sequence

from rich import table as rich_table

from lossbench.runs.records import Record
from lossbench.runtime import console


def print_table(title: str, records: Sequence[Record], *, main_metric: str):
  """Prints the records, the main metric first and marked."""
  output = console.output()
  output.print(title, style='bold', highlight=False)
  table = rich_table.Table()
  table.add_column('metric')
  table.add_column('value', justify='right')
  table.add_column('unit')
  table.add_column('n', justify='right')
  for record in records:
    main = record.name == main_metric
    wide = record.name.endswith('accuracy')
    value = '-'
    if record.value is not None:
      value = f'{record.value:.4f}' if wide else f'{record.value:.4g}'
    table.add_row(
      f'{record.name} (main)' if main else record.name,
      value,
      record.unit,
      str(record.n),
      style='bold' if main else None,
    )
  output.print(table)
  for note in dict.fromkeys(r.note for r in records if r.note):
    output.print(f'Note: {note}', style='dim', highlight=False)


def print_path(path: Sequence[Mapping[str, float]], *, chosen: float):
  """Prints what every L2 value is worth on the holdout, and its certificate.

  Args:
    path: of `protocol.fit_and_test`.
    chosen: the L2 value that is marked.
  """
  table = rich_table.Table()
  for column in (
    'L2',
    'holdout accuracy',
    'holdout NLL',
    'gap at most',
    'steps',
  ):
    table.add_column(column, justify='right')
  for entry in path:
    table.add_row(
      f'{entry["l2"]:.3g}',
      f'{entry["holdout_accuracy"]:.4f}',
      f'{entry["holdout_nll"]:.4f}',
      f'{entry["relative_gap_bound"]:.1e}',
      str(entry['newton_steps']),
      style='bold' if entry['l2'] == chosen else None,
    )
  console.output().print(table)
