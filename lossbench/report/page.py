"""The report as one page that needs nothing else."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence

import jinja2

from lossbench.report import display
from lossbench.report.claims import rendering as claims_rendering
from lossbench.report.claims.claim import Finding
from lossbench.report.records import RunRecords, StudyRecords
from lossbench.report.tables.cells import TEST_HEADINGS, Table, test_rows
from lossbench.report.tables.rendering import extended, titles


@dataclasses.dataclass(frozen=True)
class TablePart:
  """A table of one study, or why it is not there; a single study has no name."""

  study: str
  table: Table | None = None
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class TableSection:
  """A table of all studies that have it."""

  title: str
  parts: tuple[TablePart, ...]


@dataclasses.dataclass(frozen=True)
class Image:
  """A figure of one group: PNG and numbers of seeds and examples, or why not."""

  group: str
  png: bytes | None = None
  sizes: str = ''
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class FigureSection:
  """A figure with an image for each group."""

  title: str
  caption: str
  images: tuple[Image, ...]


def _anchor(title: str) -> str:
  words = ''.join(c if c.isalnum() else ' ' for c in title.lower()).split()
  return '-'.join(words)


def _state(run: RunRecords) -> str:
  """Accuracy of a run in the list of all."""
  if 'evaluate' not in run.commands:
    found, where = run.holdout_accuracy, ' (holdout)'
  else:
    found, where = run.measured('top1_accuracy'), ''
  if found is None:
    return display.NOT_RUN
  if found.value is None:
    return f'n/a: {display.reason(found.note)}'
  return f'{found.value:.4f}{where}'


def render(
  studies: Mapping[str, StudyRecords],
  *,
  version: str,
  findings: Sequence[Finding],
  tables: Sequence[TableSection],
  figures: Sequence[FigureSection],
) -> str:
  """The whole page, as HTML."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('lossbench.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'anchor': _anchor,
    'base64': lambda data: base64.b64encode(data).decode(),
    'extended': extended,
    'state': _state,
    'tests': test_rows,
    'titles': titles,
  }
  environment.globals |= {
    'claim_caption': claims_rendering.CAPTION,
    'claim_headings': list(claims_rendering.HEADINGS),
    'test_headings': list(TEST_HEADINGS),
  }
  return environment.get_template('report.html').render(
    title=' · '.join(study.title for study in studies.values()),
    studies=studies,
    problems=[p for study in studies.values() for p in study.problems],
    version=version,
    claims=claims_rendering.rows(findings),
    tables=tables,
    figures=figures,
  )
