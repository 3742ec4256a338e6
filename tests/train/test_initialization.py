"""Fine-tuning: what a run takes from another, and what it refuses."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import digits_cnn
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory
from lossbench.runs.stored import find_checkpoint
from lossbench.train import initialization, loop, program

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(tiny_runs, digits_dir):
  """Fine-tunes the tiny sigmoid run on half of the classes."""
  config = digits_cnn.get_config('softmax')
  config.data_dir = digits_dir
  config.dataset = 'digits_low'
  config.num_classes = 5
  config.model.width = 4
  config.batch_size = 64
  config.num_epochs = 1.0
  config.init_from = str(tiny_runs['sigmoid_0'])
  return config


def _start(config, tmp_path):
  source = initialization.load_source(config, RunDirectory(tmp_path / 'new'))
  hparams = program.build_step_hparams(config)
  fresh = initialization.initial_state(config, hparams)
  return fresh, initialization.start_from(fresh, source)


def test_the_backbone_is_the_sources_and_the_output_layer_new(
  config, tiny_runs, tmp_path
):
  fresh, state = _start(config, tmp_path)
  source = load_checkpoint(RunDirectory(tiny_runs['sigmoid_0']), 'best')
  averages = source.arrays['ema']
  for variables in (
    {'params': state.params, 'batch_stats': state.batch_stats},
    state.ema,
  ):
    jax.tree.map(
      np.testing.assert_array_equal,
      variables['params']['backbone'],
      averages['params']['backbone'],
    )
    jax.tree.map(
      np.testing.assert_array_equal,
      variables['batch_stats'],
      averages['batch_stats'],
    )
    np.testing.assert_array_equal(
      variables['params']['output_layer']['kernel'],
      fresh.params['output_layer']['kernel'],
    )
  assert state.params['output_layer']['kernel'].shape == (16, 5)
  assert state.step == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_parameters_of_other_shapes_are_refused(config, tmp_path):
  source = initialization.load_source(config, RunDirectory(tmp_path / 'new'))
  fresh = initialization.initial_state(
    config, program.build_step_hparams(config)
  )
  wider = jax.tree.map(lambda x: np.stack([x, x]), source.arrays)
  with pytest.raises(ValueError, match='have other shapes than those of this'):
    initialization.start_from(fresh, dataclasses.replace(source, arrays=wider))


def test_without_averages_of_its_own(config, tmp_path):
  config.ema_decay = 0.0
  _, state = _start(config, tmp_path)
  assert state.ema is None


def test_fine_tunes_and_resumes_without_the_source(config, tmp_path, tiny_runs):
  source = tmp_path / 'source'
  shutil.copytree(tiny_runs['sigmoid_0'], source)
  config.init_from = str(source)
  config.num_holdout = 100
  config.checkpoint_every_steps = 4
  workdir = tmp_path / 'run'
  loop.train(config, workdir=str(workdir))
  history = json.loads((workdir / 'history.json').read_text())
  assert history[-1]['step'] == 9
  checkpoints = sorted((workdir / 'checkpoints').iterdir())
  shutil.rmtree(checkpoints[-1])
  shutil.rmtree(source)
  loop.train(config, workdir=str(workdir))
  again = json.loads((workdir / 'history.json').read_text())
  assert again[-1]['nll'] == history[-1]['nll']
  about = json.loads((workdir / 'run.json').read_text())
  step, fingerprint = find_checkpoint(
    RunDirectory(tiny_runs['sigmoid_0']), 'best'
  )
  assert about['source'] == {
    'path': str(source),
    'step': step,
    'fingerprint': fingerprint,
  }
  assert [start['step'] for start in about['starts']] == [0, 8]


def test_killed_in_the_first_save_starts_from_the_source_again(
  config, tmp_path, digits_dir
):
  """By a process that dies where Orbax is about to commit."""
  program = """
import os, sys
from orbax.checkpoint._src.path import atomicity
async def die(self):
  os._exit(9)
atomicity.AtomicRenameTemporaryPath.finalize = die
sys.argv[0] = 'main.py'
import runpy; runpy.run_path('main.py', run_name='__main__')
"""
  workdir = tmp_path / 'run'
  arguments = [
    '--config=configs/digits_cnn.py:softmax',
    f'--workdir={workdir}',
    '--config.checkpoint_every_steps=4',
    '--config.num_classes=5',
    '--config.model.width=4',
    '--config.dataset=digits_low',
    '--config.batch_size=64',
    '--config.num_epochs=1',
    f'--config.data_dir={digits_dir}',
    f'--config.init_from={config.init_from}',
  ]
  killed = subprocess.run(
    [sys.executable, '-c', program, *arguments], cwd=ROOT, check=False
  )
  assert killed.returncode == 9
  run = RunDirectory(workdir)
  assert list(run.checkpoints_path.iterdir())  # what is left of the save
  assert not run.has_checkpoints()
  config.checkpoint_every_steps = 4
  loop.train(config, workdir=str(workdir))
  loop.train(config, workdir=str(tmp_path / 'whole'))
  jax.tree.map(
    np.testing.assert_array_equal,
    load_checkpoint(run, 'last').arrays,
    load_checkpoint(RunDirectory(tmp_path / 'whole'), 'last').arrays,
  )


@pytest.mark.parametrize(
  ('change', 'error', 'text'),
  [
    ({'init_from': 'nowhere'}, FileNotFoundError, 'not a run directory'),
    ({'init_step': '7'}, FileNotFoundError, 'no checkpoint of step 7'),
    ({'init_step': 'newest'}, ValueError, "'best', 'last' or a number"),
    ({'model.width': 8}, ValueError, "has model = .*'width': 4.*'width': 8"),
    ({'pixel_mean': (0.5,)}, ValueError, r'pixel_mean = \[0.3\], but .*0.5'),
  ],
)
def test_refusals_before_anything_is_written(
  config, tmp_path, change, error, text
):
  config.update_from_flattened_dict(change)
  with pytest.raises(error, match=text):
    loop.train(config, workdir=str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_run_is_not_its_own_source(config, tiny_runs):
  with pytest.raises(ValueError, match='is the --workdir itself'):
    initialization.load_source(config, RunDirectory(tiny_runs['sigmoid_0']))
