"""Who may import what, and nobody asks for an objective by name."""

import ast
import collections
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'lossbench'
CORE = ('objectives', 'models', 'metrics')
# Beside it, for all: imports the standard library only.
NAMES = PACKAGE / 'names.py'
# What the core may import besides itself and the standard library.
CORE_LIBRARIES = {'flax', 'jax', 'jaxtyping', 'numpy', 'optax', 'scipy'}


def _modules(*folders):
  return sorted(
    path for folder in folders for path in (PACKAGE / folder).rglob('*.py')
  )


def _imports(path) -> set[str]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def _relative(path):
  return str(path.relative_to(ROOT))


@pytest.mark.parametrize('path', _modules(*CORE), ids=_relative)
def test_core_imports_only_the_core(path):
  for name in _imports(path):
    library = name.split('.')[0]
    if library == 'lossbench':
      assert name.split('.')[1] in (*CORE, NAMES.stem), name
    else:
      assert library in CORE_LIBRARIES | sys.stdlib_module_names, name


def test_names_import_the_standard_library_only():
  for name in _imports(NAMES):
    assert name.split('.')[0] in sys.stdlib_module_names, name


# `python -m lossbench.VERB`; all other modules are what these call.
VERBS = (
  'compare',
  'early_stopping',
  'evaluate',
  'export',
  'finetune',
  'fit_path',
  'import_checkpoint',
  'report.__main__',
  'score',
  'study.__main__',
  'transfer',
  'tune',
)
NOUNS = [
  path
  for path in sorted(PACKAGE.rglob('*.py'))
  if '.'.join(path.relative_to(PACKAGE).with_suffix('').parts) not in VERBS
]
# Of lossbench, what each package may import besides itself; those that are not
# here may import all nouns. `report` reads what the others wrote.
LAYERS = {
  'runtime': (),
  'runs': ('runtime',),
  'objectives': (*CORE, 'names'),
  'models': (*CORE, 'names'),
  'metrics': CORE,
  'data': ('names', 'runs', 'runtime'),
  'report': ('cli', 'data.catalogue', 'metrics.density', 'runs', 'runtime'),
}


def _own_imports(path) -> set[str]:
  """Of lossbench's modules: 'runs.directory.RunDirectory'."""
  return {
    name.removeprefix('lossbench.')
    for name in _imports(path)
    if name.startswith('lossbench.')
  }


@pytest.mark.parametrize('path', NOUNS, ids=_relative)
def test_nouns_import_no_verb(path):
  for name in _own_imports(path):
    for verb in VERBS:
      assert not f'{name}.'.startswith(f'{verb}.'), name


@pytest.mark.parametrize(
  ('package', 'path'),
  [(package, path) for package in LAYERS for path in _modules(package)],
  ids=lambda value: value if isinstance(value, str) else _relative(value),
)
def test_packages_know_only_those_below(package, path):
  allowed = (package, *LAYERS[package])
  for name in _own_imports(path) - {'__version__'}:
    assert any(f'{name}.'.startswith(f'{other}.') for other in allowed), name


@pytest.mark.parametrize('path', _modules('report'), ids=_relative)
def test_reports_are_made_without_jax_and_tensorflow(path):
  heavy = {'clu', 'flax', 'jax', 'optax', 'orbax', 'tensorflow'}
  assert not {name.split('.')[0] for name in _imports(path)} & heavy


# Programs, whose calls count; tests' do not.
PROGRAMS = [
  *PACKAGE.rglob('*.py'),
  *(
    path
    for folder in ('benchmarks', 'configs', 'launch')
    for path in (ROOT / folder).rglob('*.py')
  ),
  ROOT / 'main.py',
]
# What no program names, and why.
CALLED_BY_OTHERS = {
  'lossbench.data.cifar10_c8': 'TFDS finds builders by names of classes',
  'lossbench.data.digit_pairs': 'as above',
  'lossbench.data.digits': 'as above',
  'find_class': 'pickle calls it',
  'get_config': 'the flag --config calls it',
  'should_preserve': 'Orbax calls it',
  'open_source': 'lossbench.interop.formats calls it, of a module by its name',
  'emit': 'logging calls it',
  'per_example_loss': "README's example; the step adds what depends on weights",
}


