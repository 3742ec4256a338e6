"""Fills a table: means over seeds, tests against the best, notes."""

from collections.abc import Callable, Sequence

import numpy as np

from lossbench.report import display, looks, statistics
from lossbench.report.looks import Key
from lossbench.report.published import published
from lossbench.report.records import (
  Measured,
  NotRun,
  RunRecords,
  StudyRecords,
)
from lossbench.report.tables.cells import Cell, Column, Table

# What of one column and row was measured.
_Pairs = list[tuple[RunRecords, Measured]]


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


def _interval(ours: _Pairs, best: _Pairs) -> tuple[float, float] | None:
  """Of the difference from the best, where both saw the same examples."""
  scores = [
    _example_scores([run for run, _ in pairs]) for pairs in (ours, best)
  ]
  if None in scores or not np.array_equal(scores[0][0], scores[1][0]):
    return None
  return statistics.paired_bootstrap(scores[0][1], scores[1][1])


def _column_runs(study, column, key) -> tuple[RunRecords, ...]:
  key = column.key_fn(key)
  return () if key is None else study.runs_of(column.group, key)


def _measured(column: Column, runs) -> _Pairs:
  pairs = [(run, column.read_fn(run)) for run in runs]
  return [(run, found) for run, found in pairs if found is not None]


def _column_cells(
  study: StudyRecords, column: Column, keys: Sequence[Key]
) -> list[Cell]:
  runs = [_column_runs(study, column, key) for key in keys]
  measured = [_measured(column, of_key) for of_key in runs]
  defined = [[p for p in pairs if p[1].value is not None] for pairs in measured]
  values = [[found.value for _, found in pairs] for pairs in defined]
  means = [
    statistics.mean_and_standard_error(v) if v else (None, None) for v in values
  ]
  known = [i for i, (mean, _) in enumerate(means) if mean is not None]
  best = None
  if known and column.direction != 'neutral':
    sign = 1 if column.direction == 'higher' else -1
    best = max(known, key=lambda i: sign * means[i][0])
  tests = [
    statistics.welch_test(v, values[best])
    if best is not None and i != best and v
    else statistics.Test()
    for i, v in enumerate(values)
  ]
  corrected = statistics.holm([test.p_value for test in tests])
  cells = []
  for i, (mean, error) in enumerate(means):
    compared = best not in (None, i) and mean is not None
    p = tests[i].p_value
    row_key = column.key_fn(keys[i])
    cells.append(
      Cell(
        mean=mean,
        standard_error=error,
        num_seeds=len(values[i]),
        num_planned=len(runs[i]),
        num_examples=tuple(sorted({m.n for _, m in defined[i] if m.n})),
        undefined=_reasons(measured[i]),
        bold=i == best
        or (compared and (mean == means[best][0] or (p or 0) > 0.05)),
        p_value=p,
        p_holm=corrected[i],
        no_test=tests[i].reason,
        difference=mean - means[best][0] if compared else None,
        interval=_interval(defined[i], defined[best])
        if compared and column.on_examples
        else None,
        published=published(
          column.group, row_key.objective if row_key else '', column.metric
        ),
      )
    )
  return cells


def _reasons(pairs: _Pairs) -> tuple[str, ...]:
  notes = [display.reason(m.note) for _, m in pairs if m.value is None]
  return tuple(dict.fromkeys(notes))


