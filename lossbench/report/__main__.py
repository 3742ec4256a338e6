"""Writes a study's report: python -m lossbench.report --workdir=STUDY.

The paper's claims as Markdown and JSON, every table as Markdown, LaTeX and CSV,
every figure as PDF and PNG, numbers.csv, which says of every number what it comes
from, and report.html, which shows all of it and needs nothing else, into
STUDY/report/ or --output. Several --workdir are one page. With --claims the claims
alone, printed too. Reads the records of the runs alone: no JAX, no accelerator, and
no TensorFlow but for buckets.
"""

from lossbench import cli  # isort: split

import contextlib
import io
import pathlib
import sys

from absl import flags

import lossbench
from lossbench.runtime import storage

_DPI = 110


def write_report(
  workdir: str | pathlib.Path,
  *others: str | pathlib.Path,
  output: str | pathlib.Path | None = None,
) -> storage.Path:
  """Writes the report of a study, or of several on one page.

  Args:
    workdir: of the study; on a disk or in a bucket.
    *others: of further studies.
    output: the report's directory, likewise; None for <workdir>/report/, of
      several studies <workdir>/report_of_several/.

  Returns:
    The path of report.html.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, no run has a result, or a study is
      given twice.
    OSError: if the report cannot be written, or a bucket cannot be reached.
  """
  from lossbench.report import page
  from lossbench.report.tables import rendering

  with _opened((workdir, *others), output) as (studies, target):
    (target / 'tables').mkdir(parents=True, exist_ok=True)
    (target / 'figures').mkdir(parents=True, exist_ok=True)
    tables, numbers = _write_tables(studies, target / 'tables')
    (target / 'numbers.csv').write_text(rendering.numbers_to_csv(numbers))
    text = page.render(
      studies,
      version=lossbench.__version__,
      findings=_write_claims(studies, target),
      tables=tables,
      figures=_write_figures(studies, target / 'figures'),
    )
  path = target / 'report.html'
  path.write_text(text)
  return path


def write_claims(
  workdir: str | pathlib.Path,
  *others: str | pathlib.Path,
  output: str | pathlib.Path | None = None,
) -> storage.Path:
  """Writes what studies say on the paper's claims, as Markdown and JSON.

  Args:
    workdir: as of `write_report`.
    *others: as of `write_report`.
    output: as of `write_report`.

  Returns:
    The path of claims.md; claims.json lies beside it.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, no run has a result, or a study is
      given twice.
    OSError: if the claims cannot be written, or a bucket cannot be reached.
  """
  with _opened((workdir, *others), output) as (studies, target):
    target.mkdir(parents=True, exist_ok=True)
    _write_claims(studies, target)
  return target / 'claims.md'


@contextlib.contextmanager
def _opened(workdirs, output):
  """Studies by name and the report's directory; says what is damaged.

  A single study has the name '', for its numbers need no telling apart.
  """
  from lossbench.report import copies, reading

  name = 'report' if len(workdirs) == 1 else 'report_of_several'
  target = storage.as_path(workdirs[0]) / name
  if output is not None:
    target = storage.as_path(output)
  studies = {}
  with contextlib.ExitStack() as stack:
    for workdir in workdirs:
      path = stack.enter_context(copies.on_disk(workdir))
      study = reading.load_study(path, location=workdir)
      for problem in study.problems:
        print(problem, file=sys.stderr)
      if any(study.path == other.path for other in studies.values()):
        raise ValueError(f'--workdir={workdir} is given twice. Give it once.')
      # The same study at two places is two.
      name = study.name
      if name in studies:
        name = f'{study.name}-{len(studies) + 1}'
      studies[name] = study
    if len(studies) == 1:
      studies = {'': study}
    yield studies, target


def _write_claims(studies, target):
  from lossbench.report import claims
  from lossbench.report.claims import rendering

  findings = claims.evaluate_claims(studies)
  names = [name or study.name for name, study in studies.items()]
  (target / 'claims.md').write_text(rendering.to_markdown(findings))
  (target / 'claims.json').write_text(
    rendering.to_json(
      findings, study=', '.join(names), version=lossbench.__version__
    )
  )
  return findings


