"""The real loop on real digits with a tiny model: log, holdout, stop, resume."""

import glob
import json

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from configs import digits_cnn
from lossbench import build
from lossbench.runs.checkpoints import Checkpointer, load_checkpoint
from lossbench.runs.directory import RunDirectory
from lossbench.train import initialization, loop, program, step
from lossbench.train.checks import check_config
from lossbench.train.plan import build_plan


def tiny_config(data_dir: str, objective: str = 'sigmoid'):
  config = digits_cnn.get_config(objective)
  config.data_dir = data_dir
  config.model.width = 4
  config.batch_size = 64
  config.num_epochs = 2.0
  config.eval_every_epochs = 1.0
  config.log_every_steps = 8
  return config


@pytest.fixture(scope='module')
def trained(digits_dir, tmp_path_factory):
  """A finished run: (config, workdir)."""
  config = tiny_config(digits_dir)
  config.keep_every_epochs = 0.5
  workdir = tmp_path_factory.mktemp('runs') / 'tiny'
  loop.train(config, workdir=str(workdir))
  return config, workdir


def _arrays(workdir, step=None):
  with Checkpointer(workdir / 'checkpoints', read_only=True) as checkpointer:
    return checkpointer.restore(step or checkpointer.steps[-1]).arrays


def test_run_directory_tells_all(trained):
  config, workdir = trained
  assert RunDirectory(workdir).read_config().to_dict() == json.loads(
    config.to_json()
  )
  about = json.loads((workdir / 'run.json').read_text())
  assert about['objective'] == 'sigmoid'
  assert {'lossbench_version', 'jax_version', 'command'} <= about.keys()
  (start,) = about['starts']
  assert start['dataset']['name'] == 'digits'
  assert (start['devices'], start['processes'], start['step']) == (4, 1, 0)
  assert start['libraries']['jax'] == about['jax_version']
  assert 'source' not in about
  history = json.loads((workdir / 'history.json').read_text())
  assert [record['step'] for record in history] == [20, 40]
  assert [record['epoch'] for record in history] == [1.0, 2.0]
  assert all(0 <= record['top1_accuracy'] <= 1 for record in history)


def test_tensorboard_has_every_scalar(trained):
  _, workdir = trained
  events = event_accumulator.EventAccumulator(str(workdir)).Reload()
  # clu's writer stores scalars as tensors.
  tags = set(events.Tags()['tensors']) | set(events.Tags()['scalars'])
  assert {
    'train/loss',
    'train/loss/sigmoid',
    'train/top1_accuracy',
    'train/learning_rate',
    'train/gradient_norm',
    'train/parameter_norm',
    'train/logit_norm',
    'train/images_per_sec',
    'holdout/top1_accuracy',
    'holdout/nll',
    'holdout/ece',
  } <= tags


def test_rerunning_a_finished_run_changes_nothing(trained):
  config, workdir = trained
  before = _arrays(workdir)
  loop.train(config, workdir=str(workdir))
  jax.tree.map(np.testing.assert_array_equal, _arrays(workdir), before)


def test_stopped_run_is_the_first_part_of_the_whole_one(trained, tmp_path):
  """And that part's end was kept, for evaluate's --step to find."""
  config, workdir = trained
  with Checkpointer(workdir / 'checkpoints', read_only=True) as checkpointer:
    assert checkpointer.steps == [10, 20, 30, 40]
  stopped = config.copy_and_resolve_references()
  stopped.stop_epoch = 0.5
  stopped.keep_every_epochs = 0.0
  loop.train(stopped, workdir=str(tmp_path / 'stopped'))
  found = load_checkpoint(RunDirectory(tmp_path / 'stopped'), 'last')
  kept = load_checkpoint(RunDirectory(workdir), '10')
  assert found.step == kept.step == 10
  # The learning rate as well follows the schedule of the whole run.
  jax.tree.map(np.testing.assert_array_equal, found.arrays, kept.arrays)


