"""The paper's tables: what is in them, and as Markdown, LaTeX and CSV."""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np

from lossbench.report import display, statistics
from lossbench.report.published import published
from lossbench.report.records import NotRun, RunRecords, StudyRecords

Key = tuple[str, str]  # (objective, variant)


@dataclasses.dataclass(frozen=True)
class Column:
  """One measured quantity.

  Attributes:
    label: heading.
    recipe: the group whose runs it is of.
    value_fn: run -> number, or None if it was not measured.
    is_percent: shown in percent.
    direction: 'higher' or 'lower' is better and the best is looked for; or
      'neutral'.
    key_fn: row -> (objective, variant) of the runs, for tables whose columns
      are variants too.
    metric: for published values, or ''.
    on_examples: top-1 accuracy on the own test split, whose examples can be
      resampled.
  """

  label: str
  recipe: str
  value_fn: Callable[[RunRecords], float | None]
  is_percent: bool = False
  direction: str = 'neutral'
  key_fn: Callable[[Key], Key] = lambda key: key
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
    bold: the best, or not significantly different from it.
    p_value: Welch's t-test against the best; None for the best itself and
      where there are too few seeds.
    p_holm: corrected for all tests of the column.
    difference: mean minus the best's.
    interval: 95 % of `difference`, paired bootstrap over examples, or None.
    published: the paper's value, or ''.
  """

  mean: float | None = None
  standard_error: float | None = None
  num_seeds: int = 0
  num_planned: int = 0
  bold: bool = False
  p_value: float | None = None
  p_holm: float | None = None
  difference: float | None = None
  interval: tuple[float, float] | None = None
  published: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, ready to be written.

  Attributes:
    name: of its files.
    title: e.g. 'Table 1: accuracy'.
    caption: what the reader must know.
    columns: headings after the first.
    rows: labels of the rows.
    cells: [rows][columns].
    notes: what is missing and how to make it.
  """

  name: str
  title: str
  caption: str
  columns: tuple[Column, ...]
  rows: tuple[str, ...]
  cells: tuple[tuple[Cell, ...], ...]
  notes: tuple[str, ...]


def _example_scores(
  runs: Sequence[RunRecords],
) -> tuple[np.ndarray, np.ndarray] | None:
  """Ids [N] and share of the seeds that are right [N]; None if unknown."""
  scores, ids = [], None
  for run in runs:
    found = run.correct
    if found is None or (ids is not None and not np.array_equal(found[0], ids)):
      return None
    ids = found[0]
    scores.append(found[1])
  return (ids, np.mean(scores, axis=0)) if scores else None


def _column_cells(
  study: StudyRecords, column: Column, keys: Sequence[Key]
) -> list[Cell]:
  runs = [study.runs_of(column.recipe, column.key_fn(key)) for key in keys]
  measured = [
    [
      (run, value)
      for run in of_key
      if (value := column.value_fn(run)) is not None
    ]
    for of_key in runs
  ]
  values = [[value for _, value in pairs] for pairs in measured]
  means = [
    statistics.mean_and_standard_error(v) if v else (None, None) for v in values
  ]
  known = [i for i, (mean, _) in enumerate(means) if mean is not None]
  best = None
  if known and column.direction != 'neutral':
    sign = 1 if column.direction == 'higher' else -1
    best = max(known, key=lambda i: sign * means[i][0])
  p_values = [
    statistics.welch_p_value(v, values[best])
    if best is not None and i != best and v
    else None
    for i, v in enumerate(values)
  ]
  corrected = statistics.holm(p_values)
  scores = [None] * len(keys)
  if column.on_examples and best is not None:
    scores = [_example_scores([run for run, _ in pairs]) for pairs in measured]
  cells = []
  for i, (mean, error) in enumerate(means):
    interval = None
    if best not in (None, i) and scores[i] and scores[best]:
      (ids, ours), (best_ids, theirs) = scores[i], scores[best]
      if np.array_equal(ids, best_ids):
        interval = statistics.paired_bootstrap(ours, theirs)
    p = p_values[i]
    cells.append(
      Cell(
        mean=mean,
        standard_error=error,
        num_seeds=len(values[i]),
        num_planned=len(runs[i]),
        bold=mean is not None
        and best is not None
        and (i == best or (p is not None and p > 0.05)),
        p_value=p,
        p_holm=corrected[i],
        difference=(
          mean - means[best][0]
          if best not in (None, i) and mean is not None
          else None
        ),
        interval=interval,
        published=published(
          column.recipe, column.key_fn(keys[i])[0], column.metric
        ),
      )
    )
  return cells


def build_table(
  study: StudyRecords,
  name: str,
  title: str,
  caption: str,
  columns: Sequence[Column],
  keys: Sequence[Key],
  *,
  sort: bool = True,
  row_label_fn: Callable[[Key], str] = display.label,
) -> Table:
  """Fills a table.

  Args:
    study: the records.
    name: of its files.
    title: its heading.
    caption: its explanation.
    columns: its columns.
    keys: its rows.
    sort: by the first column, best first (the paper lists the best last).
    row_label_fn: key -> label of the row.

  Raises:
    NotRun: if no cell has a value.
  """
  by_column = [_column_cells(study, column, keys) for column in columns]
  rows = list(zip(*by_column, strict=True))
  if not any(cell.mean is not None for row in rows for cell in row):
    raise NotRun(f'not run: {study.rerun_command}')
  places = list(range(len(keys)))
  if sort and columns[0].direction != 'neutral':
    sign = 1 if columns[0].direction == 'higher' else -1
    places.sort(
      key=lambda i: (
        rows[i][0].mean is None,
        0 if rows[i][0].mean is None else -sign * rows[i][0].mean,
      )
    )
  notes = []
  for i in places:
    for column, cell in zip(columns, rows[i], strict=True):
      if cell.num_planned and cell.num_seeds < cell.num_planned:
        key = column.key_fn(keys[i])
        runs = study.runs_of(column.recipe, key)
        lacking = [run for run in runs if column.value_fn(run) is None]
        notes.append(_missing_note(study, column.recipe, key, lacking))
  return Table(
    name=name,
    title=title,
    caption=caption,
    columns=tuple(columns),
    rows=tuple(row_label_fn(keys[i]) for i in places),
    cells=tuple(rows[i] for i in places),
    notes=tuple(dict.fromkeys(notes)),
  )


