"""Copies into results/ what it keeps of a report, and prints README's table of it.

  python results/collect.py digit_pairs studies/digit_pairs/report
  python results/collect.py cifar10_small studies/cifar10_small/report

Without the report's directory it only prints, of what results/ has. Commands in the
report name directories of whoever ran the study; copied, they name DIR and
studies/STUDY, as results/*/README.md does.
"""

import csv
import math
import pathlib
import re
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
  figures: dict[str, str]  # name in results/ -> in the report
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
    figures={
      'transfer_against_relearned': 'figure_5-digit_pairs_cnn',
      'transfer_against_separation': 'figure_tradeoff-digit_pairs_cnn',
    },
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
    figures={
      'sparsity': 'figure_2-cifar10_small',
      'training': 'figure_training-cifar10_small',
      'transfer_against_separation': 'figure_tradeoff-cifar10_small',
    },
    others=(
      'numbers.csv',
      'tables/table_corruptions.csv',
      'tables/table_corruptions.md',
      'tables/table_few_shots.csv',
      'tables/table_few_shots.md',
    ),
  ),
}


def _kept_files(study: str) -> dict[str, str]:
  """Path in results/ of the study -> in the report."""
  kept = KEPT[study]
  files = ['claims.json', 'claims.md', *kept.others]
  for table in sorted({column.table for column in kept.columns}):
    files += [f'tables/{table}.csv', f'tables/{table}.md']
  return {file: file for file in files} | {
    f'figures/{name}.png': f'figures/{figure}.png'
    for name, figure in kept.figures.items()
  }


def _rewrite_paths(text: str, study: str) -> str:
  """Replaces values of --config.data_dir and --workdir in commands.

  A value ends where a word of a shell, a cell of a table or a string of JSON does; an
  argument that needs quotes has them around the whole. STUDY, the placeholder in
  commands of other studies, is left.
  """
  values = {'--config.data_dir': 'DIR', '--workdir': f'studies/{study}'}
  flags = '|'.join(map(re.escape, values))

  def replace(match: re.Match) -> str:
    if match['value'] == 'STUDY':
      return match[0]
    flag = match['quoted'] or match['flag']
    return f'{flag}={values[flag]}'

  return re.sub(
    rf"'(?P<quoted>{flags})=[^'\n]*'"
    rf"|(?P<flag>{flags})=(?P<value>[^\s,|'\"`\\]+)",
    replace,
    text,
  )


def collect(study: str, report: pathlib.Path) -> str:
  """Copies what is kept of a report, all of it or nothing.

  Args:
    study: a key of KEPT.
    report: the directory that lossbench.report wrote.

  Returns:
    README's table of it.

  Raises:
    ValueError: if the report lacks files or numbers.
  """
  files = _kept_files(study)
  missing = [file for file in files.values() if not (report / file).is_file()]
  if missing:
    raise ValueError(
      f'{report} lacks {", ".join(missing)}. Run `python -m lossbench.report '
      f'--workdir=studies/{study}` first.'
    )
  table = readme_table(study, report)
  for name, file in files.items():
    content = (report / file).read_bytes()
    if not file.endswith('.png'):
      content = _rewrite_paths(content.decode(), study).encode()
    path = RESULTS / study / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return table


def _read(
  directory: pathlib.Path, column: Column
) -> dict[str, tuple[float, float]]:
  """Objective -> mean and standard error."""
  path = directory / 'tables' / f'{column.table}.csv'
  with open(path, encoding='utf-8', newline='') as file:
    rows = [
      row for row in csv.DictReader(file) if row['column'] == column.column
    ]
  if not rows:
    raise ValueError(
      f'{path} has no column {column.column!r}. Run what the study lacks and its '
      'report again.'
    )
  values, groups = {}, {}
  for row in rows:
    objective = row['row']
    if objective in values:
      raise ValueError(
        f'{path} has {objective!r} twice in column {column.column!r}, of the groups '
        f"{groups[objective]!r} and {row['group']!r}; README's table is of one. "
        'Collect the report of a study with one group.'
      )
    numbers = [row[field] for field in ('mean', 'standard_error')]
    if not all(text and math.isfinite(float(text)) for text in numbers):
      raise ValueError(
        f'{path} has no mean and standard error of {objective!r} in column '
        f'{column.column!r}: {" ± ".join(map(repr, numbers))}. Run what the study '
        'lacks and its report again.'
      )
    values[objective] = (float(numbers[0]), float(numbers[1]))
    groups[objective] = row['group']
  return values


def readme_table(study: str, directory: pathlib.Path) -> str:
  """The table of a study in README: % and R², by class separation.

  Args:
    study: a key of KEPT.
    directory: a report, or what is kept of it.

  Raises:
    ValueError: if a number of the table is not there, or there twice.
  """
  columns = KEPT[study].columns
  found = [_read(directory, column) for column in columns]
  objectives = dict.fromkeys(name for values in found for name in values)
  for column, values in zip(columns, found, strict=True):
    lacking = [name for name in objectives if name not in values]
    if lacking:
      raise ValueError(
        f'{directory / "tables" / column.table}.csv has no row of '
        f'{", ".join(map(repr, lacking))} in column {column.column!r}. Run what the '
        'study lacks and its report again.'
      )
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


def main(argv: list[str]) -> str:
  """Does what the command line says; returns README's table."""
  if len(argv) not in (2, 3) or argv[1] not in KEPT:
    sys.exit(__doc__)
  study = argv[1]
  try:
    if len(argv) == 3:
      return collect(study, pathlib.Path(argv[2]))
    return readme_table(study, RESULTS / study)
  except ValueError as error:
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  print(main(sys.argv))
