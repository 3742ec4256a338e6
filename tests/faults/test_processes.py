"""Two processes of two devices do what one process of four does."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from lossbench.runs.directory import read_json
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


def _assert_the_same_predictions(one, two):
  """Of the same examples the same classes; logits but for their rounding."""
  for name in ('id', 'label'):
    np.testing.assert_array_equal(one[name], two[name])
  one, two = one['logits'], two['logits']
  np.testing.assert_array_equal(one.argmax(1), two.argmax(1))
  np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * np.abs(one).max())


def _assert_close(one, two, *, rtol):
  """Equal JSON but for the rounding of its numbers; 1/n is far above that."""
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert a == (b if isinstance(b, str) else pytest.approx(b, rel=rtol))


@pytest.fixture(scope='module')
def measured(trained, digits_dir):
  """`trained`, measured in both ways: 'a' by one process, 'b' by two."""
  for name in ('a', 'b'):
    shutil.copytree(trained / 'one', trained / name)
    shutil.copytree(trained / 'two', trained / f'{name}_other')
  # The same data set, of which one file has one more byte.
  shutil.copytree(f'{digits_dir}/digits', trained / 'tfds/digits')
  record = sorted((trained / 'tfds').rglob('*train.tfrecord*'))[0]
  record.write_bytes(record.read_bytes() + b'x')
  measure(str(trained / 'a'), str(trained / 'a_other'))
  statuses = run_two(
    '-m',
    'tests.faults.measure',
    str(trained / 'b'),
    str(trained / 'b_other'),
    str(trained / 'tfds'),
    logs=trained / 'measure_logs',
  )
  assert statuses == [0, 0], (trained / 'measure_logs' / '0.log').read_text()
  return trained


@pytest.mark.slow
def test_the_same_evaluation_transfer_and_comparison(measured):
  """Of one checkpoint: equal decisions, numbers but for float32's rounding.

  How many examples a device has decides how its compiler vectorises, so last
  bits may differ; on some CPUs they do.
  """
  _assert_the_same_predictions(
    *(
      dict(np.load(measured / name / 'eval/digits-test/predictions.npz'))
      for name in ('a', 'b')
    )
  )
  for folder in ('digits-test', 'transfer-digits_high'):
    one, two = (
      json.loads(
        (measured / name / 'eval' / folder / 'metrics.json').read_text()
      )['metrics']
      for name in ('a', 'b')
    )
    assert [m['name'] for m in one] == [m['name'] for m in two]
    for a, b in zip(one, two, strict=True):
      assert a['n'] == b['n']
      if a['name'].endswith(('accuracy', 'l2')):
        assert a['value'] == b['value'], a['name']
      elif a['name'].endswith(('nll', 'ece')):
        assert a['value'] == pytest.approx(b['value'], rel=1e-4), a['name']
      elif a['name'] != 'gradient_norm':
        assert a['value'] == pytest.approx(b['value'], rel=1e-3, abs=1e-9)
  one, two = (
    json.loads((measured / name / 'comparison/comparison.json').read_text())
    for name in ('a', 'b')
  )
  for part in ('agreement', 'ensembles'):
    _assert_close(one[part], two[part], rtol=1e-4)
  assert one['cka'].keys() == two['cka'].keys()
  assert one['cka']['num_examples'] == two['cka']['num_examples'] == 200
  for part in ('layers', 'corresponding', 'features'):
    for kind, values in one['cka'][part].items():
      if kind.endswith('cka'):
        np.testing.assert_allclose(values, two['cka'][part][kind], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('differing', 'text'),
  [
    (
      'seed',
      'The processes of this run differ in --config.seed: 0 in process 0 on '
      'HOST, 1 in process 1 on HOST. Start all',
    ),
    ('data', 'The processes of this run differ in the data set: '),
    (
      'checkpoint',
      'The processes of this run differ in the checkpoint of FOLDER/b_other: ',
    ),
    ('data set', "The processes of this run differ in the data set: {'"),
    (
      'split',
      "The processes of this run differ in the split: 'test' in process 0 on "
      "HOST, 'holdout' in process 1 on HOST.",
    ),
    (
      'replicas',
      'At step 9 1 of 4 devices hold another state than the others: 3 (of '
      'process 1).',
    ),
  ],
)
def test_what_differs_is_said_by_every_process(measured, differing, text):
  """By the same words; whatever is trained or measured, and nothing of it."""
  first, second = (
    read_json(measured / f'refused{index}.json') for index in range(2)
  )
  assert first[differing] == second[differing]
  text = text.replace('HOST', os.uname().nodename)
  assert first[differing].startswith(text.replace('FOLDER', str(measured)))
  assert not (measured / 'refused').exists()
  assert not list(measured.glob('refused_comparison/*'))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('command', 'second', 'text'),
  [
    (
      ('main.py', *RECIPE, '--workdir=WORKDIR'),
      '--allow=data',
      '--allow: [] in process 0 on HOST,',
    ),
    (
      ('-m', 'lossbench.evaluate', '--workdir=WORKDIR'),
      '--step=last',
      "--step: 'best' in process 0 on HOST, 'last' in process 1 on HOST.",
    ),
    (
      ('-m', 'lossbench.transfer', '--workdir=WORKDIR', '--dataset=digits_low'),
      '--dataset=digits_high',
      "--dataset: 'digits_low' in process 0 on HOST, 'digits_high' in",
    ),
    (
      ('-m', 'lossbench.compare', 'a', 'b', '--output=WORKDIR'),
      '--nocka',
      '--cka: True in process 0 on HOST, False in process 1 on HOST.',
    ),
  ],
)
def test_processes_of_different_commands_are_refused(
  command, second, text, tmp_path
):
  """On every process by the same line, before anything is read or written."""
  workdir = str(tmp_path / 'run')
  statuses = run_two(
    *(word.replace('WORKDIR', workdir) for word in command),
    logs=tmp_path / 'logs',
    second=(second,),
  )
  assert statuses == [1, 1]
  text = text.replace('HOST', os.uname().nodename)
  lines = [
    [line for line in log.read_text().splitlines() if 'Error' in line]
    for log in sorted((tmp_path / 'logs').iterdir())
  ]
  assert lines[0] == lines[1]
  assert len(lines[0]) == 1
  assert lines[0][0].startswith(
    f'Error: The processes of this run differ in {text}'
  )
  assert not (tmp_path / 'run').exists()
