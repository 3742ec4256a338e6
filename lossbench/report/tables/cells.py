"""A table as data: columns, cells with everything that is known of them."""

import dataclasses
from collections.abc import Callable

from lossbench.report import display
from lossbench.report.looks import Key
from lossbench.report.records import Measured, RunRecords


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
    on_examples: top-1 accuracy on the own test split, whose examples can be
      resampled.
  """

  label: str
  group: str
  read_fn: Callable[[RunRecords], Measured | None]
  is_percent: bool = False
  direction: str = 'neutral'
  key_fn: Callable[[Key], Key | None] = lambda key: key
  metric: str = ''
  on_examples: bool = False


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
    bold: the best, or not significantly different from it.
    p_value: Welch's t-test against the best; None for the best itself and
      where there is no test.
    p_holm: corrected for all tests of the column.
    no_test: why there is no test, or ''.
    difference: mean minus the best's.
    interval: 95 % of `difference`, paired bootstrap over examples, or None.
    published: the paper's value, or ''.
  """

  mean: float | None = None
  standard_error: float | None = None
  num_seeds: int = 0
  num_planned: int = 0
  num_examples: tuple[int, ...] = ()
  undefined: tuple[str, ...] = ()
  bold: bool = False
  p_value: float | None = None
  p_holm: float | None = None
  no_test: str = ''
  difference: float | None = None
  interval: tuple[float, float] | None = None
  published: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, ready to be written.

  Attributes:
    caption: what the reader must know.
    columns: headings after the first.
    rows: labels of the rows.
    cells: [rows][columns].
    notes: of records; what is missing and how to make it.
  """

  caption: str
  columns: tuple[Column, ...]
  rows: tuple[str, ...]
  cells: tuple[tuple[Cell, ...], ...]
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


def statistics_text(cell: Cell, column: Column) -> str:
  """'p = 0.012, Holm 0.036, Δ [−0.5, 0.1]'; '' of the best itself."""
  parts = []
  if cell.p_value is not None:
    parts.append(f'p = {cell.p_value:.2g}')
    parts.append(f'Holm {cell.p_holm:.2g}')
  elif cell.no_test:
    parts.append(f'p {display.NONE} ({cell.no_test})')
  if cell.interval is not None:
    scale = 100 if column.is_percent else 1
    low, high = (scale * end for end in cell.interval)
    parts.append(f'Δ [{low:+.2f}, {high:+.2f}]')
  return ', '.join(parts)