def build_table(
  study: StudyRecords,
  caption: str,
  columns: Sequence[Column],
  keys: Sequence[Key],
  *,
  sort: bool = True,
  row_label_fn: Callable[[Key], str] = looks.label,
  notes: Sequence[str] = (),
) -> Table:
  """Fills a table.

  Args:
    study: the records.
    caption: its explanation; numbers of seeds and examples are added.
    columns: its columns.
    keys: its rows.
    sort: by the first column, best first (the paper lists the best last).
    row_label_fn: key -> label of the row.
    notes: to be shown below it, before those of records and runs.

  Raises:
    NotRun: if no cell was measured.
  """
  by_column = [_column_cells(study, column, keys) for column in columns]
  rows = list(zip(*by_column, strict=True))
  if not any(cell.num_seeds or cell.undefined for row in rows for cell in row):
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
  cells = tuple(rows[i] for i in places)
  sizes, more = _sizes(columns, cells)
  notes = [*notes, *more]
  notes += _record_notes(study, columns, keys)
  for i in places:
    for column, cell in zip(columns, rows[i], strict=True):
      if cell.num_seeds < cell.num_planned:
        notes += _missing_notes(study, column, keys[i])
  return Table(
    caption=f'{caption} {sizes}'.strip(),
    columns=tuple(columns),
    rows=tuple(row_label_fn(keys[i]) for i in places),
    cells=cells,
    notes=tuple(dict.fromkeys(notes)),
  )


def _sizes(columns, cells) -> tuple[str, list[str]]:
  """Numbers of seeds and examples: for the caption, and notes if they differ."""
  seeds = [cell.num_seeds for row in cells for cell in row if cell.num_seeds]
  parts, notes = [], []
  if seeds:
    parts.append(
      f'{display.span(seeds)} seed{"s" if max(seeds) > 1 else ""} each'
    )
  by_size: dict[str, list[Column]] = {}
  for index, column in enumerate(columns):
    sizes = {n for row in cells for n in row[index].num_examples}
    if sizes:
      by_size.setdefault(display.span(sizes), []).append(column)
  groups = {
    size: tuple(dict.fromkeys(column.group for column in alike))
    for size, alike in by_size.items()
  }
  if len(groups) == 1:
    parts.append(f'{next(iter(groups))} examples')
  elif len({g for group in groups.values() for g in group}) == sum(
    map(len, groups.values())
  ):  # every group has one number of its own
    texts = [f'{size} ({", ".join(group)})' for size, group in groups.items()]
    parts.append(f'{", ".join(texts)} examples')
  else:
    notes = [
      f'{_labels(alike)}: {size} examples' for size, alike in by_size.items()
    ]
  return f'{", ".join(parts)}.' if parts else '', notes


def _labels(columns: Sequence[Column]) -> str:
  return '; '.join(dict.fromkeys(column.label for column in columns))


def _record_notes(study, columns: Sequence[Column], keys) -> list[str]:
  """What the records of numbers that are shown have to say."""
  by_note: dict[str, list[Column]] = {}
  for column in columns:
    for key in keys:
      for _, found in _measured(column, _column_runs(study, column, key)):
        if found.note and found.value is not None:
          by_note.setdefault(found.note, []).append(column)
  return [f'{_labels(noted)}: {note}' for note, noted in by_note.items()]


def _missing_notes(study, column: Column, key: Key) -> list[str]:
  """Which seeds were not run, and which are undefined beside others."""
  runs = _column_runs(study, column, key)
  where = f'{column.group}, {looks.label(column.key_fn(key))}'
  notes = []
  lacking = [run for run in runs if column.read_fn(run) is None]
  if lacking:
    errors = [run.error or run.left_out for run in lacking]
    why = '; '.join(sorted({error for error in errors if error}))
    seeds = ', '.join(str(run.seed) for run in lacking)
    only = lacking[0].name.rpartition('/')[0] + '/'
    notes.append(
      f'{where}: seed {seeds} not run{f" ({why})" if why else ""}. '
      f'{study.rerun_command} --only={only}'
    )
  undefined = {}
  for run, found in _measured(column, runs):
    if found.value is None:
      reason = display.reason(found.note)
      undefined.setdefault(reason, []).append(str(run.seed))
  if len(lacking) + sum(map(len, undefined.values())) < len(runs):
    notes += [
      f'{where}, {column.label}: seed {", ".join(seeds)} n/a: {reason}'
      for reason, seeds in undefined.items()
    ]
  return notes
