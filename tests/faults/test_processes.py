"""Two processes of two devices do what one process of four does."""

import json
import shutil

import numpy as np
import pytest

from lossbench.train import loop
from tests.faults.measure import measure
from tests.faults.processes import RECIPE, recipe_config, run_two


@pytest.fixture(scope='module')
def trained(digits_dir, tmp_path_factory):
  """Directories of both ways to train; this process has four devices."""
  root = tmp_path_factory.mktemp('processes')
  # Dropout draws one stream a device, the same on any number of processes.
  loop.train(recipe_config(digits_dir), workdir=str(root / 'one'))
  statuses = run_two(
    'main.py',
    *RECIPE,
    f'--config.data_dir={digits_dir}',
    f'--workdir={root / "two"}',
    logs=root / 'logs',
  )
  assert statuses == [0, 0], (root / 'logs' / '0.log').read_text()
  return root


@pytest.mark.slow
def test_the_same_loss_curve(trained):
  one, two = (
    json.loads((trained / name / 'history.json').read_text())
    for name in ('one', 'two')
  )
  assert [r['step'] for r in one] == [r['step'] for r in two] == [20, 40, 60]
  for a, b in zip(one, two, strict=True):
    assert a['nll'] == pytest.approx(b['nll'], rel=1e-4)
  lines = (trained / 'logs' / '1.log').read_text()
  assert 'step ' not in lines  # only the first process reports


@pytest.mark.slow
def test_the_same_evaluation_transfer_and_comparison(trained):
  """Of one checkpoint: predictions bit for bit, sums but for their order."""
  for name in ('a', 'b'):
    shutil.copytree(trained / 'one', trained / name)
    shutil.copytree(trained / 'two', trained / f'{name}_other')
  measure(str(trained / 'a'), str(trained / 'a_other'))
  statuses = run_two(
    '-m',
    'tests.faults.measure',
    str(trained / 'b'),
    str(trained / 'b_other'),
    logs=trained / 'measure_logs',
  )
  assert statuses == [0, 0], (trained / 'measure_logs' / '0.log').read_text()
  one, two = (
    dict(np.load(trained / name / 'eval/digits-test/predictions.npz'))
    for name in ('a', 'b')
  )
  for name in ('id', 'label', 'logits'):
    np.testing.assert_array_equal(one[name], two[name])
  for folder in ('digits-test', 'transfer-digits_high'):
    one, two = (
      json.loads(
        (trained / name / 'eval' / folder / 'metrics.json').read_text()
      )['metrics']
      for name in ('a', 'b')
    )
    assert [m['name'] for m in one] == [m['name'] for m in two]
    for a, b in zip(one, two, strict=True):
      assert a['n'] == b['n']
      if a['name'].endswith(('accuracy', 'nll', 'ece', 'l2')):
        assert a['value'] == b['value'], a['name']
      elif a['name'] != 'gradient_norm':
        assert a['value'] == pytest.approx(b['value'], rel=1e-3, abs=1e-9)
  one, two = (
    json.loads((trained / name / 'comparison/comparison.json').read_text())
    for name in ('a', 'b')
  )
  assert one['agreement'] == two['agreement']
  assert one['ensembles'] == two['ensembles']
  assert one['cka'].keys() == two['cka'].keys()
  assert one['cka']['num_examples'] == two['cka']['num_examples'] == 200
  for part in ('layers', 'corresponding', 'features'):
    for kind, values in one['cka'][part].items():
      if kind.endswith('cka'):
        np.testing.assert_allclose(values, two['cka'][part][kind], atol=1e-6)
