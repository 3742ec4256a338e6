"""Binaries answer at once: help and mistakes wait for no library."""

import ast
import os
import re
import subprocess
import sys

import pytest

from lossbench import cli
from lossbench.runtime.interrupts import EXIT_STATUS

BINARIES = {
  'main': 'main.py',
  'compare': 'lossbench/compare.py',
  'early_stopping': 'lossbench/early_stopping.py',
  'evaluate': 'lossbench/evaluate.py',
  'export': 'lossbench/export.py',
  'finetune': 'lossbench/finetune.py',
  'import_checkpoint': 'lossbench/import_checkpoint.py',
  'prepare': 'lossbench/prepare.py',
  'report': 'lossbench/report/__main__.py',
  'study': 'lossbench/study/__main__.py',
  'transfer': 'lossbench/transfer.py',
  'tune': 'lossbench/tune.py',
}
# Each takes a tenth of a second or more; TensorFlow seconds.
HEAVY = (
  'jax',
  'tensorflow',
  'numpy',
  'scipy',
  'pandas',
  'matplotlib',
  'optuna',
)
# Runs a binary as `python FILE` does, and says at its end what it imported.
PROGRAM = """
import runpy, sys
file, heavy, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, '.')
sys.argv[0] = file
try:
  runpy.run_path(file, run_name='__main__')
finally:
  print('IMPORTED', *[m for m in heavy.split(',') if m in sys.modules])
"""


@pytest.mark.parametrize('name', BINARIES)
def test_ctrl_c_while_it_imports_is_one_line(request, tmp_path, name):
  # absl is the first of what takes long.
  (tmp_path / 'absl.py').write_text('raise KeyboardInterrupt')
  module = BINARIES[name].removesuffix('.py').replace('/', '.')
  result = subprocess.run(
    [sys.executable, '-m', module],
    cwd=request.config.rootpath,
    env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.stderr == 'Stopped before anything was done.\n'
  assert result.returncode == EXIT_STATUS


def _run(root, name, *arguments):
  result = subprocess.run(
    [
      sys.executable,
      '-c',
      PROGRAM,
      BINARIES[name],
      ','.join(HEAVY),
      *arguments,
    ],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  *lines, imported = result.stdout.splitlines()
  return '\n'.join(lines), imported, result


@pytest.mark.parametrize('name', BINARIES)
def test_help_imports_nothing_heavy(root, name):
  output, imported, result = _run(root, name, '--help')
  assert 'Try --helpfull' in output, result.stderr
  assert imported == 'IMPORTED'


# With a recipe, which is read before flags are missed.
RECIPES = {
  'main': 'configs/digits_cnn.py:sigmoid+dropout',
  'study': 'configs/studies/digits.py',
  'tune': 'configs/cifar10_all_cnn.py:cosine_softmax',
}


@pytest.mark.parametrize(
  ('name', 'recipe'),
  [*((name, []) for name in BINARIES)]
  + [(name, [f'--config={recipe}']) for name, recipe in RECIPES.items()],
)
def test_misspelt_flags_are_answered_at_once_in_one_line(root, name, recipe):
  output, imported, result = _run(root, name, *recipe, '--wrokdir=x')
  assert result.returncode == 1
  assert not output
  [line] = result.stderr.splitlines()
  assert line.startswith("Error: Unknown command line flag 'wrokdir'")
  assert imported == 'IMPORTED'


@pytest.mark.parametrize(
  ('name', 'mistake', 'message'),
  [
    ('main', '--config.batch_size=0', '--config.batch_size=0 is not'),
    ('main', '--config.model.name=vgg', '--config.model.name=vgg is not'),
    (
      'tune',
      '--config.objective.cosine_softmax.temperature=-1',
      '--config.objective.cosine_softmax.temperature=-1.0 is not in (0, inf)',
    ),
  ],
)
def test_illegal_values_wait_for_nothing_heavy(root, name, mistake, message):
  arguments = [f'--config={RECIPES[name]}', '--workdir=nowhere', mistake]
  _, imported, result = _run(root, name, *arguments)
  assert result.returncode == 1
  [line] = result.stderr.splitlines()
  assert line.startswith(f'Error: {message}')
  assert imported == 'IMPORTED'


@pytest.mark.parametrize('name', ['main', 'tune', 'import_checkpoint', 'study'])
def test_every_binary_knows_its_kind_of_configuration(root, name):
  other = RECIPES['main' if name == 'study' else 'study']
  _, imported, result = _run(root, name, f'--config={other}', '--workdir=x')
  assert result.returncode == 1
  [line] = result.stderr.splitlines()
  assert line.startswith(f'Error: --config={other} is a ')
  assert line.endswith(
    f', or run python main.py --config={other}.'
    if name == 'study'
    else f', or run python -m lossbench.study --config={other}.'
  )
  assert imported == 'IMPORTED'


@pytest.mark.parametrize(
  'name',
  sorted(BINARIES.keys() - {'compare', 'early_stopping', 'export', 'prepare'}),
)
def test_stray_arguments_and_empty_directories_are_refused(root, name):
  required = []
  if name in ('main', 'tune'):
    required = ['--config=configs/digits_cnn.py']
  if name == 'study':
    required = ['--config=configs/studies/digits.py']
  if name == 'import_checkpoint':
    required = ['--format=loss_functions_transfer', '--source=model.ckpt']
    required += ['--objective=sigmoid', '--seed=0']
  if name in ('finetune', 'transfer'):
    required = ['--dataset=digits']
  _, _, result = _run(root, name, *required, '--workdir=x', 'y', 'z')
  assert result.returncode == 1
  assert result.stderr == 'Error: unexpected arguments: y z.\n'
  _, _, result = _run(root, name, *required, '--workdir=')
  assert result.returncode == 1
  [line] = result.stderr.splitlines()
  assert 'It is empty: name a directory' in line


# Distribution -> its module, where that is called otherwise.
MODULES = {
  'google-cloud-storage': 'google',
  'orbax-checkpoint': 'orbax',
  'scikit-learn': 'sklearn',
  'tensorflow-cpu': 'tensorflow',
  'tensorflow-datasets': 'tensorflow_datasets',
}


def test_extras_are_those_of_setup(root):
  """By the lists in setup.py."""
  lists = {
    node.targets[0].id: ast.literal_eval(node.value)
    for node in ast.parse((root / 'setup.py').read_text()).body
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
  }
  for extra, modules in cli.EXTRAS.items():
    needs = lists[f'_{extra.upper()}']
    named = {re.match(r'[\w-]+', need)[0] for need in needs}
    assert {MODULES.get(name, name) for name in named} == set(modules)


MISSING = """
import sys
from absl import flags
from lossbench import cli

def command(arguments):
  raise ModuleNotFoundError(f'No module named {name!r}', name=name)

name = sys.argv.pop(1)
cli.run(command, extra='tune')
"""


@pytest.mark.parametrize('name', ['optuna', 'psycopg.rows'])
def test_a_missing_module_of_the_extra_names_it(root, name):
  result = subprocess.run(
    [sys.executable, '-c', MISSING, name],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  assert result.stderr == (
    f'Error: this needs {name.partition(".")[0]}: pip install -e .[tune] (in '
    'the checkout).\n'
  )


def test_a_missing_module_of_something_else_names_no_extra(root):
  result = subprocess.run(
    [sys.executable, '-c', MISSING, 'tensorflow_text'],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  assert "No module named 'tensorflow_text'" in result.stderr
  assert 'pip install' not in result.stderr
