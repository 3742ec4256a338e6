"""Writes a study's report: python -m lossbench.report --workdir=STUDY.

The paper's claims as Markdown and JSON, every table as Markdown, LaTeX and CSV,
every figure as PDF and PNG, and report.html, which shows all of it and needs
nothing else, into STUDY/report/ or --output. With --claims the claims alone,
printed too. Reads the records of the runs alone: no JAX, no accelerator, and no
TensorFlow but for buckets.
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
  workdir: str | pathlib.Path, *, output: str | pathlib.Path | None = None
) -> storage.Path:
  """Writes the report of a study.

  Args:
    workdir: of the study; on a disk or in a bucket.
    output: the report's directory, likewise; None for <workdir>/report/.

  Returns:
    The path of report.html.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, or no run has a result.
    OSError: if the report cannot be written, or a bucket cannot be reached.
  """
  from lossbench.report import page

  with _opened(workdir, output) as (study, target):
    (target / 'tables').mkdir(parents=True, exist_ok=True)
    (target / 'figures').mkdir(parents=True, exist_ok=True)
    text = page.render(
      study,
      version=lossbench.__version__,
      findings=_write_claims(study, target),
      tables=_write_tables(study, target / 'tables'),
      figures=_write_figures(study, target / 'figures'),
    )
  path = target / 'report.html'
  path.write_text(text)
  return path


def write_claims(
  workdir: str | pathlib.Path, *, output: str | pathlib.Path | None = None
) -> storage.Path:
  """Writes what a study says on the paper's claims, as Markdown and JSON.

  Args:
    workdir: as of `write_report`.
    output: as of `write_report`.

  Returns:
    The path of claims.md; claims.json lies beside it.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, or no run has a result.
    OSError: if the claims cannot be written, or a bucket cannot be reached.
  """
  with _opened(workdir, output) as (study, target):
    target.mkdir(parents=True, exist_ok=True)
    _write_claims(study, target)
  return target / 'claims.md'


@contextlib.contextmanager
def _opened(workdir, output):
  """A study's records and the directory of its report; says what is damaged."""
  from lossbench.report import copies, reading

  if output is None:
    target = storage.as_path(workdir) / 'report'
  else:
    target = storage.as_path(output)
  with copies.on_disk(workdir) as path:
    study = reading.load_study(path, location=workdir)
    for problem in study.problems:
      print(problem, file=sys.stderr)
    yield study, target


def _write_claims(study, target):
  from lossbench.report import claims
  from lossbench.report.claims import rendering

  findings = claims.evaluate_claims(study)
  (target / 'claims.md').write_text(rendering.to_markdown(findings))
  (target / 'claims.json').write_text(
    rendering.to_json(findings, study=study.name, version=lossbench.__version__)
  )
  return findings


def _write_tables(study, target):
  from lossbench.report.tables import TABLES

  return [_write_table(study, spec, target) for spec in TABLES]


def _write_table(study, spec, target):
  from lossbench.report import page, records
  from lossbench.report.tables import rendering

  files = [target / f'{spec.name}.{suffix}' for suffix in ('md', 'tex', 'csv')]
  try:
    table = spec.build(study)
  except records.NotRun as reason:
    for file in files:  # of another day, when there were records
      file.unlink(missing_ok=True)
    return page.TableSection(spec.title, reason=str(reason))
  texts = (
    rendering.to_markdown(table, title=spec.title),
    rendering.to_latex(table, title=spec.title, label=spec.name),
    rendering.to_csv(table),
  )
  for file, text in zip(files, texts, strict=True):
    file.write_text(text)
  return page.TableSection(spec.title, table)


def _write_figures(study, target):
  from lossbench.report import page
  from lossbench.report.figures import FIGURES
  from lossbench.runtime.progress import Progress

  sections = []
  progress = Progress(0, len(FIGURES))
  for number, spec in enumerate(FIGURES, start=1):
    images = tuple(
      _write_figure(study, group, spec, target) for group in study.groups()
    )
    sections.append(page.FigureSection(spec.title, spec.caption, images))
    _, position = progress.tick(number)
    # On terminals over the line before, whose rest the spaces wipe out.
    end = '    \r' if sys.stderr.isatty() else '\n'
    print(f'figure {position}', end=end, file=sys.stderr)
  return sections


def _write_figure(study, group, spec, target):
  from lossbench.report import page, records

  png_path = target / f'{spec.name}-{group}.png'
  try:
    drawing = spec.draw(study, group)
  except records.NotRun as reason:
    for file in (png_path, png_path.with_suffix('.pdf')):
      file.unlink(missing_ok=True)
    return page.Image(group, reason=str(reason))
  # In memory first: a bucket's files cannot be sought in.
  png, pdf = io.BytesIO(), io.BytesIO()
  drawing.figure.savefig(png, format='png', dpi=_DPI)
  png_path.write_bytes(png.getvalue())
  # Without a date the same records give the same file.
  drawing.figure.savefig(pdf, format='pdf', metadata={'CreationDate': None})
  png_path.with_suffix('.pdf').write_bytes(pdf.getvalue())
  return page.Image(group, png.getvalue(), drawing.sizes)


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  cli.define_workdir('Directory of the study.')
  flags.DEFINE_bool(
    'claims', False, "Only test the paper's claims, and print the table."
  )
  flags.DEFINE_string(
    'output', None, "The report's directory. Default: report/ of the study."
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  if args.claims:
    path = write_claims(args.workdir, output=args.output)
    print(path.read_text(), end='')
    return
  print(f'Wrote {write_report(args.workdir, output=args.output)}')


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir'], extra='report')
