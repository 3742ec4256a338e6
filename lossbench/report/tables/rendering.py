"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from lossbench.report import display
from lossbench.report.bootstrap import Effect
from lossbench.report.tables.cells import (
  TEST_HEADINGS,
  Table,
  cell_text,
  difference_text,
  sources_text,
  test_rows,
)


def titles(table: Table) -> list[list[str]]:
  """Where the numbers of `extended` come from, in the same places."""
  columns = []
  for index, column in enumerate(table.columns):
    cells = [row[index] for row in table.cells]
    columns.append([sources_text(cell, column) for cell in cells])
    empty = [''] * len(cells)
    if any(cell.published for cell in cells):
      columns.append(empty)
    if any(difference_text(cell, column) for cell in cells):
      columns.append(empty)
  return [list(row) for row in zip(*columns, strict=True)]


def extended(table: Table) -> tuple[list[str], list[list[tuple[str, bool]]]]:
  """Headings and rows of (text, bold); published values, differences too."""
  headings: list[str] = []
  columns: list[list[tuple[str, bool]]] = []
  for index, column in enumerate(table.columns):
    cells = [row[index] for row in table.cells]
    headings.append(column.label)
    columns.append([(cell_text(cell, column), cell.bold) for cell in cells])
    if any(cell.published for cell in cells):
      headings.append(f'{column.label}, published')
      columns.append(
        [(cell.published or display.NONE, False) for cell in cells]
      )
    texts = [difference_text(cell, column) for cell in cells]
    if any(texts):
      headings.append(f'Δ {table.references[index]}')
      columns.append([(text or display.NONE, False) for text in texts])
  return headings, [list(row) for row in zip(*columns, strict=True)]


NUMBER_FIELDS = (
  'study',
  'table',
  'row',
  'column',
  'run',
  'value',
  'n',
  'note',
  'metric',
  'step',
  'checkpoint',
  'compute_dtype',
  'version',
  'revision',
)


def number_rows(table: Table, /, **where) -> list[dict[str, object]]:
  """Where each number of a table comes from, a row for each run of a cell.

  Args:
    table: of numbers.
    **where: further entries of every row, of `NUMBER_FIELDS`.
  """
  rows = []
  for label, cells in zip(table.rows, table.cells, strict=True):
    for column, cell in zip(table.columns, cells, strict=True):
      for run, found in cell.sources:
        row = where | run.provenance
        row |= {'row': label, 'column': column.label, 'run': run.name}
        row |= {'value': found.value, 'n': found.n, 'note': found.note}
        row |= {'metric': found.name}
        rows.append({field: row.get(field) for field in NUMBER_FIELDS})
  return rows


def numbers_to_csv(rows: Sequence[Mapping[str, object]]) -> str:
  """The rows of `number_rows`, of one table or of several."""
  output = io.StringIO()
  writer = csv.DictWriter(output, NUMBER_FIELDS, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return output.getvalue()


def to_markdown(table: Table, *, title: str) -> str:
  """GitHub's Markdown."""
  headings, rows = extended(table)
  lines = [
    f'**{title}.** {table.caption}',
    '',
    '| | ' + ' | '.join(headings) + ' |',
    '|---|' + '---:|' * len(headings),
  ]
  for label, row in zip(table.rows, rows, strict=True):
    cells = [f'**{text}**' if bold else text for text, bold in row]
    lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
  for note in table.notes:
    lines += ['', f'- {note}']
  tests = test_rows(table)
  if tests:
    lines += [
      '',
      'Welch’s t-test is of seeds alone; Holm’s correction is over the tests of a '
      'column.',
      '',
      f'| | {" | ".join(TEST_HEADINGS)} |',
      '|---|' + '---:|' * len(TEST_HEADINGS),
    ]
    lines += [f'| {" | ".join(row)} |' for row in tests]
  return '\n'.join(lines) + '\n'


_LATEX = {
  '\\': r'\textbackslash{}',
  '&': r'\&',
  '%': r'\%',
  '$': r'\$',
  '#': r'\#',
  '_': r'\_',
  '{': r'\{',
  '}': r'\}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
  '–': '--',
  '−': '$-$',
  '×': r'$\times$',
  'τ': r'$\tau$',
  'λ': r'$\lambda$',
  'Δ': r'$\Delta$',
  '²': '$^2$',
  '→': r'$\rightarrow$',
}


def _latex(text: str) -> str:
  return ''.join(_LATEX.get(letter, letter) for letter in text)


def to_latex(table: Table, *, title: str, label: str) -> str:
  """A LaTeX table, referred to as tab:<label>; needs the package booktabs."""
  headings, rows = extended(table)
  lines = [
    r'\begin{table}',
    r'\centering',
    rf'\caption{{{_latex(f"{title}. {table.caption}")}}}',
    rf'\label{{tab:{label}}}',
    rf'\begin{{tabular}}{{l{"r" * len(headings)}}}',
    r'\toprule',
    ' & '.join(['', *[_latex(heading) for heading in headings]]) + r' \\',
    r'\midrule',
  ]
  for row_label, row in zip(table.rows, rows, strict=True):
    cells = [
      rf'\textbf{{{_latex(text)}}}' if bold else _latex(text)
      for text, bold in row
    ]
    lines.append(' & '.join([_latex(row_label), *cells]) + r' \\')
  lines += [r'\bottomrule', r'\end{tabular}']
  lines += [
    rf'\par\smallskip\footnotesize {_latex(note)}' for note in table.notes
  ]
  return '\n'.join([*lines, r'\end{table}', ''])


def to_csv(table: Table) -> str:
  """One line a cell, with every number unrounded and as a fraction."""
  output = io.StringIO()
  writer = csv.writer(output, lineterminator='\n')
  fields = [
    'mean',
    'standard_error',
    'num_seeds',
    'num_planned',
    'num_examples',
    'undefined',
    'bold',
    'reference',
    'difference',
    'interval_low',
    'interval_high',
    'interval_over',
    'no_interval',
    'p_value',
    'p_holm',
    'no_test',
    'hedges_g',
    'published',
  ]
  writer.writerow(['row', 'group', 'column', *fields])
  for label, row in zip(table.rows, table.cells, strict=True):
    for column, cell, reference in zip(
      table.columns, row, table.references, strict=True
    ):
      values = vars(cell) | {
        'p_value': cell.test.p_value,
        'no_test': cell.test.reason,
        'hedges_g': cell.test.effect_size,
      }
      effect = cell.difference or Effect(math.nan)
      low, high = effect.interval or (None, None)
      values |= {
        'reference': reference if cell.difference else '',
        'difference': effect.estimate if cell.difference else None,
        'interval_low': low,
        'interval_high': high,
        'interval_over': effect.over,
        'no_interval': effect.reason,
      }
      texts = [_csv_text(values[field]) for field in fields]
      writer.writerow([label, column.group, column.label, *texts])
  return output.getvalue()


def _csv_text(value) -> str:
  if isinstance(value, tuple):
    return '; '.join(map(str, value))
  return '' if value is None else str(value)