def _dotted(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def _definitions(tree):
  """(owner, node) of public functions, classes and methods of a module."""
  for node in tree.body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      yield None, node
    if isinstance(node, ast.ClassDef):
      yield from (
        (node, method)
        for method in node.body
        if isinstance(method, ast.FunctionDef)
      )


def _uses(path, tree) -> set[tuple[str, str]]:
  """(module, name) of all that a module names, and ('', name) of attributes.

  A name in a string counts: registries keep functions by their names.
  """
  module, found, sources = _dotted(path), set(), collections.defaultdict(set)
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      for alias in node.names:  # functions of a file may import their own
        sources[alias.asname or alias.name].add((node.module, alias.name))
        found.add((node.module, alias.name))
  for node in ast.walk(tree):
    if isinstance(node, ast.Name):
      found.add((module, node.id))
    elif isinstance(node, ast.Attribute):
      found.add(('', node.attr))
      if isinstance(node.value, ast.Name) and node.value.id in sources:
        places = sources[node.value.id]
        found |= {('.'.join(place), node.attr) for place in places}
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      found |= {(module, node.value), ('', node.value)}
  return found


def test_what_nobody_calls_is_not_there():
  """What only tests call is theirs, or goes through a face (`__all__`)."""
  import lossbench.metrics

  trees = {path: ast.parse(path.read_text()) for path in PROGRAMS}
  used = set().union(*(_uses(path, tree) for path, tree in trees.items()))
  for template in PACKAGE.rglob('*.html'):
    used |= {('', name) for name in re.findall(r'\w+', template.read_text())}
  unused = []
  for path, tree in trees.items():
    for owner, node in _definitions(tree):
      module, name = _dotted(path), node.name
      if name.startswith('_') or {module, name} & set(CALLED_BY_OTHERS):
        continue
      names = {('', name)} if owner else {(module, name)}
      if module == 'lossbench.objectives.losses':
        names.add(('lossbench.objectives.registry', name))
      if not names & used and name not in lossbench.metrics.__all__:
        unused.append(f'{module}.{name}')
  assert not unused


# Whose subject is a whole run or its configuration. All others are given what
# they need of it, by functions called build_* and create_*.
CONFIG_READERS = (
  'build',  # from a configuration to the objects that it names
  'interop.importing',  # makes those of its runs
  'evaluation.loop',  # a pass of a run's model over a data set
  'probe.finetuning',  # makes those of its runs
  'runs.directory',  # keeps it, and compares it with what was there
  'study',  # expands and resolves configurations
  'train.checks',  # refuses them
  'train.initialization',
  'train.loop',
  'train.memory',  # compiles them to see what they need
  'train.program',
  'train.side_by_side',  # hands them on, whole
  'tuning',  # fills in what it searches
)


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=_relative)
def test_a_config_is_unpacked_where_objects_are_made(path):
  """Parameters and fields that are one; binaries have it from their flags."""
  module = _dotted(path).removeprefix('lossbench.')
  if any(f'{module}.'.startswith(f'{reader}.') for reader in CONFIG_READERS):
    return
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef):
      if re.match('_?(build|create)_', node.name):
        continue
      arguments = [*node.args.args, *node.args.kwonlyargs]
    elif isinstance(node, ast.ClassDef):
      arguments = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    else:
      continue
    for argument in arguments:
      annotation = argument.annotation and ast.unparse(argument.annotation)
      if annotation is None:
        assert argument.arg != 'config', node.name
      else:
        assert 'ConfigDict' not in annotation, node.name


def test_the_picture_of_the_tree_is_the_tree():
  """In CONTRIBUTING: every folder and module beside main.py, and no other."""
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  tree = text.partition('```\n')[2].partition('```')[0]
  top, _, rest = tree.partition('lossbench/\n')
  # Names begin at the margin, or two columns in; what they are, further in.
  inside = re.findall(r'^  (\S.*)$', rest, re.MULTILINE)
  named = {
    word
    for line in inside
    for word in re.split('  ', line)[0].split()
    if re.fullmatch(r'[\w.]+(/|\.py)', word)
  }
  there = {
    path.name + '/' * path.is_dir()
    for path in PACKAGE.iterdir()
    if path.name not in ('__init__.py', '__pycache__', 'version.py')
  }
  assert named == there
  outside = set(re.findall(r'^(\w[\w.]*/?)', top + rest, re.MULTILINE))
  assert outside == {'main.py', 'configs/', 'launch/', 'benchmarks/', 'tests/'}
  assert all((ROOT / name).exists() for name in outside)


