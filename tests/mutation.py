"""Which one-line faults of the core do the tests of its modules notice?

python -m tests.mutation --sample=120 --seed=0

draws mutants of `TARGETS`, runs each against the test files that mirror its
module, and lists the survivors in tests/mutation_survivors.txt, where a person
writes behind ` # ` why each may live. It fails while a survivor has no reason.
Programs that a test starts see no mutant.

Mutants are made here because mutmut leaves decorated functions alone, cosmic-ray
drops no keyword and no call, and both start Python and its ten seconds of
imports anew for every mutant, where a fork of one warm process does.
"""

import argparse
import ast
import collections
import copy
import importlib
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time

from tests import conftest  # sets JAX's environment before it is imported

ROOT = conftest.ROOT
SURVIVORS = ROOT / 'tests' / 'mutation_survivors.txt'
TARGETS = ('objectives', 'train', 'metrics', 'data/preprocess.py')
# Where a module has no file of its own, or more than that.
MORE_TESTS = {
  'metrics/features.py': ('metrics/test_separation.py',),
  'metrics/moments.py': (
    'metrics/test_separation.py',
    'metrics/test_collapse.py',
  ),
  'train/checks.py': ('test_build.py', 'train/test_loop.py'),
  'train/loop.py': ('test_config_effects.py', 'data/test_bad_images.py'),
  'train/log.py': ('train/test_loop.py',),
  'train/memory.py': ('train/test_side_by_side.py',),
  'train/plan.py': ('train/test_loop.py',),
  'train/program.py': ('train/test_loop.py', 'test_config_effects.py'),
  'train/preemption.py': ('faults/test_preemption.py',),
  'train/watchdog.py': ('faults/test_preemption.py',),
}
# Imported once, before the first fork; none of them starts a thread.
_WARM = (
  'jax',
  'flax.linen',
  'optax',
  'orbax.checkpoint',
  'tensorflow',
  'tensorflow_datasets',
  'clu.metric_writers',
  'scipy.stats',
  'scipy.optimize',
  'scipy.special',
  'sklearn.linear_model',
  'sklearn.metrics',
  'jaxtyping',
  'ml_collections',
  'pytest',
)
_COMPARISONS = {
  ast.Lt: ast.LtE,
  ast.LtE: ast.Lt,
  ast.Gt: ast.GtE,
  ast.GtE: ast.Gt,
  ast.Eq: ast.NotEq,
  ast.NotEq: ast.Eq,
  ast.Is: ast.IsNot,
  ast.IsNot: ast.Is,
  ast.In: ast.NotIn,
  ast.NotIn: ast.In,
}
_OPERATORS = {
  ast.Add: ast.Sub,
  ast.Sub: ast.Add,
  ast.Mult: ast.Div,
  ast.Div: ast.Mult,
  ast.FloorDiv: ast.Mult,
  ast.Mod: ast.Mult,
  ast.Pow: ast.Mult,
  ast.BitAnd: ast.BitOr,
  ast.BitOr: ast.BitAnd,
}


def _replacements(node):
  """What one node may become; None deletes a statement."""
  match node:
    case ast.Compare(left=left, ops=[op], comparators=comparators):
      yield ast.Compare(left, [_COMPARISONS[type(op)]()], comparators)
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
      yield ast.BinOp(left, _OPERATORS[type(op)](), right)
    case ast.BoolOp(op=op, values=values):
      yield ast.BoolOp(
        ast.Or() if isinstance(op, ast.And) else ast.And(), values
      )
    case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
      yield operand
    case ast.Constant(value=bool(value)):
      yield ast.Constant(not value)
    case ast.Constant(value=int(value) | float(value)):
      yield ast.Constant(value + 1)
    case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
      for value in (False, True):
        if not (value and isinstance(node, ast.While)):
          changed = copy.copy(node)
          changed.test = ast.copy_location(ast.Constant(value), test)
          yield changed
    case ast.Call(func=func, args=args, keywords=keywords):
      for i, keyword in enumerate(keywords):
        if keyword.arg:
          yield ast.Call(func, args, keywords[:i] + keywords[i + 1 :])
      if args and not isinstance(args[0], ast.Starred):
        yield args[0]
    case ast.AugAssign() | ast.Expr(value=ast.Call()):
      yield None


