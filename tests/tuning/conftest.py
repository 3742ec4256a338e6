"""A PostgreSQL server of the tests' own, and workers as processes."""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys

import pytest

_WORKER = pathlib.Path(__file__).with_name('fake_worker.py')


class PostgresServer:
  """A server in a directory, on a free port of the loopback.

  PostgreSQL refuses to run as root, and is run as the user `postgres` there.
  """

  def __init__(self, binaries: pathlib.Path, directory: pathlib.Path):
    self._binaries = binaries
    self._data = directory / 'data'
    self._as_user = []
    directory.mkdir()
    if os.getuid() == 0:
      user = pwd.getpwnam('postgres')
      os.chown(directory, user.pw_uid, user.pw_gid)
      self._as_user = ['setpriv', f'--reuid={user.pw_uid}', '--clear-groups']
      self._as_user += [f'--regid={user.pw_gid}', '--']
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      self._port = free.getsockname()[1]
    self._num_databases = 0
    self._call('initdb', '--username=tuner', '--auth=trust', '--no-sync')
    self.start()

  def _call(self, name, *arguments):
    program = self._binaries / name
    result = subprocess.run(
      [*self._as_user, program, f'--pgdata={self._data}', *arguments],
      cwd='/',
      stdin=subprocess.DEVNULL,
      # The server keeps a pipe open for as long as it lives.
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      check=False,
      timeout=60,
    )
    assert result.returncode == 0, (name, arguments)

  def start(self):
    """Returns when it answers."""
    options = f'-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off'
    options += f' -c unix_socket_directories={self._data}'
    log = self._data.parent / 'log'
    self._call('pg_ctl', 'start', '--wait', f'--options={options}', f'-l{log}')

  def stop(self):
    """Cuts all connections."""
    self._call('pg_ctl', 'stop', '--mode=immediate')

  def new_database(self) -> str:
    """The URL of an empty one, in the form of README."""
    import psycopg

    self._num_databases += 1
    name = f'tuning{self._num_databases}'
    server = f'postgresql://tuner@127.0.0.1:{self._port}'
    with psycopg.connect(f'{server}/postgres', autocommit=True) as connection:
      connection.execute(f'CREATE DATABASE {name}')
    return f'{server}/{name}'


def _find_binaries() -> pathlib.Path | None:
  found = sorted(pathlib.Path('/usr/lib/postgresql').glob('*/bin/initdb'))
  on_path = shutil.which('initdb')
  if not found and on_path:
    found = [pathlib.Path(on_path).resolve()]
  return found[-1].parent if found else None


@pytest.fixture(scope='session')
def postgres(tmp_path_factory):
  """A running server with an empty database."""
  binaries = _find_binaries()
  if binaries is None:
    pytest.skip('no PostgreSQL server: apt-get install postgresql')
  # pytest's own directories are closed to other users.
  root = pathlib.Path('/tmp') / f'lossbench-postgres-{os.getpid()}'
  try:
    server = PostgresServer(binaries, root)
    yield server
    server.stop()
  finally:
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def start_worker(tmp_path):
  """Starts fake_worker.py on one tuning; ends those that are left."""
  workers = []

  def start(*, secs, storage='', workdir=tmp_path / 't'):
    arguments = [workdir, tmp_path / 'log', secs, storage]
    process = subprocess.Popen(
      [sys.executable, _WORKER, *map(str, arguments)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    workers.append(process)
    return process

  yield start
  for process in workers:
    process.kill()
    process.wait()