# Longer than 80 lines, and why.
LONG = {'get_default_config': 'a list of all fields, each with its meaning'}
# What a first line begins with that names no thing and says no action.
FRAGMENTS = set(
  [
    'After',
    'And',
    'As',
    'At',
    'Because',
    'Before',
    'By',
    'Else',
    'Equal',
    'For',
    'From',
    'If',
    'In',
    'Into',
    'It',
    'Not',
    'Of',
    'On',
    'Or',
    'So',
    'That',
    'Then',
    'To',
    'Under',
    'Until',
    'When',
    'With',
    'Within',
    'Without',
  ]
)


@pytest.mark.parametrize(
  'path', [*PROGRAMS, *(ROOT / 'tests').rglob('*.py')], ids=_relative
)
def test_functions_are_short(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef) and node.name not in LONG:
      num_lines = node.end_lineno - node.lineno + 1
      assert num_lines <= 80, f'{node.name} has {num_lines} lines: split it'


@pytest.mark.parametrize('path', PROGRAMS, ids=_relative)
def test_docstrings_begin_with_what_is_defined(path):
  """A noun phrase of what is returned, or what it does in the third person."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      first = (ast.get_docstring(node) or '').partition('\n')[0]
      assert first.partition(' ')[0] not in FRAGMENTS, f'{node.name}: {first}'


def test_nobody_asks_for_an_objective_by_name():
  from lossbench.objectives import known_parts

  for path in _modules('.'):
    if path.name == 'registry.py':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Compare):
        constants = {
          c.value for c in ast.walk(node) if isinstance(c, ast.Constant)
        }
        asked = constants & set(known_parts())
        assert not asked, f'{path}:{node.lineno} compares with {asked}'


def test_core_trains_a_step_without_tensorflow():
  """On machines that have only jax, flax, optax and numpy."""
  program = """
import sys

BLOCKED = ('tensorflow', 'tensorflow_datasets', 'clu', 'ml_collections')

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in BLOCKED:
      raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Blocker())
import jax, jax.numpy as jnp, numpy as np
from lossbench.runtime import devices
from lossbench.data import device_augment, device_data
from lossbench.metrics import accuracy, calibration, separation, sparsity
from lossbench.models import Classifier, create_backbone
from lossbench.objectives import create_objective
from lossbench.train import schedules, state, step

backbone = create_backbone('digits_cnn', image_size=8, width=2)
hparams = state.StepHparams(
  create_objective('sigmoid'), 0.1, 0.9, 1e-4, 0.9, np.uint32(0)
)
model = Classifier(backbone, hparams.objective.output_layer(num_classes=3))
images = np.ones((4, 8, 8, 1), np.float32)
variables = model.init(jax.random.key(0), images, train=False)
mask = state.decayed(variables['params'], batch_norm=False)
initial = state.create_state(
  variables, hparams=hparams, mask=mask, keep_ema=True
)
train_step = step.create_train_step(
  backbone,
  num_classes=3,
  input_fn=lambda batch, data, key, positions: (batch['image'], batch['label']),
  schedule_fn=schedules.create_schedule(
    'cosine', num_epochs=2, steps_per_epoch=3
  ),
  decay_batch_norm=False,
)
batch = {'image': images, 'label': np.zeros(4, np.int32)}
_, metrics = train_step(
  devices.replicate(initial), devices.shard(batch), None, hparams
)
print('loss', float(metrics['loss'].addressable_data(0).reshape(())))
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('loss ')


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=_relative)
def test_nobody_asks_the_wall_clock(path):
  """Hosts may disagree on it, and it may jump."""
  calls = {
    ast.unparse(node.func)
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call)
  }
  clocks = ('time.time', 'datetime.now', 'datetime.datetime.now')
  assert not calls & set(clocks)