def _missing_note(study, recipe, key, lacking) -> str:
  errors = {run.error for run in lacking if run.error}
  why = f' ({"; ".join(sorted(errors))})' if errors else ''
  seeds = ', '.join(str(run.seed) for run in lacking)
  only = lacking[0].name.rpartition('/')[0] + '/'
  return (
    f'{recipe}, {display.label(key)}: seed {seeds} not run{why}. '
    f'{study.rerun_command} --only={only}'
  )


def cell_text(cell: Cell, column: Column) -> str:
  """'77.01 ± 0.06', with '(2 of 3)' where seeds are missing, or 'not run'."""
  if cell.mean is None:
    return display.NOT_RUN if cell.num_planned else '–'
  text = display.number(
    cell.mean, cell.standard_error, is_percent=column.is_percent
  )
  if cell.num_seeds < cell.num_planned:
    text += f' ({cell.num_seeds} of {cell.num_planned})'
  return text


def statistics_text(cell: Cell, column: Column) -> str:
  """'p = 0.012, Holm 0.036, Δ [−0.5, 0.1]'; '' of the best itself."""
  parts = []
  if cell.p_value is not None:
    parts.append(f'p = {cell.p_value:.2g}')
    parts.append(f'Holm {cell.p_holm:.2g}')
  if cell.interval is not None:
    scale = 100 if column.is_percent else 1
    low, high = (scale * end for end in cell.interval)
    parts.append(f'Δ [{low:+.2f}, {high:+.2f}]')
  return ', '.join(parts)


def extended(table: Table) -> tuple[list[str], list[list[tuple[str, bool]]]]:
  """Headings and rows of (text, bold), published and test columns included."""
  headings: list[str] = []
  columns: list[list[tuple[str, bool]]] = []
  for index, column in enumerate(table.columns):
    cells = [row[index] for row in table.cells]
    headings.append(column.label)
    columns.append([(cell_text(cell, column), cell.bold) for cell in cells])
    if any(cell.published for cell in cells):
      headings.append(f'{column.label}, published')
      columns.append([(cell.published or '–', False) for cell in cells])
    if column.on_examples:
      texts = [statistics_text(cell, column) for cell in cells]
      if any(texts):
        headings.append('against the best')
        columns.append([(text or '–', False) for text in texts])
  return headings, [list(row) for row in zip(*columns, strict=True)]


def to_markdown(table: Table) -> str:
  """GitHub's Markdown."""
  headings, rows = extended(table)
  lines = [
    f'**{table.title}.** {table.caption}',
    '',
    '| | ' + ' | '.join(headings) + ' |',
    '|---|' + '---:|' * len(headings),
  ]
  for label, row in zip(table.rows, rows, strict=True):
    cells = [f'**{text}**' if bold else text for text, bold in row]
    lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
  for note in table.notes:
    lines += ['', f'- {note}']
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


def to_latex(table: Table) -> str:
  """A LaTeX table; needs the package booktabs."""
  headings, rows = extended(table)
  lines = [
    r'\begin{table}',
    r'\centering',
    rf'\caption{{{_latex(f"{table.title}. {table.caption}")}}}',
    rf'\label{{tab:{table.name}}}',
    rf'\begin{{tabular}}{{l{"r" * len(headings)}}}',
    r'\toprule',
    ' & '.join(['', *[_latex(heading) for heading in headings]]) + r' \\',
    r'\midrule',
  ]
  for label, row in zip(table.rows, rows, strict=True):
    cells = [
      rf'\textbf{{{_latex(text)}}}' if bold else _latex(text)
      for text, bold in row
    ]
    lines.append(' & '.join([_latex(label), *cells]) + r' \\')
  return '\n'.join(
    [*lines, r'\bottomrule', r'\end{tabular}', r'\end{table}', '']
  )


def to_csv(table: Table) -> str:
  """One line a cell, with every number unrounded and as a fraction."""
  output = io.StringIO()
  writer = csv.writer(output, lineterminator='\n')
  fields = [
    'mean',
    'standard_error',
    'num_seeds',
    'num_planned',
    'bold',
    'p_value',
    'p_holm',
    'difference',
    'interval_low',
    'interval_high',
    'published',
  ]
  writer.writerow(['row', 'recipe', 'column', *fields])
  for label, row in zip(table.rows, table.cells, strict=True):
    for column, cell in zip(table.columns, row, strict=True):
      values = vars(cell) | dict(
        zip(
          ('interval_low', 'interval_high'),
          cell.interval or (None, None),
          strict=True,
        )
      )
      numbers = [values[field] for field in fields]
      writer.writerow(
        [label, column.recipe, column.label]
        + ['' if value is None else value for value in numbers]
      )
  return output.getvalue()
