"""The database of a tuning: which driver, and patience while a server is away."""

import time
from collections.abc import Callable
from typing import Any

from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER


class Database:
  """Calls of a database that wait while its server is being restarted.

  Args:
    url: as SQLAlchemy takes it; PostgreSQL is spoken to by psycopg unless the
      URL names another driver.
    patience_secs: how long a server may be away.
    poll_secs: between attempts.

  Raises:
    ValueError: if this is no URL, it holds a password, or it is of SQLite in a
      bucket.
  """

  def __init__(self, url: str, *, patience_secs: float, poll_secs: float):
    import sqlalchemy

    try:
      parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
      raise ValueError(
        f'--storage={url} is not the URL of a database. Give for example '
        'postgresql://user@host/tuning.'
      ) from error
    if parsed.password is not None:
      raise ValueError(
        f'--storage={parsed.render_as_string(hide_password=True)} holds a '
        'password, which records of the command would keep. Put it where the '
        "database's own client looks, for PostgreSQL into ~/.pgpass or "
        'PGPASSWORD.'
      )
    # What it means without a driver depends on SQLAlchemy's version.
    if parsed.drivername == 'postgresql':
      parsed = parsed.set(drivername='postgresql+psycopg')
    self.url = parsed.render_as_string(hide_password=False)
    self._given_url = url
    self._is_file = parsed.get_backend_name() == 'sqlite'
    if self._is_file and storage.is_remote(parsed.database or ''):
      raise ValueError(
        f'--storage={url} is in a bucket, and SQLite needs a disk. Give for '
        'example postgresql://user@host/tuning.'
      )
    self._patience_secs = patience_secs
    self._poll_secs = poll_secs

  def engine_options(self) -> dict[str, Any]:
    """Keyword arguments of SQLAlchemy's create_engine."""
    if self._is_file:
      # Several workers may write at once; SQLite makes the others wait.
      return {'connect_args': {'timeout': 60}}
    # Connections that a restart has cut are noticed and made anew.
    return {'pool_pre_ping': True}

  def open(self, open_fn: Callable[[], Any], *, num_attempts: int = 4):
    """The result of `open_fn`, which connects and makes the tables.

    Raises:
      ValueError: if the database cannot be opened.
    """
    for attempts_left in reversed(range(num_attempts)):
      try:
        return open_fn()
      except (*self._errors(), ImportError) as error:
        # Workers that start at once get in one another's way at the first.
        if not attempts_left:
          raise ValueError(
            f'--storage={self._given_url} cannot be opened: {_reason(error)}'
          ) from error
        time.sleep(self._poll_secs)

  def call(self, function: Callable, *args, patient: bool = True, **kwargs):
    """The result of a function that reads or writes; it may be called twice.

    Args:
      function: of Optuna.
      *args: its arguments.
      patient: wait for a server that is away.
      **kwargs: its arguments.

    Raises:
      OSError: if the database does not answer, or its disk is full.
    """
    deadline = time.monotonic() + self._patience_secs
    warned = False
    while True:
      try:
        return function(*args, **kwargs)
      except self._errors() as error:
        # A server comes back; a file that cannot be written to does not.
        over = self._is_file or not patient or time.monotonic() > deadline
        if over:
          raise OSError(
            f'The database of the trials, {self._given_url}, does not answer: '
            f'{_reason(error)}. Run the same command again to continue.'
          ) from error
        if not warned:
          LOGGER.warning(
            'The database of the trials does not answer (%s). Trying for %d s.',
            _reason(error),
            self._patience_secs,
          )
          warned = True
        time.sleep(self._poll_secs)

  @staticmethod
  def _errors() -> tuple[type[Exception], ...]:
    import optuna
    import sqlalchemy

    # Optuna's own is raised from SQLAlchemy's.
    return (
      sqlalchemy.exc.SQLAlchemyError,
      optuna.exceptions.StorageInternalError,
    )


def _reason(error: Exception) -> str:
  """The first line of what the database itself said."""
  cause = error.__cause__ or error
  return str(getattr(cause, 'orig', None) or cause).strip().splitlines()[0]
