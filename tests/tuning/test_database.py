"""URLs of databases, and patience."""

import optuna
import pytest
import sqlalchemy

from lossbench.tuning.database import Database


def _database(url, *, patience_secs=0.5):
  return Database(url, patience_secs=patience_secs, poll_secs=0.01)


def test_postgresql_is_spoken_to_by_the_declared_driver():
  url = _database('postgresql://user@host/tuning').url
  assert url == 'postgresql+psycopg://user@host/tuning'
  engine = sqlalchemy.create_engine(url)  # imports the driver
  assert engine.driver == 'psycopg'


@pytest.mark.parametrize(
  'url', ['postgresql+pg8000://user@host/tuning', 'sqlite:////tmp/a.db']
)
def test_other_urls_stay_as_they_are(url):
  assert _database(url).url == url


def test_refusals():
  with pytest.raises(ValueError, match='--storage=nonsense is not the URL'):
    _database('nonsense')
  with pytest.raises(ValueError, match='holds a password') as refused:
    _database('postgresql://user:secret@host/tuning')
  assert 'secret' not in str(refused.value)
  with pytest.raises(ValueError, match='SQLite needs a disk'):
    _database('sqlite:///gs://bucket/tuning.db')


def _lost(*, times):
  """A function whose connection is lost a few times."""
  left = [times]

  def function():
    if left[0]:
      left[0] -= 1
      cause = sqlalchemy.exc.OperationalError('SELECT', {}, OSError('cut'))
      raise optuna.exceptions.StorageInternalError('commit') from cause
    return 42

  return function


def test_a_server_is_waited_for(caplog):
  database = _database('postgresql://user@host/tuning')
  assert database.call(_lost(times=3)) == 42
  assert [r.getMessage() for r in caplog.records] == [
    'The database of the trials does not answer (cut). Trying for 0 s.'
  ]


def test_but_not_for_ever():
  database = _database('postgresql://user@host/tuning', patience_secs=0.05)
  with pytest.raises(OSError, match=r'tuning, does not answer: cut\. Run'):
    database.call(_lost(times=1000))


def test_nor_where_nobody_will_mend_it():
  """SQLite's file on a full disk, or who was asked to stop."""
  with pytest.raises(OSError, match='does not answer: cut'):
    _database('sqlite:////tmp/a.db').call(_lost(times=1))
  with pytest.raises(OSError, match='does not answer: cut'):
    _database('postgresql://u@h/t').call(_lost(times=1), patient=False)


def test_a_fault_of_the_program_is_none_of_the_database():
  def function():
    raise TypeError('a bug')

  with pytest.raises(TypeError, match='a bug'):
    _database('postgresql://user@host/tuning').call(function)
