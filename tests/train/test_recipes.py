"""The paper's recipes on real images: they train, resume, scale their rates."""

import shutil

import jax
import numpy as np
import pytest

from configs import cifar10_all_cnn, imagenet_resnet50
from lossbench.runs.checkpoints import Checkpointer
from lossbench.train import loop, program


def _final_arrays(workdir):
  with Checkpointer(workdir / 'checkpoints', read_only=True) as checkpointer:
    step = checkpointer.steps[-1]
    return step, checkpointer.restore(step).arrays


def test_resume_is_bit_identical_with_autoaugment_and_mixup(
  real_data_dir, tmp_path
):
  config = cifar10_all_cnn.get_config('sigmoid+mixup+autoaugment')
  assert config.objective.name == 'sigmoid'
  assert config.mixup_alpha > 0
  assert config.autoaugment == 'cifar'
  config.data_dir = real_data_dir
  config.model.width_multiplier = 0.05
  config.batch_size = 16
  config.checkpoint_every_steps = 4
  config.keep_checkpoints = 10
  config.learning_rate = 0.01
  config.num_holdout = 0
  config.num_epochs = 10 / 3125
  whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
  loop.train(config, workdir=str(whole))
  shutil.copytree(whole, resumed)
  for step in ('000000008', '000000010'):
    shutil.rmtree(resumed / 'checkpoints' / step)
  loop.train(config, workdir=str(resumed))
  step, expected = _final_arrays(whole)
  assert step == 10
  found_step, found = _final_arrays(resumed)
  assert found_step == 10
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_rates_follow_the_paper_and_scale_only_when_asked():
  config = cifar10_all_cnn.get_config('sigmoid')
  hparams = program.build_step_hparams(config)
  assert hparams.learning_rate == 1.0
  # The coefficient of L2 is lambda / eta.
  softmax = program.build_step_hparams(cifar10_all_cnn.get_config('softmax'))
  assert softmax.weight_decay == pytest.approx(10**-3.75 / 10**-0.75)
  assert hparams.mixup_alpha is None

  config = imagenet_resnet50.get_config('softmax+mixup')
  config.batch_size = 1024
  assert program.build_step_hparams(config).learning_rate == 1.6
  config.learning_rate_batch_size = 4096
  hparams = program.build_step_hparams(config)
  assert hparams.learning_rate == pytest.approx(0.4)
  assert hparams.weight_decay == 8e-5
  assert hparams.mixup_alpha == 0.2