def test_another_config_in_the_same_workdir_is_refused(trained):
  config, workdir = trained
  other = config.copy_and_resolve_references()
  other.learning_rate = 0.123
  with pytest.raises(
    ValueError, match=r'learning_rate: 0\.1 there, 0\.123 now'
  ):
    loop.train(other, workdir=str(workdir))


def test_non_finite_loss_stops_with_step_and_objective(digits_dir, tmp_path):
  config = tiny_config(digits_dir, 'squared_error')
  # Nothing moves at step 1, everything explodes at step 2.
  config.learning_rate = 1e25
  config.warmup_epochs = 1.0
  config.checkpoint_every_steps = 1
  with pytest.raises(
    FloatingPointError,
    match=r"parameter_norm is inf at step 2 with objective 'squared_error'",
  ):
    loop.train(config, workdir=str(tmp_path / 'run'))
  arrays = _arrays(tmp_path / 'run')
  assert arrays['step'] == 1
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(arrays['params']))


def test_bfloat16_keeps_float32_state_and_trains_without_holdout(
  digits_dir, tmp_path
):
  config = tiny_config(digits_dir)
  config.compute_dtype = 'bfloat16'
  config.num_holdout = 0
  config.ema_decay = 0.0
  config.data_on_device = False
  config.num_epochs = 0.2
  config.checkpoint_every_steps = 1
  config.keep_checkpoints = 3
  loop.train(config, workdir=str(tmp_path / 'run'))
  assert RunDirectory(tmp_path / 'run').committed_steps == [2, 3, 4]
  arrays = _arrays(tmp_path / 'run')
  assert arrays['ema'] is None
  assert {x.dtype.name for x in jax.tree.leaves(arrays['params'])} == {
    'float32'
  }
  assert not (tmp_path / 'run' / 'history.json').exists()


@pytest.mark.parametrize(
  ('field', 'value', 'error', 'text'),
  [
    ('dataset', 'cifr10', ValueError, 'Unknown dataset'),
    (
      'num_classes',
      11,
      ValueError,
      'has 10 classes, but --config.num_classes=11',
    ),
    ('image_size', 16, ValueError, r'8 x 8 pixels, but .*=16\. Set it to 8\.'),
    ('num_epochs', 1e9, ValueError, 'more than the 2147483647 that can be'),
    ('num_holdout', 1442, ValueError, 'num_holdout must be in'),
    ('batch_size', 1304, ValueError, 'is more than the 1300 training examples'),
    ('schedule', 'cosin', ValueError, 'Unknown schedule'),
    ('compute_dtype', 'float16', ValueError, 'compute_dtype must be one of'),
  ],
)
def test_refused_before_anything_is_written(
  digits_dir, tmp_path, field, value, error, text
):
  config = tiny_config(digits_dir)
  config[field] = value
  with pytest.raises(error, match=text):
    loop.train(config, workdir=str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_one_mean_a_channel_of_the_data(digits_dir, tmp_path):
  config = tiny_config(digits_dir)
  config.pixel_mean = config.pixel_std = (0.5, 0.5, 0.5)
  with pytest.raises(ValueError, match=r'1 channel.*pixel_mean has 3 value'):
    loop.train(config, workdir=str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'decay_per_epoch': 0.9}, r'decay_per_epoch=0.9 would be ignored.*=expon'),
    ({'ema_decay': 0.0, 'ema_ramp': False}, 'ema_ramp=False would be ignored'),
    (
      {'precision': 'highest', 'compute_dtype': 'bfloat16'},
      'precision=highest would be ignored.*compute_dtype=float32',
    ),
    ({'init_step': 'last'}, 'init_step=last would be .*set --config.init_from'),
    ({'resize_ratio': 1.25}, 'resize_ratio=1.25 would be ignored'),
    (
      {
        'resize_images': True,
        'data_on_device': False,
        'pixel_mean': (0.3,) * 3,
        'pixel_std': (0.3,) * 3,
      },
      'crop_padding=1 would be ignored. Leave it at 0, or set',
    ),
  ],
)
def test_fields_that_others_make_idle_are_refused(changes, text):
  config = tiny_config('')
  config.update(changes)
  with pytest.raises(ValueError, match=text):
    check_config(config)


