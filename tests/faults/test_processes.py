"""Two processes of two devices do what one process of four does."""

import json
import shutil

import numpy as np
import pytest

from tests.faults.processes import RECIPE, run, run_two


@pytest.fixture(scope='module')
def trained(digits_dir, tmp_path_factory):
  """Histories and directories of both ways to train."""
  root = tmp_path_factory.mktemp('processes')
  command = ('main.py', *RECIPE, f'--config.data_dir={digits_dir}')
  # Dropout draws one stream a device, the same on any number of processes.
  status = run(*command, f'--workdir={root / "one"}', log=root / 'one.log')
  assert status == 0, (root / 'one.log').read_text()
  statuses = run_two(*command, f'--workdir={root / "two"}', logs=root / 'logs')
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
  for verb, *more in (
    ('evaluate', '--noood'),
    ('transfer', '--dataset=digits_high'),
  ):
    command = ('-m', f'lossbench.{verb}', *more)
    path = trained / f'{verb}.log'
    assert run(*command, f'--workdir={trained / "a"}', log=path) == 0
    logs = trained / f'{verb}_logs'
    workdir = f'--workdir={trained / "b"}'
    assert run_two(*command, workdir, logs=logs) == [0, 0]
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
