"""What README and results/ print is what the studies' records say."""

import collections
import csv
import importlib
import importlib.util
import json
import pathlib
import re
import shutil

import pytest

from lossbench.report.figures import FIGURES

ROOT = pathlib.Path(__file__).parents[1]
STUDIES = ('cifar10_small', 'digit_pairs')
# In results/STUDY, but not of the report.
OWN = {'README.md', 'tuning.csv', 'tuning.sh'}
WORDS = {'one': 1, 'two': 2, 'three': 3, 'four': 4, 'five': 5, 'eight': 8}


@pytest.fixture(scope='module')
def collect():
  """results/collect.py, which is no package's."""
  path = ROOT / 'results' / 'collect.py'
  spec = importlib.util.spec_from_file_location('collect', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def results(collect, tmp_path, monkeypatch):
  """An empty directory in place of results/."""
  path = tmp_path / 'results'
  monkeypatch.setattr(collect, 'RESULTS', path)
  return path


def _report(collect, study, path):
  """Makes a report of what is kept of one, which is laid out like it."""
  shutil.copytree(ROOT / 'results' / study, path)
  figures = path / 'figures'
  for name, figure in collect.KEPT[study].figures.items():
    (figures / f'{name}.png').rename(figures / f'{figure}.png')
  return path


@pytest.fixture
def report(collect, tmp_path):
  """A report of digit_pairs that a test may change."""
  return _report(collect, 'digit_pairs', tmp_path / 'report')


@pytest.mark.parametrize('study', STUDIES)
def test_figures_are_named_as_reports_name_them(collect, study):
  figures = {figure.name for figure in FIGURES}
  spec = importlib.import_module(f'configs.studies.{study}').get_config()
  for figure in collect.KEPT[study].figures.values():
    name, _, group = figure.partition('-')
    assert name in figures
    assert group in spec.groups


def _kept(study):
  """Files of a study that come from its report."""
  folder = ROOT / 'results' / study
  return [path for path in folder.rglob('*.*') if path.name not in OWN]


@pytest.mark.parametrize('study', STUDIES)
def test_readme_shows_the_numbers_of_results(collect, study):
  table = collect.readme_table(study, ROOT / 'results' / study)
  assert table in (ROOT / 'README.md').read_text()


@pytest.mark.parametrize('study', STUDIES)
def test_collecting_keeps_what_is_there(collect, results, tmp_path, study):
  source = ROOT / 'results' / study
  table = collect.collect(study, _report(collect, study, tmp_path / 'report'))
  assert table in (ROOT / 'README.md').read_text()
  copied = [path for path in (results / study).rglob('*') if path.is_file()]
  assert {
    path.relative_to(results / study): path.read_bytes() for path in copied
  } == {path.relative_to(source): path.read_bytes() for path in _kept(study)}


@pytest.mark.parametrize(
  'data_dir', ['/data/tfds', "'~/my tfds'", 'gs://b/tfds', '.']
)
@pytest.mark.parametrize(
  'workdir', ['/tmp/x', 'STUDY-2', "'/tmp/my runs'", '../s']
)
def test_commands_are_copied_without_directories(
  collect, results, report, data_dir, workdir
):
  def command(data_dir, workdir):
    words = [f'--config.data_dir={data_dir}', f'--workdir={workdir}']
    # Quotes are around the whole argument, as shlex.join puts them.
    words = [f"'{w.replace(chr(39), '')}'" if "'" in w else w for w in words]
    return ' '.join(['python -m lossbench.study', *words])

  def write(directory, command):
    more = '--config.groups.g.num_seeds=4'
    other = 'python -m lossbench.study --config=paper.py --workdir=STUDY'
    record = {'remedy': f'{command} {more}', 'reason': command, 'other': other}
    (directory / 'claims.json').write_text(json.dumps(record))
    (directory / 'claims.md').write_text(
      f'| {command} | `{command}`|\r\n{other}\n'
    )
    path = directory / 'tables' / 'table_knn.csv'
    path.write_text(f'row,no_interval,bold\nSoftmax,not run: {command},True\n')

  write(report, command(data_dir, workdir))
  collect.collect('digit_pairs', report)
  expected = report.parent / 'expected'
  (expected / 'tables').mkdir(parents=True)
  write(expected, command('DIR', 'studies/digit_pairs'))
  for name in ('claims.json', 'claims.md', 'tables/table_knn.csv'):
    copied = (results / 'digit_pairs' / name).read_bytes()
    assert copied == (expected / name).read_bytes()


def _edit(path, line, edited):
  text = path.read_text()
  assert line in text
  path.write_text(text.replace(line, edited))


def _remove_files(report):
  (report / 'claims.md').unlink()
  (report / 'figures' / 'figure_5-digit_pairs_cnn.png').unlink()


def _remove_row(report):
  path = report / 'tables' / 'table_b3.csv'
  lines = path.read_text().splitlines()
  kept = [
    line
    for line in lines
    if not line.startswith('Sigmoid,digit_pairs_cnn,ECE,')
  ]
  assert len(kept) == len(lines) - 1
  path.write_text('\n'.join(kept))


def _remove_column(report):
  _edit(report / 'tables' / 'table_b2.csv', ',digit_pairs_low_c,', ',other,')


def _remove_number(report):
  path = report / 'tables' / 'table_1.csv'
  text = path.read_text()
  edited = re.sub('(Dropout,digit_pairs_cnn,top-1,)[^,]+', r'\1nan', text)
  assert edited != text
  path.write_text(edited)


def _add_group(report):
  path = report / 'tables' / 'table_1.csv'
  lines = path.read_text().splitlines()
  lines += [line.replace('digit_pairs_cnn', 'wide') for line in lines[1:]]
  path.write_text('\n'.join(lines))


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (
      _remove_files,
      [
        'lacks claims.md, figures/figure_5-digit_pairs_cnn.png.',
        '`python -m lossbench.report --workdir=studies/digit_pairs` first',
      ],
    ),
    (_remove_row, ['table_b3.csv', "'ECE'", "'Sigmoid'", 'report again']),
    (_remove_column, ['table_b2.csv', "'digit_pairs_low_c'", 'report again']),
    (_remove_number, ['table_1.csv', "'top-1'", "'Dropout'", "'nan'"]),
    (
      _add_group,
      [
        'table_1.csv',
        "'Sigmoid' twice",
        "'top-1'",
        "'digit_pairs_cnn' and 'wide'",
      ],
    ),
  ],
)
def test_nothing_is_copied_of_an_incomplete_report(
  collect, results, report, damage, words
):
  damage(report)
  with pytest.raises(SystemExit) as error:
    collect.main(['collect.py', 'digit_pairs', str(report)])
  message = error.value.code
  assert '\n' not in message
  for word in [str(report), *words]:
    assert word in message
  assert not results.exists()