def _file_name(study_name: str, name: str) -> str:
  return f'{study_name}-{name}' if study_name else name


def _write_tables(studies, target):
  """Sections, and the rows of numbers.csv."""
  from lossbench.report import page
  from lossbench.report.tables import TABLES, rendering

  sections, numbers = [], []
  for spec in TABLES:
    parts = []
    for name, study in studies.items():
      part = _write_table(study, spec, target, name)
      parts.append(part)
      if part.table is not None:
        numbers += rendering.number_rows(
          part.table, study=name or study.name, table=spec.name
        )
    # Why one study lacks it is of no interest where another has it.
    made = [part for part in parts if part.table is not None]
    sections.append(page.TableSection(spec.title, tuple(made or parts)))
  return sections, numbers


def _write_table(study, spec, target, study_name):
  from lossbench.report import page, records
  from lossbench.report.tables import rendering

  name = _file_name(study_name, spec.name)
  files = [target / f'{name}.{suffix}' for suffix in ('md', 'tex', 'csv')]
  try:
    table = spec.build(study)
  except records.NotRun as reason:
    for file in files:  # of another day, when there were records
      file.unlink(missing_ok=True)
    return page.TablePart(study_name, reason=str(reason))
  texts = (
    rendering.to_markdown(table, title=spec.title),
    rendering.to_latex(table, title=spec.title, label=name),
    rendering.to_csv(table),
  )
  for file, text in zip(files, texts, strict=True):
    file.write_text(text)
  return page.TablePart(study_name, table)


def _write_figures(studies, target):
  from lossbench.report import page
  from lossbench.report.figures import FIGURES
  from lossbench.runtime.progress import Progress

  sections = []
  progress = Progress(0, len(FIGURES))
  for number, spec in enumerate(FIGURES, start=1):
    images = [
      _write_figure(study, group, spec, target, name)
      for name, study in studies.items()
      for group in study.groups()
    ]
    if len(studies) > 1:  # as of tables
      images = [i for i in images if i.png is not None] or images[:1]
    sections.append(page.FigureSection(spec.title, spec.caption, tuple(images)))
    _, position = progress.tick(number)
    # On terminals over the line before, whose rest the spaces wipe out.
    end = '    \r' if sys.stderr.isatty() else '\n'
    print(f'figure {position}', end=end, file=sys.stderr)
  return sections


def _write_figure(study, group, spec, target, study_name):
  from lossbench.report import page, records

  name = _file_name(study_name, f'{spec.name}-{group}')
  png_path = target / f'{name}.png'
  title = f'{study_name}: {group}' if study_name else group
  try:
    drawing = spec.draw(study, group)
  except records.NotRun as reason:
    for file in (png_path, png_path.with_suffix('.pdf')):
      file.unlink(missing_ok=True)
    return page.Image(title, reason=str(reason))
  # In memory first: a bucket's files cannot be sought in.
  png, pdf = io.BytesIO(), io.BytesIO()
  drawing.figure.savefig(png, format='png', dpi=_DPI)
  png_path.write_bytes(png.getvalue())
  # Without a date the same records give the same file.
  drawing.figure.savefig(pdf, format='pdf', metadata={'CreationDate': None})
  png_path.with_suffix('.pdf').write_bytes(pdf.getvalue())
  return page.Image(title, png.getvalue(), drawing.sizes)


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_multi_string(
    'workdir', None, 'Directory of the study; repeat for several on one page.'
  )
  flags.register_validator(
    'workdir',
    lambda paths: not paths or all(paths),
    'It is empty: name a directory.',
  )
  flags.DEFINE_bool(
    'claims', False, "Only test the paper's claims, and print the table."
  )
  flags.DEFINE_string(
    'output',
    None,
    "The report's directory. Default: report/ of the study, report_of_several/ of "
    'the first of several.',
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  if args.claims:
    path = write_claims(*args.workdir, output=args.output)
    print(path.read_text(), end='')
    return
  print(f'Wrote {write_report(*args.workdir, output=args.output)}')


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir'], extra='report')