def test_a_profile_that_a_run_is_too_short_for_is_refused():
  config = tiny_config('')
  config.profile_steps = 30
  assert build_plan(config, num_examples=1300).num_steps == 40
  config.profile_steps = 31
  with pytest.raises(ValueError, match='profile_steps=31 begin after step 10'):
    build_plan(config, num_examples=1300)


def test_a_warm_up_of_no_step_is_refused():
  config = tiny_config('')
  config.warmup_epochs = 0.03
  assert build_plan(config, num_examples=1300).steps_per_epoch == 20
  config.warmup_epochs = 0.02
  with pytest.raises(ValueError, match=r'=0\.02 is less than half a step, of'):
    build_plan(config, num_examples=1300)


def test_a_mistake_that_the_step_finds_leaves_no_directory(
  digits_dir, tmp_path, monkeypatch
):
  """Everything is traced before the directory is claimed."""

  def broken(*arguments, **options):
    raise ValueError('shapes disagree')

  monkeypatch.setattr(step, 'mixup', broken)
  config = tiny_config(digits_dir)
  config.mixup_alpha = 0.2
  config.decay_batch_norm = True  # a step that no other test has traced
  with pytest.raises(ValueError, match='shapes disagree'):
    loop.train(config, workdir=str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_plan_turns_epochs_into_steps():
  config = tiny_config('')
  config.checkpoint_every_steps = 3
  plan = build_plan(config, num_examples=1300)
  assert (plan.steps_per_epoch, plan.num_steps, plan.eval_every) == (20, 40, 20)
  saves = [step for step in range(1, 41) if plan.should_save(step)]
  assert saves == sorted({*range(3, 40, 3), 20, 40})


def test_plan_stops_early_and_saves_what_is_kept():
  config = tiny_config('')
  config.stop_epoch = 1.26
  config.keep_every_epochs = 0.35
  plan = build_plan(config, num_examples=1300)
  assert (plan.num_steps, plan.keep_every) == (25, 7)
  saves = [step for step in range(1, 26) if plan.should_save(step)]
  assert saves == [7, 14, 20, 21, 25]
  config.keep_every_epochs = 0.01  # less than a step
  assert build_plan(config, num_examples=1300).keep_every == 1


def test_initial_state_is_a_function_of_the_seed():
  config = tiny_config('')
  config.ema_decay = 0.5

  def initial(seed):
    config.seed = seed
    return initialization.initial_state(
      config, program.build_step_hparams(config)
    )

  first, again, other = initial(1), initial(1), initial(2)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernel = first.params['output_layer']['kernel']
  assert not np.array_equal(kernel, other.params['output_layer']['kernel'])
  bias = first.params['output_layer']['bias']
  np.testing.assert_allclose(bias, -np.log(10), rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, first.ema['params'], first.params)
  assert build.build_objective(config).name == 'sigmoid'


def test_profile_writes_a_trace(digits_dir, tmp_path):
  config = tiny_config(digits_dir)
  config.profile_steps = 2
  config.num_epochs = 0.8
  loop.train(config, workdir=str(tmp_path / 'run'))
  assert glob.glob(f'{tmp_path}/run/**/*.xplane.pb', recursive=True)


def test_the_learning_rate_scales_with_the_batch():
  config = digits_cnn.get_config()
  config.learning_rate, config.batch_size = 0.8, 64
  config.learning_rate_batch_size = 256
  assert program.build_step_hparams(config).learning_rate == pytest.approx(0.2)
