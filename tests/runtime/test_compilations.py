"""Programs are compiled once, also after a process was killed."""

import os
import subprocess
import sys

import pytest

from lossbench.runtime import compilations
from lossbench.runtime.compilations import keep_compilations


def test_a_bounded_directory_for_this_kind_of_cpu(tmp_path):
  environ = {'XDG_CACHE_HOME': str(tmp_path)}
  keep_compilations(environ)
  [path] = tmp_path.glob('lossbench/xla/*')
  assert environ.pop('JAX_COMPILATION_CACHE_DIR') == str(path)
  assert environ.pop('JAX_COMPILATION_CACHE_MAX_SIZE') == str(2**30)
  again = {'XDG_CACHE_HOME': str(tmp_path)}
  keep_compilations(again)
  assert again['JAX_COMPILATION_CACHE_DIR'] == str(path)


def test_other_cpus_have_another_directory(tmp_path, monkeypatch):
  names = set()
  for model in ('one', 'other'):
    info = f'processor\t: 0\nmodel name\t: {model}\ncpu MHz\t: 1\n\nprocessor'
    monkeypatch.setattr('pathlib.Path.read_text', lambda _, info=info: info)
    names.add(compilations._cpu())
    faster = info.replace('MHz\t: 1', 'MHz\t: 2')
    monkeypatch.setattr('pathlib.Path.read_text', lambda _, info=faster: info)
    names.add(compilations._cpu())
  assert len(names) == 2


@pytest.mark.parametrize('path', ['', '/elsewhere'])
def test_whoever_says_where_is_obeyed(tmp_path, path):
  environ = {
    'XDG_CACHE_HOME': str(tmp_path),
    'JAX_COMPILATION_CACHE_DIR': path,
  }
  keep_compilations(environ)
  assert environ['JAX_COMPILATION_CACHE_DIR'] == path
  assert len(environ) == 2
  assert not list(tmp_path.iterdir())


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path):
  (tmp_path / 'file').touch()
  environ = {'XDG_CACHE_HOME': str(tmp_path / 'file')}
  keep_compilations(environ)
  assert len(environ) == 1


def _environ(tmp_path):
  ours = ('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE')
  inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
  return {**inherited, 'XDG_CACHE_HOME': str(tmp_path)}


def _compilations(root, tmp_path, body):
  """(programs asked for, compiled, lines on standard error) of a binary."""
  program = f"""
import collections
from lossbench import cli

def command(arguments):
  from jax import monitoring
  counts = collections.Counter()
  monitoring.register_event_listener(lambda name, **_: counts.update([name]))
{body}
  requests = counts['/jax/compilation_cache/compile_requests_use_cache']
  print(requests, requests - counts['/jax/compilation_cache/cache_hits'])

cli.run(command)
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=root,
    env=_environ(tmp_path),
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  asked, compiled = map(int, result.stdout.splitlines()[-1].split())
  return asked, compiled, result.stderr


def test_a_second_run_compiles_nothing(root, digits_dir, tmp_path):
  body = f"""
  from configs import digits_cnn
  from lossbench.train import loop
  config = digits_cnn.get_config('sigmoid+dropout')
  config.data_dir = {digits_dir!r}
  config.model.width = 4
  config.batch_size = 64
  config.num_epochs = 1.0
  config.eval_every_epochs = 1.0
  loop.train(config, workdir={str(tmp_path)!r} + '/run' + WHICH)
"""
  first = _compilations(root, tmp_path, f"  WHICH = '1'{body}")
  second = _compilations(root, tmp_path, f"  WHICH = '2'{body}")
  assert first[0] == second[0] > 5
  # Some ask for the same program twice.
  assert first[1] > 5
  assert second[1] == 0


def test_a_process_killed_while_it_wrote_a_program_harms_no_other(
  root, tmp_path
):
  body = '  import jax\n  ' + '\n  '.join(
    f'jax.jit(lambda x: x @ x + {number}.0)(jax.numpy.ones(({number}, {number})))'
    for number in (11, 12, 13)
  )
  _, compiled, _ = _compilations(root, tmp_path, body)
  assert compiled >= 3
  killed, *_ = tmp_path.glob('lossbench/xla/*/jit__lambda*-cache')
  killed.write_bytes(killed.read_bytes()[:100])
  killed.with_name(killed.name.replace('-cache', '-atime')).unlink()
  _, compiled, errors = _compilations(root, tmp_path, body)
  assert compiled == 1
  assert not errors
  _, compiled, errors = _compilations(root, tmp_path, body)
  assert compiled == 0
  assert not errors
