"""Reports of studies in buckets, whose network fails."""

import uuid

import pytest
from etils import epath

from lossbench.report import __main__ as report
from lossbench.report import figures
from lossbench.runtime.storage import reason_of_bucket


@pytest.fixture
def in_bucket(bucket, synthetic_study):
  """A copy of the synthetic study in the bucket."""
  root = epath.Path(f'gs://bucket/{uuid.uuid4().hex}')
  for path in synthetic_study.rglob('*'):
    if path.is_file():
      copied = root / str(path.relative_to(synthetic_study))
      copied.write_bytes(path.read_bytes())
  return root


def _files(directory) -> dict[str, bytes]:
  found = {}
  for parent, _, names in epath.Path(directory).walk():
    for name in names:
      path = parent / name
      found[str(path.relative_to(directory))] = path.read_bytes()
  return found


def test_a_report_from_a_bucket_is_the_report_from_a_disk(
  synthetic_study, in_bucket, bucket, tmp_path, monkeypatch, capsys
):
  """Read there and written here, and the other way round."""
  monkeypatch.setattr(figures, 'FIGURES', figures.FIGURES[:1])
  damaged = 'runs/imagenet_resnet50/softmax/seed1/history.json'
  for root in (synthetic_study, in_bucket):
    (root / damaged).write_text('{')
  faults = [
    bucket.inject('drop', path='study.json', method='GET', times=1),
    bucket.inject(503, path='curves.npz', method='GET', times=3),
    bucket.inject(503, path='figures', method='POST', times=1),
  ]
  page = report.write_report(synthetic_study, output=in_bucket / 'report')
  assert page == in_bucket / 'report/report.html'
  problem = capsys.readouterr().err.splitlines()[0]
  assert problem.startswith(f'{synthetic_study / damaged} is damaged')
  report.write_report(in_bucket, output=tmp_path / 'report')
  place = str(synthetic_study), str(in_bucket)
  assert capsys.readouterr().err.splitlines()[0] == problem.replace(*place)
  of_disk, of_bucket = _files(page.parent), _files(tmp_path / 'report')
  assert {name.rpartition('.')[2] for name in of_disk} == {
    *('csv', 'html', 'json', 'md', 'pdf', 'png', 'tex')
  }
  for content in (of_disk, of_bucket):
    for name, text in content.items():
      for path in place:
        for written in (path, path.replace('_', r'\_')):
          text = text.replace(written.encode(), b'STUDY')
      content[name] = text
  assert of_disk == of_bucket
  assert [fault.count for fault in faults] == [1, 3, 1]


def test_a_bucket_that_is_away_is_no_damaged_record(in_bucket, bucket):
  bucket.inject(403, path='seed1/eval/imagenet2012-validation/curves.npz')
  with pytest.raises(Exception, match='injected') as error:
    report.write_claims(in_bucket)
  assert '403' in reason_of_bucket(error.value)
  assert not (in_bucket / 'report').exists()


def test_what_is_no_study_in_a_bucket_is_named_by_its_place(bucket):
  with pytest.raises(FileNotFoundError, match='gs://bucket/none is not a st'):
    report.write_report('gs://bucket/none')
