"""A run directory as version 0.1 left it: read, continued or refused."""

import pathlib
import shutil

import pytest

from configs import digits_cnn
from configs.studies import default
from lossbench import build, early_stopping
from lossbench.data import preprocess
from lossbench.evaluation import loop
from lossbench.runs.directory import OPERATIONAL_FIELDS, RunDirectory
from lossbench.study import configuration, states

OLD = pathlib.Path(__file__).parent / 'version_0_1'


@pytest.fixture
def config():
  """The recipe that the run was made with, as it is now."""
  config = digits_cnn.get_config('sigmoid')
  config.num_epochs = 6.0
  return config


def _copy(path):
  shutil.copytree(OLD, path)
  (path / 'eval').mkdir()  # which a claim alone lacks
  return RunDirectory(path)


def test_every_field_of_today_has_the_value_of_then(config):
  old = RunDirectory(OLD).read_config()
  # What changes no number is nothing that a run was.
  assert set(config) - set(old) <= OPERATIONAL_FIELDS
  assert set(old) <= set(config)
  then = {
    'batch_norm_group': 0,
    'downscale': 1,
    'ema_ramp': False,
    'eval_crop': 'crop_then_resize',
    'precision': 'default',
    'resize_antialias': False,
    'resize_method': 'bilinear',
  }
  assert {name: old[name] for name in then} == then


def test_a_run_from_before_bad_images_could_be_skipped_raises(tmp_path):
  text = (OLD / 'config.json').read_text()
  assert '"on_bad_image": "raise",' in text
  (tmp_path / 'config.json').write_text(
    text.replace('"on_bad_image": "raise",', '')
  )
  assert RunDirectory(tmp_path).read_config().on_bad_image == 'raise'


def test_it_can_be_evaluated():
  """All that an evaluation builds from the configuration."""
  config = RunDirectory(OLD).read_config()
  assert build.build_objective(config).log_probs is not None
  assert loop.endpoint_names(config)[-2:] == ['features', 'logits']
  assert callable(preprocess.build_eval_image_fn(config))
  assert callable(build.build_normalize_fn(config))


def test_its_history_says_where_to_stop(capsys):
  best = early_stopping.report([str(OLD)])
  assert (best.epoch, best.step) == (6.0, 78)
  assert best.mean == pytest.approx(133 / 142)
  assert '--config.num_holdout=0 --config.stop_epoch=6' in (
    capsys.readouterr().out
  )


def test_the_same_training_continues_and_another_is_refused(config, tmp_path):
  run = _copy(tmp_path / 'run')
  with pytest.raises(ValueError, match=r'ema_ramp: False there, True now\. '):
    run.check_compatible(config)
  config.ema_ramp = False
  run.check_compatible(config)


def _study(workdir, *overrides):
  config = default.get_default_study()
  config.groups.old = default.group(
    'configs/digits_cnn.py',
    objectives=('sigmoid',),
    num_seeds=1,
    overrides=('num_epochs=6.0', *overrides),
  )
  return configuration.build_study(config, config_file='x.py', workdir=workdir)


def test_a_study_takes_it_or_refuses_it_alike(tmp_path):
  study = _study(tmp_path, 'ema_ramp=False')
  _copy(study.path(study.runs[0]))
  states.check_runs(study)
  message = (
    r'another configuration: ema_ramp: False there, True in the study\. '
  )
  with pytest.raises(ValueError, match=message):
    states.check_runs(_study(tmp_path))
