"""study.json: what is wanted."""

import json

import pytest

from lossbench.study import record
from tests.study.planned import planned


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch, root):
  monkeypatch.chdir(root)


def test_two_studies_in_one_directory(tmp_path):
  record.write_study(planned(tmp_path / 's', a={}))
  record.write_study(planned(tmp_path / 's', a={}, b={}))  # the same, extended
  found = json.loads((tmp_path / 's' / 'study.json').read_text())
  assert len(found['runs']) == 54
  assert found['runs'][0]['test_split'] == 'test'
  for damaged in ('{"name": ', '[]'):
    (tmp_path / 's' / 'study.json').write_text(damaged)
    with pytest.raises(ValueError, match=r'study\.json is damaged.*delete'):
      record.write_study(planned(tmp_path / 's', a={}))
  (tmp_path / 's' / 'study.json').write_text(json.dumps(found))
  other = planned(tmp_path / 's', config_file='other.py', a={})
  with pytest.raises(ValueError, match="holds the study 'x', not 'other'"):
    record.write_study(other)
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').touch()
  with pytest.raises(ValueError, match='is a run directory'):
    record.write_study(planned(tmp_path / 'run', a={}))
