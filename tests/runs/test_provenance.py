"""What run.json says of the code and the libraries."""

import subprocess

import jax
import pytest

import lossbench
from lossbench.runs import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A directory like this project's, as yet without git."""
  (tmp_path / 'lossbench').mkdir()
  (tmp_path / 'lossbench' / '__init__.py').write_text('x = 1\n')
  (tmp_path / 'main.py').write_text('y = 1\n')
  monkeypatch.setattr(provenance, '_ROOT', tmp_path)
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  return tmp_path


def _git(checkout, *arguments):
  name = '-c', 'user.name=n', '-c', 'user.email=e@example.org'
  return subprocess.run(
    ['git', '-C', str(checkout), *name, *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


def test_revision_and_whether_the_sources_are_its_own(checkout):
  bare = provenance.code_version()
  assert bare.keys() == {'version', 'fingerprint'}
  assert bare['version'] == lossbench.__version__
  _git(checkout, 'init', '-q')
  # Of a repository that the package is no part of.
  assert provenance.code_version() == bare
  _git(checkout, 'add', '.')
  _git(checkout, 'commit', '-qm', 'one')
  revision = _git(checkout, 'rev-parse', 'HEAD')
  assert provenance.code_version() == {
    **bare,
    'revision': revision,
    'clean': True,
  }
  (checkout / 'notes.txt').write_text('no source')
  assert provenance.code_version()['clean']
  (checkout / 'lossbench' / 'new.py').write_text('')
  changed = provenance.code_version()
  assert not changed['clean']
  assert changed['fingerprint'] != bare['fingerprint']


def test_versions_of_libraries():
  versions = provenance.library_versions()
  assert versions['jax'] == jax.__version__
  assert {'python', 'flax', 'numpy', 'orbax-checkpoint'} <= versions.keys()
