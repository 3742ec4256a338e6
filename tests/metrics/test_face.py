"""What `lossbench.metrics` offers to people with arrays."""

import ast
import doctest
import importlib.util
import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lossbench import logistic_regression, metrics

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# metric -> the test, in test_<module>.py, that compares it with what somebody
# else computes: SciPy, scikit-learn, loops, values by hand.
ORACLES = {
  'adaptive_calibration_error': 'test_adaptive_loops',
  'adaptive_classwise_error': 'test_adaptive_loops',
  'angular_visual_hardness': 'test_naive_loop',
  'auroc': 'test_auroc_scikit_learn',
  'brier_score': 'test_scikit_learn',
  'class_centroids': 'test_class_centroids',
  'class_separation': 'test_equation_11',
  'classwise_calibration_error': 'test_classwise_loops',
  'cluster_models': 'test_clustering_is_average_linkage',
  'cosine_distances': 'test_scipy',
  'energy_score': 'test_scores',
  'ensemble_log_probs': 'test_ensemble_is_the_mean_probability',
  'expected_calibration_error': 'test_ece_loop',
  'fit_temperature': 'test_fit_scipy',
  'fpr_at_95_tpr': 'test_fpr_scikit_learn',
  'linear_cka': 'test_linear_by_definition',
  'max_probability_score': 'test_scores',
  'minibatch_cka': 'test_minibatches_by_definition',
  'negative_log_likelihood': 'test_nll_scikit_learn',
  'neural_collapse': 'test_definitions',
  'nonzero_fraction': 'test_numpy',
  'pairwise_agreement': 'test_naive_loops',
  'participation_ratio': 'test_participation_ratio',
  'rbf_cka': 'test_rbf_by_definition',
  'singular_values': 'test_scipy',
  'smooth_density': 'test_scipy_with_mirrors',
  'temper': 'test_temper',
  'top1_accuracy': 'test_plain_functions',
  'top5_accuracy': 'test_plain_functions',
  'top_k_correct': 'test_scikit_learn',
}


def _functions(tree):
  return {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}


def _names(node):
  return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


@pytest.mark.parametrize('name', metrics.__all__)
def test_every_metric_has_an_oracle(name):
  assert name in ORACLES, f'Name its test against an oracle in {__file__}'
  function = getattr(metrics, name).__wrapped__
  module = function.__module__.rpartition('.')[2]
  path = HERE / f'test_{module}.py'
  functions = _functions(ast.parse(path.read_text()))
  names = _names(functions[ORACLES[name]])
  for helper in names & set(functions):
    names |= _names(functions[helper])
  assert name in names, f'{ORACLES[name]} of {path.name} does not call {name}'


@pytest.mark.parametrize('name', metrics.__all__)
def test_every_metric_says_what_it_takes_and_gives(name):
  text = inspect.getdoc(getattr(metrics, name))
  arguments = text.partition('Args:')[2]
  assert '[' in arguments, 'shapes'
  assert 'Returns:' in arguments or 'Raises:' in arguments


def _run_examples(text, name, globs):
  """Runs a docstring; without torch as far as it needs none."""
  test = doctest.DocTestParser().get_doctest(text, globs, name, None, 0)
  assert test.examples
  if importlib.util.find_spec('torch') is None:
    needs = ['torch' in example.source for example in test.examples]
    test.examples = test.examples[: [*needs, True].index(True)]
  runner = doctest.DocTestRunner()
  assert runner.run(test).failed == 0


@pytest.mark.parametrize('name', metrics.__all__)
def test_every_metric_has_an_example(name):
  text = inspect.getdoc(getattr(metrics, name))
  _run_examples(text, name, {'np': np, 'metrics': metrics})


@pytest.mark.parametrize('module', [metrics, logistic_regression])
def test_examples_of_the_modules(module):
  _run_examples(module.__doc__, module.__name__, {})


def test_the_face_is_listed_and_lazy():
  assert set(metrics.__all__) <= set(dir(metrics))
  with pytest.raises(AttributeError, match="no attribute 'top9_accuracy'"):
    _ = metrics.top9_accuracy
  program = (
    'import sys; from lossbench.metrics import smooth_density; '
    'sys.exit("jax" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)


def test_the_readmes_example():
  readme = (ROOT / 'README.md').read_text()
  _, _, section = readme.partition('## Metrics on your own arrays')
  example = section.partition('```python')[2].partition('```')[0]
  assert example.count('>>>') > 5
  _run_examples(example, 'README', {})
