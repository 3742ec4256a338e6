"""Two processes of two devices do what one process of four does."""

import json
import shutil

import numpy as np
import pytest

from lossbench.evaluate import evaluate
from lossbench.train import loop
from lossbench.transfer import transfer
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
def test_the_same_evaluation_and_transfer(trained):
  """Of one checkpoint: predictions bit for bit, sums but for their order."""
  for name in ('a', 'b'):
    shutil.copytree(trained / 'one', trained / name)
  evaluate(workdir=str(trained / 'a'), ood=False)
  transfer(workdir=str(trained / 'a'), dataset='digits_high')
  workdir = f'--workdir={trained / "b"}'
  for verb, option in (
    ('evaluate', '--noood'),
    ('transfer', '--dataset=digits_high'),
  ):
    command = ('-m', f'lossbench.{verb}', workdir, option)
    logs = trained / f'{verb}_logs'
    assert run_two(*command, logs=logs) == [0, 0]
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
