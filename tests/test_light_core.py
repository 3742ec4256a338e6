"""What `pip install lossbench` brings without the extra `train`.

Here every module of that extra is refused, as if it were not installed.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from lossbench import cli

# Found by Python before anything else is imported.
REFUSE = f"""
import sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {cli.EXTRAS['train']!r}:
      raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Refuse())
"""
# Objectives, a model, metrics and logistic regression, each at work.
CORE = """
import jax, numpy as np
from lossbench import metrics, models
from lossbench.objectives import create_objective
from lossbench.probe import knn, logistic_regression

objective = create_objective('sigmoid')
logits, targets = np.zeros((2, 3), np.float32), np.eye(3, dtype=np.float32)[:2]
assert objective.per_example_loss(logits, targets).shape == (2,)
model = models.Classifier(
  models.create_backbone('digits_cnn', image_size=8, width=2),
  objective.output_layer(num_classes=3),
)
images = np.zeros((1, 8, 8, 1), np.float32)
variables = model.init(jax.random.key(0), images, train=False)
assert model.apply(variables, images, train=False)['logits'].shape == (1, 3)
for name in metrics.__all__:
  getattr(metrics, name)
"""


@pytest.fixture
def python(root, tmp_path):
  """Runs Python where the modules of the extra are not to be found."""
  (tmp_path / 'sitecustomize.py').write_text(REFUSE)

  def run(*arguments):
    return subprocess.run(
      [sys.executable, *map(str, arguments)],
      cwd=root,
      env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{root}'},
      capture_output=True,
      text=True,
      check=False,
    )

  return run


def test_the_core_works_without_the_extra(python):
  result = python('-c', CORE)
  assert result.returncode == 0, result.stderr


def test_logistic_regression_of_arrays_works_without_the_extra(
  python, tmp_path
):
  rng = np.random.default_rng(0)
  for name in ('train', 'test'):
    labels = np.repeat(np.arange(3), 10)
    features = rng.normal(size=(30, 4)) + 3 * np.eye(3, 4)[labels]
    np.savez(tmp_path / f'{name}.npz', features=features, labels=labels)
  result = python(
    *('-m', 'lossbench.fit_path', '--l2_values=0.1,1'),
    *(f'--{name}={tmp_path / name}.npz' for name in ('train', 'test')),
    f'--output={tmp_path}/out',
  )
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'out' / 'metrics.json').exists()


def test_predictions_are_scored_without_the_extra(python, tmp_path):
  rng = np.random.default_rng(0)
  labels = np.arange(60) % 3
  logits = rng.normal(size=(60, 3)) + 2 * np.eye(3)[labels]
  np.savez(tmp_path / 'a.npz', logits=logits.astype(np.float32), labels=labels)
  result = python(
    *('-m', 'lossbench.score', f'--predictions={tmp_path}/a.npz'),
    f'--output={tmp_path}/out',
  )
  assert result.returncode == 0, result.stderr
  assert 'top1_accuracy' in result.stdout


@pytest.mark.parametrize(
  'arguments',
  [
    ['main.py', '--config=configs/digits_cnn.py:softmax'],
    ['-m', 'lossbench.evaluate'],
    ['-m', 'lossbench.study', '--config=configs/studies/digits.py'],
    ['-m', 'lossbench.transfer', '--dataset=digits'],
  ],
  ids=lambda arguments: arguments[-1],
)
def test_what_needs_the_extra_says_so_in_one_line(python, tmp_path, arguments):
  result = python(*arguments, f'--workdir={tmp_path}/run')
  assert result.returncode == 1
  [line] = result.stderr.splitlines()
  assert line.startswith('Error: this needs ')
  assert line.endswith(': pip install -e .[train] (in the checkout).')
  assert not (tmp_path / 'run').exists()
