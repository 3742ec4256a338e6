"""Checkpoints found by their small files are those that Orbax finds."""

import shutil

import pytest

from lossbench.runs.checkpoints import open_checkpoints
from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runs.stored import best_step, find_checkpoint


@pytest.fixture
def run(tiny_runs, tmp_path):
  shutil.copytree(tiny_runs['sigmoid_0'], tmp_path / 'run')
  return RunDirectory(tmp_path / 'run')


@pytest.mark.parametrize('step', ['best', 'last', '20'])
def test_orbax_finds_the_same(run, step):
  with open_checkpoints(run) as checkpointer:
    number = checkpointer.resolve(step)
    fingerprint = checkpointer.fingerprint(number)
  assert find_checkpoint(run, step) == (number, fingerprint)


def _meta_path(run, step):
  return run.checkpoints_path / f'{step:09d}' / 'meta' / 'metadata'


@pytest.mark.parametrize(
  ('scores', 'best'), [((0.9, 0.8), 20), ((0.8, 0.9), 40), ((0.9, 0.9), 40)]
)
def test_the_best_is_the_latest_of_equals(run, scores, best):
  for step in (20, 40):
    path = _meta_path(run, step)
    meta = read_json(path)
    for record, score in zip(meta['history'], scores, strict=False):
      record['top1_accuracy'] = score
    write_json(path, meta)
  assert find_checkpoint(run, 'best').step == best
  shutil.rmtree(run.checkpoints_path / f'{best:09d}')
  assert find_checkpoint(run, 'best').step == 60 - best


@pytest.mark.parametrize('text', ['', '{', '[]', '{"history": []}'])
def test_a_damaged_checkpoint_is_none(run, text):
  _meta_path(run, 40).write_text(text)
  assert find_checkpoint(run, 'best').step == 20
  with open_checkpoints(run) as checkpointer:
    assert checkpointer.resolve('best') == 20
  assert find_checkpoint(run, 'last') is None
  assert find_checkpoint(run, '20').step == 20
  assert find_checkpoint(run, '30') is None
  shutil.rmtree(run.checkpoints_path)
  assert find_checkpoint(run, 'best') is None


def test_an_import_has_one_checkpoint_which_is_the_best():
  assert best_step([0], []) == 0
  # Of what was trained without a holdout nobody can tell.
  assert best_step([20], []) is None
  assert best_step([0, 20], []) is None
