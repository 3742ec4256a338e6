"""The report as one page that needs nothing else."""

import base64
import html
from collections.abc import Sequence

from lossbench.report import tables
from lossbench.report.records import StudyRecords

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem 2rem;
  max-width: 76rem; color: #222; background: #fff; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
h3 { margin: 1.6rem 0 0.2rem; }
.caption, .notes { color: #555; max-width: 60rem; }
.notrun { color: #8a4b00; background: #fff6e5; padding: 0.3rem 0.6rem;
  border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.6rem 0; font-size: 0.88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1.5px solid #222; white-space: normal; }
thead { border-top: 1.5px solid #222; } table { border-bottom: 1.5px solid #222; }
tbody tr:hover { background: #f4f6fa; }
figure { margin: 0.6rem 0 1.6rem; } figure img { max-width: 100%; }
code { background: #f3f3f3; padding: 0.1rem 0.3rem; border-radius: 3px;
  overflow-wrap: anywhere; }
nav a { margin-right: 1rem; } .failed { color: #a40000; }
details { margin: 0.4rem 0; }
td.command { text-align: left; white-space: normal; }
"""


def _text(value) -> str:
  return html.escape(str(value))


def _anchor(title: str) -> str:
  words = ''.join(c if c.isalnum() else ' ' for c in title.lower()).split()
  return '-'.join(words)


def table_section(title: str, table: tables.Table | None, reason: str) -> str:
  """A table, or why it is not there."""
  head = f'<h3 id="{_anchor(title)}">{_text(title)}</h3>'
  if table is None:
    return f'{head}<p class="notrun">{_text(reason)}</p>'
  headings, rows = tables.extended(table)
  lines = [head, f'<p class="caption">{_text(table.caption)}</p>']
  lines.append('<div class="scroll"><table><thead><tr><th></th>')
  lines += [f'<th>{_text(heading)}</th>' for heading in headings]
  lines.append('</tr></thead><tbody>')
  for label, row in zip(table.rows, rows, strict=True):
    cells = ''.join(
      f'<td><b>{_text(text)}</b></td>' if bold else f'<td>{_text(text)}</td>'
      for text, bold in row
    )
    lines.append(f'<tr><td>{_text(label)}</td>{cells}</tr>')
  lines.append('</tbody></table></div>')
  lines.append(_statistics(table))
  if table.notes:
    notes = ''.join(f'<li>{_text(note)}</li>' for note in table.notes)
    lines.append(f'<ul class="notes">{notes}</ul>')
  return ''.join(lines)


def _statistics(table: tables.Table) -> str:
  """All tests of a table, folded away."""
  rows = []
  for label, cells in zip(table.rows, table.cells, strict=True):
    for column, cell in zip(table.columns, cells, strict=True):
      text = tables.statistics_text(cell, column)
      if text:
        difference = cell.difference * (100 if column.is_percent else 1)
        rows.append(
          f'<tr><td>{_text(label)}</td><td>{_text(column.label)}</td>'
          f'<td>{cell.num_seeds}</td><td>{difference:+.3f}</td>'
          f'<td>{_text(text)}</td></tr>'
        )
  if not rows:
    return ''
  return (
    '<details><summary>Tests against the best of each column</summary>'
    '<div class="scroll"><table><thead><tr><th></th><th>column</th>'
    '<th>seeds</th><th>difference</th><th>Welch, Holm, bootstrap</th></tr>'
    f'</thead><tbody>{"".join(rows)}</tbody></table></div></details>'
  )


def figure_section(
  title: str, caption: str, images: Sequence[tuple[str, bytes | None, str]]
) -> str:
  """A figure for each group: (group, PNG, '') or (group, None, reason)."""
  lines = [f'<h3 id="{_anchor(title)}">{_text(title)}</h3>']
  lines.append(f'<p class="caption">{_text(caption)}</p>')
  for group, png, reason in images:
    if png is None:
      lines.append(f'<p class="notrun">{_text(group)}: {_text(reason)}</p>')
      continue
    data = base64.b64encode(png).decode()
    lines.append(
      f'<figure><figcaption>{_text(group)}</figcaption>'
      f'<img alt="{_text(title)}, {_text(group)}" '
      f'src="data:image/png;base64,{data}"></figure>'
    )
  return ''.join(lines)


def _run_list(study: StudyRecords) -> str:
  rows = []
  for run in study.runs:
    accuracy = run.value('top1_accuracy')
    state = f'{accuracy:.4f}' if accuracy is not None else 'not run'
    if 'evaluate' not in run.commands and run.holdout_accuracy is not None:
      state = f'{run.holdout_accuracy:.4f} (holdout)'
    if run.error:
      state = f'<span class="failed">failed: {_text(run.error)}</span>'
    commands = ''.join(
      f'<div><code>{_text(command)}</code></div>'
      for command in run.commands.values()
    )
    rows.append(
      f'<tr><td>{_text(run.name)}</td><td>{state}</td>'
      f'<td class="command"><details><summary>commands</summary>{commands}'
      '</details></td></tr>'
    )
  comparisons = ''.join(
    f'<div><code>{_text(command)}</code></div>'
    for command in study.comparison_commands.values()
  )
  return (
    '<h2 id="runs">Runs</h2><p>Everything at once: '
    f'<code>{_text(study.rerun_command)}</code></p>'
    '<div class="scroll"><table><thead><tr><th>run</th><th>top-1 accuracy</th>'
    f'<th></th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    + (f'<p>Comparisons:</p>{comparisons}' if comparisons else '')
  )


def page(
  study: StudyRecords,
  *,
  version: str,
  table_sections: Sequence[str],
  figure_sections: Sequence[str],
) -> str:
  """The whole page."""
  problems = ''
  if study.problems:
    items = ''.join(f'<li>{_text(problem)}</li>' for problem in study.problems)
    problems = f'<div class="notrun">Left out:<ul>{items}</ul></div>'
  done = sum(
    not run.metrics.empty
    or ('evaluate' not in run.commands and bool(run.history))
    for run in study.runs
  )
  return (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
    f'<title>{_text(study.title)}</title><style>{_STYLE}</style></head><body>'
    f'<h1>{_text(study.title)}</h1>'
    f'<p class="caption">{done} of {len(study.runs)} runs have results; '
    f'{_text(study.config)}, lossbench {_text(version)}.</p>'
    '<nav><a href="#tables">Tables</a><a href="#figures">Figures</a>'
    f'<a href="#runs">Runs</a></nav>{problems}'
    f'<h2 id="tables">Tables</h2>{"".join(table_sections)}'
    f'<h2 id="figures">Figures</h2>{"".join(figure_sections)}'
    f'{_run_list(study)}</body></html>\n'
  )
