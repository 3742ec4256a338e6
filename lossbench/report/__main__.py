"""Writes a study's report: python -m lossbench.report --workdir=STUDY.

The paper's claims as Markdown and JSON, every table as Markdown, LaTeX and CSV,
every figure as PDF and PNG, and report.html, which shows all of it and needs
nothing else, into STUDY/report/. With --claims the claims alone, printed too.
Reads the records of the runs alone: no JAX, no TensorFlow, no accelerator.
"""

import io
import pathlib
import sys

from absl import flags

import lossbench
from lossbench import cli

_DPI = 110


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes the report of a study into <workdir>/report/.

  Args:
    workdir: of the study.

  Returns:
    The path of report.html.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, or no run has a result.
    OSError: if the report cannot be written.
  """
  from lossbench.report import page, reading
  from lossbench.report.figures import FIGURES
  from lossbench.report.tables import TABLES
  from lossbench.runtime.progress import Progress

  study = reading.load_study(workdir)
  target = study.path / 'report'
  (target / 'tables').mkdir(parents=True, exist_ok=True)
  (target / 'figures').mkdir(parents=True, exist_ok=True)
  for problem in study.problems:
    print(problem, file=sys.stderr)
  findings = _write_claims(study, target)
  table_sections = [
    _write_table(study, spec, target / 'tables') for spec in TABLES
  ]
  figure_sections = []
  progress = Progress(0, len(FIGURES))
  for number, spec in enumerate(FIGURES, start=1):
    images = tuple(
      _write_figure(study, group, spec, target / 'figures')
      for group in study.groups()
    )
    figure_sections.append(page.FigureSection(spec.title, spec.caption, images))
    _, position = progress.tick(number)
    # On terminals over the line before, whose rest the spaces wipe out.
    end = '    \r' if sys.stderr.isatty() else '\n'
    print(f'figure {position}', end=end, file=sys.stderr)
  path = target / 'report.html'
  path.write_text(
    page.render(
      study,
      version=lossbench.__version__,
      findings=findings,
      tables=table_sections,
      figures=figure_sections,
    )
  )
  return path


def write_claims(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes what a study says on the paper's claims, as Markdown and JSON.

  Args:
    workdir: of the study.

  Returns:
    The path of claims.md; claims.json lies beside it.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, or no run has a result.
    OSError: if the claims cannot be written.
  """
  from lossbench.report import reading

  study = reading.load_study(workdir)
  target = study.path / 'report'
  target.mkdir(parents=True, exist_ok=True)
  for problem in study.problems:
    print(problem, file=sys.stderr)
  _write_claims(study, target)
  return target / 'claims.md'


def _write_claims(study, target):
  from lossbench.report import claims
  from lossbench.report.claims import rendering

  findings = claims.evaluate_claims(study)
  (target / 'claims.md').write_text(rendering.to_markdown(findings))
  (target / 'claims.json').write_text(
    rendering.to_json(findings, study=study.name, version=lossbench.__version__)
  )
  return findings


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


def _write_figure(study, group, spec, target):
  from lossbench.report import page, records

  png_path = target / f'{spec.name}-{group}.png'
  try:
    drawing = spec.draw(study, group)
  except records.NotRun as reason:
    for file in (png_path, png_path.with_suffix('.pdf')):
      file.unlink(missing_ok=True)
    return page.Image(group, reason=str(reason))
  png = io.BytesIO()
  drawing.figure.savefig(png, format='png', dpi=_DPI)
  png_path.write_bytes(png.getvalue())
  # Without a date the same records give the same file.
  drawing.figure.savefig(
    png_path.with_suffix('.pdf'), metadata={'CreationDate': None}
  )
  return page.Image(group, png.getvalue(), drawing.sizes)


def define_flags():
  """Not at import, so that a process can import several binaries."""
  cli.define_workdir('Directory of the study.')
  flags.DEFINE_bool(
    'claims', False, "Only test the paper's claims, and print the table."
  )


def main(arguments):
  del arguments
  if flags.FLAGS.claims:
    print(write_claims(flags.FLAGS.workdir).read_text(), end='')
    return
  print(f'Wrote {write_report(flags.FLAGS.workdir)}')


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir'], extra='report')
