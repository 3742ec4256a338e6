"""Copies into results/ what it keeps of a report, and prints README's table of it.

  python results/collect.py digit_pairs studies/digit_pairs/report
  python results/collect.py cifar10_small studies/cifar10_small/report

Without the report's directory it only prints, of what results/ has.
"""

import csv
import pathlib
import shutil
import sys
from typing import NamedTuple

RESULTS = pathlib.Path(__file__).parent
_TRAINING = 'class separation (R²), training'


class Column(NamedTuple):
  """A column of README's table: its title, and what it is of."""

  title: str
  table: str
  column: str
  percent: bool = True


class Kept(NamedTuple):
  """What is kept of a report, besides the claims and the columns' tables."""

  columns: tuple[Column, ...]
  figures: tuple[str, ...]
  others: tuple[str, ...] = ()


KEPT = {
  'digit_pairs': Kept(
    columns=(
      Column('top-1', 'table_1', 'top-1'),
      Column('R², training', 'table_2', _TRAINING, percent=False),
      Column('to 50-99', 'table_3', 'digit_pairs_high:train[:1000]'),
      Column('to tens', 'table_3', 'digit_pairs_tens:train[:1000]'),
      Column('to sums', 'table_3', 'digit_pairs_sum:train[:1000]'),
      Column('corrupted', 'table_b2', 'digit_pairs_low_c'),
      Column('ECE', 'table_b3', 'ECE'),
    ),
    figures=('transfer_against_relearned', 'transfer_against_separation'),
    others=('tables/table_knn.csv', 'tables/table_knn.md'),
  ),
  'cifar10_small': Kept(
    columns=(
      Column('top-1', 'table_1', 'top-1'),
      Column('R², training', 'table_2', _TRAINING, percent=False),
      Column(
        'R², test', 'table_2', 'class separation (R²), test', percent=False
      ),
      Column('to Caltech-101', 'table_3', 'caltech101'),
      Column('by neighbours', 'table_knn', 'caltech101'),
      Column('fine-tuned', 'table_finetuning', 'caltech101'),
      Column('relearned', 'table_3', 'cifar10, relearned from holdout'),
      Column('corrupted', 'table_b2', 'cifar10_c8'),
      Column('ECE', 'table_b3', 'ECE'),
    ),
    figures=('sparsity', 'training', 'transfer_against_separation'),
    others=(
      'numbers.csv',
      'tables/table_corruptions.csv',
      'tables/table_corruptions.md',
      'tables/table_few_shots.csv',
      'tables/table_few_shots.md',
    ),
  ),
}


def collect(study: str, report: pathlib.Path):
  """Copies what is kept of a report; files that are not there end it."""
  kept = KEPT[study]
  files = ['claims.json', 'claims.md', *kept.others]
  for table in sorted({column.table for column in kept.columns}):
    files += [f'tables/{table}.csv', f'tables/{table}.md']
  files += [f'figures/{figure}.png' for figure in kept.figures]
  for file in files:
    path = RESULTS / study / file
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(report / file, path)


def _read(study: str, column: Column) -> dict[str, tuple[float, float]]:
  """Objective -> mean and standard error."""
  with open(RESULTS / study / 'tables' / f'{column.table}.csv') as file:
    return {
      row['row']: (float(row['mean']), float(row['standard_error']))
      for row in csv.DictReader(file)
      if row['column'] == column.column
    }


def readme_table(study: str) -> str:
  """The table of a study in README: % and R², by class separation."""
  columns = KEPT[study].columns
  found = [_read(study, column) for column in columns]
  (separation,) = [
    values
    for column, values in zip(columns, found, strict=True)
    if column.column == _TRAINING
  ]

  def cell(column: Column, number: tuple[float, float]) -> str:
    if column.percent:
      return f'{100 * number[0]:.1f} ± {100 * number[1]:.1f}'
    return f'{number[0]:.3f} ± {number[1]:.3f}'

  lines = [
    ' | '.join(['|', *[column.title for column in columns]]) + ' |',
    '|---|' + '---:|' * len(columns),
  ]
  for objective in sorted(separation, key=separation.get):
    cells = [
      cell(column, values[objective])
      for column, values in zip(columns, found, strict=True)
    ]
    lines.append(f'| {objective} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


if __name__ == '__main__':
  if len(sys.argv) not in (2, 3) or sys.argv[1] not in KEPT:
    sys.exit(__doc__)
  if len(sys.argv) == 3:
    collect(sys.argv[1], pathlib.Path(sys.argv[2]))
  print(readme_table(sys.argv[1]))
