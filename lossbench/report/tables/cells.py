"""A table as data: columns, cells with everything that is known of them."""

import dataclasses
from collections.abc import Callable

from lossbench.report import display
from lossbench.report.bootstrap import Effect
from lossbench.report.looks import Key
from lossbench.report.records import Measured, RunRecords
from lossbench.report.statistics import Welch


@dataclasses.dataclass(frozen=True)
class Column:
  """One measured quantity.

  Attributes:
    label: heading.
    group: the group whose runs it is of.
    read_fn: run -> what was measured, or None.
    is_percent: shown in percent.
    direction: 'higher' or 'lower' is better and the best is looked for; or
      'neutral'.
    key_fn: row -> key of the runs, for tables whose columns are variants too;
      None where a row has no such runs.
    metric: for published values, or ''.
  """

  label: str
  group: str
  read_fn: Callable[[RunRecords], Measured | None]
  is_percent: bool = False
  direction: str = 'neutral'
  key_fn: Callable[[Key], Key | None] = lambda key: key
  metric: str = ''


@dataclasses.dataclass(frozen=True)
class Cell:
  """One number of a table, with everything that is known of it.

  Attributes:
    mean: None if no run has it.
    standard_error: None for a single seed.
    num_seeds: that were averaged.
    num_planned: seeds of the study.
    num_examples: that it was measured on, of each seed's; ascending.
    undefined: why it was measured and is undefined, of each such reason.
    bold: the best, or its difference from the best has 0 in its interval.
    difference: mean minus that of the row that the column is compared with;
      None for that row itself.
    test: Welch's, against the same row.
    p_holm: of it, corrected for all tests of the column.
    published: the paper's value, or ''.
    sources: the runs that it is of, each with what it measured.
  """

  mean: float | None = None
  standard_error: float | None = None
  num_seeds: int = 0
  num_planned: int = 0
  num_examples: tuple[int, ...] = ()
  undefined: tuple[str, ...] = ()
  bold: bool = False
  difference: Effect | None = None
  test: Welch = dataclasses.field(default_factory=Welch)
  p_holm: float | None = None
  published: str = ''
  sources: tuple[tuple[RunRecords, Measured], ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, ready to be written.

  Attributes:
    caption: what the reader must know.
    columns: headings after the first.
    rows: labels of the rows.
    cells: [rows][columns].
    references: for each column, the row that the others are compared with, or
      '' if there is none.
    notes: of records; what is missing and how to make it.
  """

  caption: str
  columns: tuple[Column, ...]
  rows: tuple[str, ...]
  cells: tuple[tuple[Cell, ...], ...]
  references: tuple[str, ...]
  notes: tuple[str, ...]


def cell_text(cell: Cell, column: Column) -> str:
  """'77.01 ± 0.06', '(2 of 3)' where seeds lack, 'n/a: why', or 'not run'."""
  if cell.mean is not None:
    text = display.number(
      cell.mean, cell.standard_error, is_percent=column.is_percent
    )
    if cell.num_seeds < cell.num_planned:
      text += f' ({cell.num_seeds} of {cell.num_planned})'
    return text
  if cell.undefined:
    return f'n/a: {"; ".join(cell.undefined)}'
  return display.NOT_RUN if cell.num_planned else display.NONE


def sources_text(cell: Cell, column: Column) -> str:
  """'softmax/seed0: 77.0 (step 100, checkpoint 0123abcd)', a line a run."""
  lines = []
  for run, found in cell.sources:
    value = f'n/a ({display.reason(found.note)})'
    if found.value is not None:
      value = display.number(found.value, None, is_percent=column.is_percent)
    about = [
      f'{name} {run.provenance[name]}'
      for name in ('step', 'checkpoint')
      if name in run.provenance
    ]
    lines.append(f'{run.name}: {value} ({", ".join(about) or "unknown step"})')
  return '\n'.join(lines)


def difference_text(cell: Cell, column: Column) -> str:
  """'+0.9 [+0.7, +1.1]', or why there is no interval; '' of no difference."""
  if cell.difference is None:
    return ''
  return display.difference(
    cell.difference.estimate,
    cell.difference.interval,
    reason=cell.difference.reason,
    is_percent=column.is_percent,
  )


TEST_HEADINGS = (
  'column',
  'seeds',
  'difference and 95 % interval',
  'over',
  'Welch p',
  'Holm',
  'Hedges’ g',
  'seeds for 80 % power',
)


def test_rows(table: Table) -> list[tuple[str, ...]]:
  """Row label and what `TEST_HEADINGS` name, of all differences of a table."""
  rows = []
  for label, cells in zip(table.rows, table.cells, strict=True):
    for column, cell, reference in zip(
      table.columns, cells, table.references, strict=True
    ):
      if cell.difference is None:
        continue
      effect, test = cell.difference, cell.test
      p_value = display.NONE
      if test.p_value is not None:
        p_value = f'{test.p_value:.2g}'
      elif test.reason:
        p_value = f'{display.NONE} ({test.reason})'
      rows.append(
        (
          f'{label} − {reference}',
          column.label,
          str(cell.num_seeds),
          difference_text(cell, column),
          effect.over or display.NONE,
          p_value,
          display.NONE if cell.p_holm is None else f'{cell.p_holm:.2g}',
          display.NONE
          if test.effect_size is None
          else f'{test.effect_size:+.2f}',
          display.seeds(effect),
        )
      )
  return rows
