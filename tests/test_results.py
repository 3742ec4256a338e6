"""What README and results/ print is what the studies' records say."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STUDIES = ('cifar10_small', 'digit_pairs')


@pytest.fixture(scope='module')
def collect():
  """results/collect.py, which is no package's."""
  path = ROOT / 'results' / 'collect.py'
  spec = importlib.util.spec_from_file_location('collect', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize('study', STUDIES)
def test_readme_shows_the_numbers_of_results(collect, study):
  assert collect.readme_table(study) in (ROOT / 'README.md').read_text()


def test_collecting_keeps_what_is_there(collect, tmp_path, monkeypatch):
  for study in STUDIES:
    report = ROOT / 'results' / study  # laid out like a report
    monkeypatch.setattr(collect, 'RESULTS', tmp_path)
    collect.collect(study, report)
    written = {
      str(path.relative_to(report)) for path in report.rglob('*.*')
    } - {'README.md', 'tuning.csv', 'tuning.sh'}
    copied = (tmp_path / study).rglob('*.*')
    assert {str(p.relative_to(tmp_path / study)) for p in copied} == written


@pytest.mark.parametrize('study', STUDIES)
def test_no_path_of_a_machine_is_published(study):
  for path in (ROOT / 'results' / study).rglob('*.*'):
    if path.suffix != '.png':
      found = re.search(r'[=\s"\'`(]/\w[^\s]*/\S*', path.read_text())
      assert not found, f'{path}: {found}'
