"""Fine-tuning of a real run: what is trained, chosen and tested."""

import json
import shutil

import jax
import numpy as np
import pytest

from lossbench import build
from lossbench.data import datasets, pipeline, preprocess
from lossbench.data.examples import Examples
from lossbench.probe import finetuning
from lossbench.probe.finetuning import Grid, best_point, finetune_checkpoint
from lossbench.runs.checkpoints import load_checkpoint
from lossbench.runs.directory import RunDirectory

# The last diverges; its learning rate is that of no sane grid.
GRID = Grid((0.02, 1e25), (0.0,), 1.0, 64)


@pytest.fixture(scope='module')
def run(tiny_runs, tmp_path_factory):
  """A run directory of our own."""
  workdir = tmp_path_factory.mktemp('finetuning') / 'tiny'
  shutil.copytree(tiny_runs['sigmoid_0'], workdir)
  return workdir


@pytest.fixture(scope='module')
def found(run):
  return finetune_checkpoint(str(run), 'digits_high', grid=GRID, step='best')


def _one(path, pattern):
  [directory] = (path / 'finetune' / 'digits_high').glob(pattern)
  return directory


def test_the_final_run_is_tested_on_all_test_images(run, found, digits_dir):
  """By plain `jit`, from its own checkpoint."""
  final = RunDirectory(_one(run, 'final-*'))
  config = final.read_config()
  builder = datasets.open_dataset('digits_high', data_dir=digits_dir)
  images, labels = pipeline.load_examples(
    Examples(builder, 'test'), image_fn=preprocess.build_eval_image_fn(config)
  )
  classifier = build.build_classifier(config, build.build_objective(config))
  variables = load_checkpoint(final, 'last').eval_variables
  logits = jax.jit(lambda x: classifier.apply(variables, x, train=False))(
    build.build_normalize_fn(config)(images)
  )['logits']
  correct = np.asarray(logits).argmax(axis=1) == labels
  by_name = {record.name: record for record in found.records}
  assert by_name['top1_accuracy'].value == pytest.approx(correct.mean())
  assert by_name['top1_accuracy'].n == len(labels)
  assert by_name['mean_class_accuracy'].value == pytest.approx(
    np.mean([correct[labels == k].mean() for k in range(5)])
  )
  with np.load(run / 'eval/finetune-digits_high/per_example.npz') as stored:
    assert stored['top1_accuracy'].mean() == pytest.approx(correct.mean())
  # It began at the backbone, and went on from there, on all of train.
  begun = load_checkpoint(RunDirectory(run), 'best').eval_variables['params']
  for before, after in zip(
    jax.tree.leaves(begun['backbone']),
    jax.tree.leaves(variables['params']['backbone']),
    strict=True,
  ):
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert 0 < change < 0.9
  assert (config.num_holdout, config.objective.name) == (0, 'softmax')
  assert config.init_step == str(found.step)


def test_the_point_is_chosen_on_the_holdout(run, found):
  record = json.loads(
    (run / 'eval' / 'finetune-digits_high' / 'metrics.json').read_text()
  )
  assert record['grid'] == GRID.to_json()
  assert record['num_train'] == found.num_train
  good, diverged = record['path']
  point = _one(run, 'lr0.02-wd0-*')
  history = json.loads((point / 'history.json').read_text())
  assert good['holdout_accuracy'] == history[-1]['top1_accuracy']
  assert history[-1]['epoch'] == 1
  config = RunDirectory(point).read_config()
  assert config.num_holdout == round(0.2 * found.num_train)
  assert diverged['holdout_accuracy'] is None
  by_name = {record.name: record for record in found.records}
  assert by_name['learning_rate'].value == 0.02
  assert by_name['learning_rate'].note.startswith('at the edge of the grid')
  assert (
    by_name['holdout_accuracy'].note == '1 of 2 points of the grid diverged'
  )
  # Of what is only compared nothing is left but its history.
  assert not (point / 'checkpoints').exists()


def test_what_is_done_is_not_done_again(run, found, monkeypatch):
  from lossbench.train import loop

  class Trained(Exception):
    """A step was about to be taken."""

  def take_steps(*args):
    raise Trained

  point = _one(run, 'lr0.02-wd0-*')
  with monkeypatch.context() as patch:
    patch.setattr(loop, '_take_steps', take_steps)
    again = finetune_checkpoint(str(run), 'digits_high', grid=GRID)
    assert again.records == found.records
    (point / 'result.json').write_text('{')  # damaged
    with pytest.raises(Trained):
      finetune_checkpoint(str(run), 'digits_high', grid=GRID)


def test_points_of_other_checkpoints_or_grids_are_others(run, found):
  tunings = [
    finetuning._Finetuning(
      str(run), 'digits_high', grid=grid, step=step, data_dir=None
    )
    for grid, step in (
      (GRID, 'best'),
      (GRID, '20'),
      (Grid((0.02,), (0.0,), 2.0, 64), 'best'),
    )
  ]
  paths = {
    tuning._path(tuning._config(0.02, 0.0, 10), 'point') for tuning in tunings
  }
  assert len(paths) == len({t._outputs.step for t in tunings}) + 1


def test_best_point():
  def point(accuracy, nll):
    return {'holdout_accuracy': accuracy, 'holdout_nll': nll}

  path = [point(None, None), point(0.5, 0.1), point(0.6, 0.9), point(0.6, 0.8)]
  assert best_point(path) is path[3]
  with pytest.raises(ValueError, match='All 1 points of the grid diverged'):
    best_point(path[:1])


def test_images_of_another_size_are_resized(real_data_dir):
  from configs import cifar10_all_cnn
  from lossbench.train.checks import check_relations

  config = cifar10_all_cnn.get_config('cosine_softmax+mixup')
  for name, changed in (
    ('caltech101', {'resize_images': True, 'resize_ratio': 1.0}),
    ('cifar10', {'resize_images': False, 'crop_padding': 4}),
  ):
    builder = datasets.open_dataset(name, data_dir=real_data_dir)
    tuned = finetuning.build_finetuning_config(
      config,
      builder,
      dataset=name,
      source='/runs/a',
      step=7,
      grid=GRID,
      num_holdout=3,
      learning_rate=0.1,
      weight_decay=1e-4,
    )
    check_relations(tuned)  # refuses what would be ignored
    for field, value in changed.items():
      assert tuned[field] == value
    assert (tuned.mixup_alpha, tuned.ema_decay) == (0, 0)
    assert tuned.num_classes == datasets.count_classes(builder)
    assert config.mixup_alpha


def test_refusals(run):
  with pytest.raises(ValueError, match=r'is what .* was trained on'):
    finetune_checkpoint(str(run), 'digits', grid=GRID)
