"""Fills a table: means over seeds, differences from softmax, notes."""

import dataclasses
from collections.abc import Callable, Sequence

from lossbench.report import display, looks, statistics
from lossbench.report.bootstrap import LEVEL, difference
from lossbench.report.looks import Key
from lossbench.report.published import published
from lossbench.report.records import (
  Measured,
  NotRun,
  RunRecords,
  StudyRecords,
)
from lossbench.report.samples import create_samples
from lossbench.report.tables.cells import Cell, Column, Table
from lossbench.runs.records import HIGHER, NEUTRAL

_BASELINE = Key('softmax')
# What of one column and row was measured.
_Pairs = list[tuple[RunRecords, Measured]]


def _column_runs(study, column, key) -> tuple[RunRecords, ...]:
  key = column.key_fn(key)
  return () if key is None else study.runs_of(column.group, key)


def _measured(column: Column, runs) -> _Pairs:
  pairs = [(run, column.read_fn(run)) for run in runs]
  return [(run, found) for run, found in pairs if found is not None]


def _best(means: dict[Key, float], direction: str) -> Key | None:
  if not means or direction == NEUTRAL:
    return None
  sign = 1 if direction == HIGHER else -1
  return max(means, key=lambda key: sign * means[key])


def _is_bold(samples, key: Key, best: Key | None) -> bool:
  if best is None or key not in samples:
    return False
  if key == best or samples[key].mean == samples[best].mean:
    return True
  return difference(samples[key], samples[best]).excludes_zero is False


def _column_cells(
  study: StudyRecords, column: Column, keys: Sequence[Key]
) -> tuple[list[Cell], Key | None]:
  """The cells of a column, and the row that the others are compared with."""
  runs = {key: _column_runs(study, column, key) for key in keys}
  measured = {key: _measured(column, runs[key]) for key in keys}
  defined = {
    key: [pair for pair in pairs if pair[1].value is not None]
    for key, pairs in measured.items()
  }
  samples = create_samples(defined)
  best = _best({k: s.mean for k, s in samples.items()}, column.direction)
  reference = _BASELINE if _BASELINE in samples else best
  differences, tests = {}, {}
  for key, sample in samples.items():
    if reference not in (None, key):
      differences[key] = difference(sample, samples[reference])
      tests[key] = statistics.welch_test(
        sample.values, samples[reference].values
      )
  corrected = statistics.holm([test.p_value for test in tests.values()])
  p_holm = dict(zip(tests, corrected, strict=True))
  cells = []
  for key in keys:
    mean, error = None, None
    if key in samples:
      mean, error = statistics.mean_and_standard_error(samples[key].values)
    row_key = column.key_fn(key)
    cells.append(
      Cell(
        mean=mean,
        standard_error=error,
        num_seeds=len(defined[key]),
        num_planned=len(runs[key]),
        num_examples=tuple(sorted({m.n for _, m in defined[key] if m.n})),
        undefined=_reasons(measured[key]),
        bold=_is_bold(samples, key, best),
        difference=differences.get(key),
        test=tests.get(key, statistics.Welch()),
        p_holm=p_holm.get(key),
        sources=tuple(measured[key]),
        published=published(
          runs[key][0].recipe, row_key.objective, column.metric
        )
        if row_key and runs[key] and not row_key.variant
        else '',
      )
    )
  return cells, reference


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
  by_column, references = zip(
    *(_column_cells(study, column, keys) for column in columns), strict=True
  )
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
  labels = tuple('' if key is None else row_label_fn(key) for key in references)
  notes = [*notes, *more]
  notes += _record_notes(study, columns, keys)
  for i in places:
    for column, cell in zip(columns, rows[i], strict=True):
      if cell.num_seeds < cell.num_planned:
        notes += _missing_notes(study, column, keys[i])
  table = Table(
    caption='',
    columns=tuple(columns),
    rows=tuple(row_label_fn(keys[i]) for i in places),
    cells=cells,
    references=labels,
    notes=(),
  )
  explained = (caption, _explain(table), sizes)
  return dataclasses.replace(
    table,
    caption=' '.join(filter(None, explained)),
    notes=tuple(dict.fromkeys([*notes, *_disagreements(table)])),
  )


def _explain(table: Table) -> str:
  """What the table's uncertainties are, for its caption."""
  texts = ['Mean ± standard error over seeds.']
  if any(cell.bold for row in table.cells for cell in row):
    texts.append(
      'Bold: the best, and whatever has 0 in the 95 % interval of its difference '
      'from the best.'
    )
  by_kind: dict[str, list[Column]] = {}
  for index, column in enumerate(table.columns):
    for cells in table.cells:
      effect = cells[index].difference
      if effect is not None and effect.over:
        by_kind.setdefault(effect.over, []).append(column)
  if by_kind:
    beside_single_seeds = len(by_kind) > 1 and by_kind.pop('examples', None)
    kinds = [
      f'over {kind}' + (f' ({_labels(alike)})' if len(by_kind) > 1 else '')
      for kind, alike in by_kind.items()
    ]
    if beside_single_seeds:
      kinds.append('over examples alone beside a single seed')
    texts.append(
      'Δ: the difference from the row named and its 95 % interval, by bootstrap '
      f'{"; ".join(kinds)}.'
    )
  return ' '.join(texts)


def _disagreements(table: Table) -> list[str]:
  """Where the test of seeds says otherwise than the interval."""
  places = [
    f'{label}, {column.label}'
    for label, cells in zip(table.rows, table.cells, strict=True)
    for column, cell in zip(table.columns, cells, strict=True)
    if cell.difference is not None
    and cell.difference.excludes_zero is not None
    and cell.test.p_value is not None
    and (cell.test.p_value <= LEVEL) != cell.difference.excludes_zero
  ]
  if not places:
    return []
  return [
    'Welch’s test and the interval say different things of '
    f'{"; ".join(places)}: the test asks whether other seeds would differ on '
    'these very examples, the interval whether other seeds would on other '
    'examples. Where it has examples of its own to estimate its width from, few '
    'seeds weigh less in it, and it may be the narrower one.'
  ]


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
    command = study.rerun_command
    if not study.scored:
      command += f' --only={only}'
    notes.append(
      f'{where}: seed {seeds} not run{f" ({why})" if why else ""}. {command}'
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
