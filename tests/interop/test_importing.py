"""An import makes a run directory like any other, or leaves no trace."""

import pathlib

import jax
import numpy as np
import pytest

from configs import digits_cnn
from lossbench.evaluation.checkpoint import evaluate_checkpoint
from lossbench.interop import formats, importing
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.train import loop
from tests.interop import arrays

KERNEL = 'params/output_layer/kernel'
MEAN = 'batch_stats/backbone/bn1/mean'


def _import(path, workdir, objective='softmax', seed=0, **options):
  importing.import_checkpoint(
    arrays.FORMAT,
    str(path),
    workdir=str(workdir),
    options={'objective': objective, 'seed': seed},
    **options,
  )


@pytest.fixture
def source(tmp_path):
  return arrays.write(tmp_path / 'a.npz')


@pytest.fixture
def imported(source, tmp_path, digits_dir):
  _import(source, tmp_path / 'run', data_dir=digits_dir)
  return RunDirectory(tmp_path / 'run')


def test_the_checkpoint_holds_the_arrays(imported):
  checkpoint = load_checkpoint(imported, 'last')
  assert checkpoint.step == 0
  found = checkpoint.eval_variables
  expected = arrays._variables('softmax', 0)
  assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))
  assert (imported.num_steps, imported.last_step) == (0, 0)


def test_records_say_where_it_came_from(imported, source):
  config = imported.read_config()
  assert (config.model.width, config.num_holdout) == (2, 0)
  assert config.learning_rate == digits_cnn.get_config().learning_rate
  found = imported.imported_from
  assert {'code', 'libraries'} < found.keys()
  assert found['author'] == 'somebody'
  assert (found['format'], found['path']) == ('arrays', source)
  checkpoint = load_checkpoint(imported, 'last')
  assert found['fingerprint'] == checkpoint.fingerprint


def test_it_is_evaluated_like_any_other(imported):
  found = evaluate_checkpoint(str(imported.path), step='best', ood=False)
  assert found.step == 0
  [accuracy] = [r for r in found.records if r.name == 'top1_accuracy']
  assert 0 <= accuracy.value <= 1
  assert read_json(imported.evaluation_path)['step'] == 0


def test_it_is_not_trained_but_can_be_fine_tuned(imported, tmp_path):
  config = imported.read_config()
  with pytest.raises(ValueError) as error:
    loop.train(config, workdir=str(imported.path))
  assert 'was imported from' in str(error.value)
  assert f'Give --config.init_from={imported.path}' in str(error.value)
  config.init_from, config.init_step = str(imported.path), 'last'
  config.num_epochs, config.batch_size = 1.0, 256
  loop.train(config, workdir=str(tmp_path / 'tuned'))
  assert RunDirectory(tmp_path / 'tuned').has_checkpoints()


def _truncate(run):
  for file in (run.checkpoints_path / '000000000/state').rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-9])


def test_the_same_import_again_changes_nothing_and_repairs(imported, source):
  before = imported.about_path.read_bytes()
  _import(source, imported.path, data_dir=imported.read_config().data_dir)
  assert imported.about_path.read_bytes() == before
  _truncate(imported)
  _import(source, imported.path, data_dir=imported.read_config().data_dir)
  assert load_checkpoint(imported, 'last').step == 0


@pytest.mark.parametrize('content', [b'{', None], ids=['damaged', 'gone'])
def test_a_lost_run_json_is_written_again(imported, source, content):
  before = imported.imported_from
  imported.about_path.unlink()
  if content:
    imported.about_path.write_bytes(content)
    with pytest.raises(ValueError, match='is damaged'):
      loop.train(imported.read_config(), workdir=str(imported.path))
  _import(source, imported.path, data_dir=imported.read_config().data_dir)
  assert imported.imported_from == before


def _refused(path, workdir, **options):
  existed = workdir.exists()
  with pytest.raises((ValueError, OSError)) as error:
    _import(path, workdir, **options)
  assert '\n' not in str(error.value)
  assert workdir.exists() == existed
  return str(error.value)


def test_other_runs_are_left_alone(imported, source, tmp_path):
  other = arrays.write(tmp_path / 'b.npz')
  assert 'a run that was imported from' in _refused(other, imported.path)
  arrays.write(tmp_path / 'a.npz', seed=1)
  assert 'Differing fields: seed: 0 there, 1 now' in _refused(
    source, imported.path, seed=1
  )


def _forget_fingerprint(run):
  """Makes run.json one of before it had the fingerprint."""
  about = read_json(run.about_path)
  del about['source']['fingerprint']
  write_json(run.about_path, about)


@pytest.mark.parametrize(
  'harm_fn',
  [lambda run: None, _truncate, _forget_fingerprint],
  ids=['whole', 'damaged', 'of before'],
)
def test_a_source_that_has_changed_is_refused(imported, source, harm_fn):
  data_dir = imported.read_config().data_dir
  harm_fn(imported)
  before = imported.about_path.read_bytes()
  old = imported.imported_from.get('fingerprint', '')
  arrays.write(pathlib.Path(source), **{KERNEL: arrays.arrays()[KERNEL] + 1})
  message = _refused(source, imported.path, data_dir=data_dir)
  assert f'held other arrays: fingerprint {old}' in message
  assert f'now of {source}. Choose another --workdir' in message
  assert imported.about_path.read_bytes() == before
  # As it was, it is found again, or mended.
  arrays.write(pathlib.Path(source))
  _import(source, imported.path, data_dir=data_dir)
  assert load_checkpoint(imported, 'last').step == 0


def test_a_trained_run_of_the_same_configuration_is_left_alone(
  imported, source
):
  about = read_json(imported.about_path)
  del about['source']
  write_json(imported.about_path, about)
  assert 'holds a run that was trained' in _refused(source, imported.path)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({KERNEL: None}, f'missing (1): {KERNEL}'),
    ({'params/x': np.zeros(3)}, 'left over (1): params/x'),
    ({MEAN: np.zeros(3)}, f'{MEAN} (3,), but {MEAN} is (2,)'),
    ({MEAN: np.full(2, np.nan)}, f'values that are not finite in {MEAN}'),
  ],
)
def test_arrays_that_do_not_fit_are_named(changes, message, tmp_path):
  path = arrays.write(tmp_path / 'a.npz', **changes)
  assert message in _refused(path, tmp_path / 'run')


def test_a_configuration_of_another_meaning_is_refused(source, tmp_path):
  config = digits_cnn.get_config('sigmoid')
  config.num_holdout = 0
  config.seed = 1
  message = _refused(source, tmp_path / 'run', config=config)
  assert 'objective.name=sigmoid instead of softmax' in message
  assert 'model.width=32 instead of 2' in message
  assert 'seed=1 instead of 0' in message


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'objective': None, 'seed': 0}, 'needs --objective: one of the nine'),
    ({'objective': 'softmax', 'seed': 0, 'x': 1}, '--x=1 is no option of'),
  ],
)
def test_options_are_those_of_the_format(given, message):
  with pytest.raises(ValueError) as error:
    formats.check_options(formats.get_format('loss_functions_transfer'), given)
  assert message in str(error.value)


def test_unknown_formats_are_answered_with_the_known_ones():
  with pytest.raises(ValueError, match='Known: loss_functions_transfer'):
    formats.get_format('loss_function')