def _foreign_directories(text):
  """Arguments that name a directory of whoever ran the study."""
  found = re.findall(r'(--config\.data_dir|--workdir)=([^\s,|\'"`\\]*)', text)
  return [
    f'{flag}={value}'
    for flag, value in found
    if value != ('DIR' if flag == '--config.data_dir' else 'STUDY')
    and not (flag == '--workdir' and value.startswith('studies/'))
  ]


@pytest.mark.parametrize(
  'argument',
  [
    '--config.data_dir=~/tfds',
    '--config.data_dir=gs://bucket/tfds',
    '--config.data_dir=../cifar/tfds',
    '--config.data_dir=studies/tfds',
    '--workdir=/tmp',
    '--workdir=STUDY2',
  ],
)
def test_foreign_directories_are_found(argument):
  others = '--config.data_dir=DIR --workdir=studies/x --workdir=STUDY'
  assert _foreign_directories(f'{{"{others} {argument}"}}') == [argument]


@pytest.mark.parametrize('study', STUDIES)
def test_no_path_of_a_machine_is_published(study):
  for path in _kept(study):
    if path.suffix != '.png':
      assert not _foreign_directories(path.read_text()), path
  # Elsewhere than in these arguments, and in what was written by hand.
  for path in (ROOT / 'results' / study).rglob('*.*'):
    if path.suffix != '.png':
      found = re.search(r'[=\s"\'`(]/\w[^\s]*/\S*', path.read_text())
      assert not found, f'{path}: {found}'


@pytest.mark.parametrize('study', STUDIES)
def test_verdicts_are_counted(study):
  folder = ROOT / 'results' / study
  claims = json.loads((folder / 'claims.json').read_text())['claims']
  counts = collections.Counter(claim['verdict'] for claim in claims)
  text = ' '.join((folder / 'README.md').read_text().split())
  found = re.findall(r'(\d+) hold, (\d+) do not, (\d+) cannot be told\.', text)
  verdicts = ('holds', 'does not hold', 'cannot tell')
  assert found == [tuple(str(counts[verdict]) for verdict in verdicts)]


def _prose(study):
  """What the two READMEs say of a study, on one line each."""
  own = (ROOT / 'results' / study / 'README.md').read_text()
  # The tuning has seeds of its own.
  own = re.sub(r'^- \[tuning\.sh\].*?\n\n', '', own, flags=re.M | re.S)
  readme = (ROOT / 'README.md').read_text()
  section = readme.split('\n## Results\n')[1].split('\n## ')[0]
  start = section.index(f'[results/{study}]')
  ends = [section.find(f'[results/{other}]', start + 1) for other in STUDIES]
  end = min((end for end in ends if end > 0), default=len(section))
  return [' '.join(text.split()) for text in (own, section[start:end])]


@pytest.mark.parametrize('study', STUDIES)
def test_seeds_are_counted(study):
  measured = set()
  for path in (ROOT / 'results' / study / 'tables').glob('*.csv'):
    with open(path, newline='') as file:
      measured |= {int(row['num_seeds']) for row in csv.DictReader(file)}
  assert len(measured) == 1
  for text in _prose(study):
    stated = {
      WORDS.get(word.lower(), word)
      for word in re.findall(rf'\b(\d+|{"|".join(WORDS)}) seeds\b', text, re.I)
    }
    assert {int(number) for number in stated} == measured, text


def test_start_counts_the_seeds_of_its_study():
  text = ' '.join((ROOT / 'README.md').read_text().split())
  start = text.split(' ## Start ')[1].split(' ## ')[0]
  (seeds,) = re.findall(r'(\d+) seeds on pairs', start)
  table = ROOT / 'results' / 'digit_pairs' / 'tables' / 'table_1.csv'
  with open(table, newline='') as file:
    assert {row['num_seeds'] for row in csv.DictReader(file)} == {seeds}