def _is_mutable(parent, field, child):
  """Whether a part of the program is worth a mutant: no type, text, error."""
  if field in ('annotation', 'returns', 'decorator_list', 'bases'):
    return False
  if isinstance(child, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
    return False
  # jaxtyping's shapes and TypeVars at a module's head.
  return not (isinstance(parent, ast.Module) and isinstance(child, ast.Assign))


def _places(node, scope=()):
  """(scope, node, parent, field, index) of everything that may be mutated."""
  for field, value in ast.iter_fields(node):
    children = value if isinstance(value, list) else [value]
    for index, child in enumerate(children):
      if not isinstance(child, ast.AST) or not _is_mutable(node, field, child):
        continue
      inner = scope
      if isinstance(child, ast.FunctionDef | ast.ClassDef):
        inner = (*scope, child.name)
      where = index if isinstance(value, list) else None
      yield inner, child, node, field, where
      yield from _places(child, inner)


def _say(node, *, width=60):
  """The head of its source, on one line."""
  if node is None:
    return 'nothing'
  if isinstance(node, ast.If | ast.While):
    node = node.test
  text = ' '.join(ast.unparse(node).split())
  return text if len(text) <= width else f'{text[: width - 4]} ...'


class Mutant:
  """One change of one module.

  Attributes:
    path: of the module, relative to the package.
    name: place and change; the same after other lines have moved.
    line: of the change.
  """

  def __init__(self, path, tree, place, replacement):
    scope, node, parent, *where = place
    self.path = path
    self.line = node.lineno
    self._tree, self._parent, self._where = tree, parent, where
    name = f'{path} {".".join(scope)}'
    if isinstance(parent, ast.expr | ast.keyword):
      name += f' in {_say(parent)}'
    self.name = f'{name}: {_say(node)} -> {_say(replacement)}'
    if replacement is None:
      replacement = ast.Pass()
    self._replacement = ast.copy_location(replacement, node)

  def compile(self):
    """Code of the changed module; for one mutant of a module only."""
    field, index = self._where
    if index is None:
      setattr(self._parent, field, self._replacement)
    else:
      getattr(self._parent, field)[index] = self._replacement
    return compile(
      ast.fix_missing_locations(self._tree),
      str(ROOT / 'lossbench' / self.path),
      'exec',
    )


def mutants_of(path: str) -> list[Mutant]:
  """All mutants of a module, given relative to the package."""
  tree = ast.parse((ROOT / 'lossbench' / path).read_text())
  return [
    Mutant(path, tree, place, replacement)
    for place in _places(tree)
    for replacement in _replacements(place[1])
  ]


def _module_paths():
  package = ROOT / 'lossbench'
  for target in TARGETS:
    path = package / target
    for file in [path] if path.suffix else sorted(path.glob('*.py')):
      if file.stem != '__init__':
        yield str(file.relative_to(package))


def _tests_of(path: str) -> list[str]:
  """Test files of a module: its mirror and `MORE_TESTS`."""
  folder, name = path.split('/')
  found = [f'{folder}/test_{name}', *MORE_TESTS.get(path, ())]
  found = [ROOT / 'tests' / file for file in found]
  return [str(file) for file in found if file.exists()]


class _MutantImporter(importlib.machinery.SourceFileLoader):
  """Imports one module from its mutant."""

  def __init__(self, mutant):
    self._mutant = mutant
    name = 'lossbench.' + mutant.path.removesuffix('.py').replace('/', '.')
    super().__init__(name, str(ROOT / 'lossbench' / mutant.path))

  def find_spec(self, name, path=None, target=None):
    del path, target
    if name == self.name:
      return importlib.util.spec_from_file_location(
        name, self.path, loader=self
      )
    return None

  def get_code(self, fullname):
    del fullname
    return self._mutant.compile()


def _run(tests, mutant, *, limit_secs):
  """Whether the tests pass in a fork of this process, and seconds taken.

  A mutant that does not end is ended by the alarm, and noticed thereby.
  """
  began = time.monotonic()
  pid = os.fork()
  if not pid:
    status = 1
    try:
      signal.alarm(limit_secs)
      null = os.open(os.devnull, os.O_RDWR)
      for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
      if mutant is not None:
        sys.meta_path.insert(0, _MutantImporter(mutant))
      import pytest

      status = pytest.main(['-x', '-q', '-p', 'no:cacheprovider', *tests])
    finally:
      os._exit(int(status))
  _, status = os.waitpid(pid, 0)
  return status == 0, time.monotonic() - began


def _read_reasons() -> dict[str, str]:
  """Survivors listed before and why each may live."""
  reasons = {}
  if SURVIVORS.exists():
    for line in SURVIVORS.read_text().splitlines():
      name, _, reason = line.partition(' # ')
      reasons[name] = reason
  return reasons


def _parse_flags():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--sample', type=int, default=120, help='mutants')
  parser.add_argument('--seed', type=int, default=0, help='of the sample')
  parser.add_argument('--only', default='', help='part of a module path')
  return parser.parse_args()


def _survivors_of(path, mutants) -> set[str]:
  """Runs the tests of one module against its mutants; names of the unnoticed.

  Raises:
    RuntimeError: if no test mirrors the module, or fails without a mutant.
  """
  tests = _tests_of(path)
  if not tests:
    raise RuntimeError(f'No test file mirrors {path}: add to MORE_TESTS.')
  passes, secs = _run(tests, None, limit_secs=900)
  if not passes:
    raise RuntimeError(f'{path}: its tests fail without any mutant.')
  survivors = set()
  for mutant in mutants:
    survived, _ = _run(tests, mutant, limit_secs=60 + int(4 * secs))
    if survived:
      survivors.add(mutant.name)
      print(f'line {mutant.line} survives: {mutant.name}', flush=True)
  print(f'{path}: {len(mutants) - len(survivors)} of {len(mutants)} noticed')
  return survivors


def main():
  flags = _parse_flags()
  every = [m for path in _module_paths() for m in mutants_of(path)]
  drawn = random.Random(flags.seed).sample(every, min(flags.sample, len(every)))
  by_path = collections.defaultdict(list)
  for mutant in drawn:
    if flags.only in mutant.path:
      by_path[mutant.path].append(mutant)
  for name in _WARM:
    importlib.import_module(name)
  survivors = set()
  for path, mutants in sorted(by_path.items()):
    survivors |= _survivors_of(path, mutants)
  run = {mutant.name for mutants in by_path.values() for mutant in mutants}
  print(f'{len(run) - len(survivors)} of {len(run)} mutants noticed.')

  reasons = _read_reasons()
  # Of those that were not run this time, what the code still has.
  kept = reasons.keys() & {mutant.name for mutant in every} - run
  lines = [
    f'{name} # {reasons[name]}' if reasons.get(name) else name
    for name in sorted(kept | survivors)
  ]
  SURVIVORS.write_text(''.join(f'{line}\n' for line in lines))
  sys.exit(any(not reasons.get(name) for name in survivors))


if __name__ == '__main__':
  main()
