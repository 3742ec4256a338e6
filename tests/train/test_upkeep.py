"""Evaluation and checkpoints come between steps, and the devices never wait."""

import jax
import numpy as np
import pytest

from lossbench.evaluation.loop import Evaluator
from lossbench.runs.checkpoints import Checkpointer
from lossbench.runs.directory import RunDirectory, read_json
from lossbench.train import loop, program
from lossbench.train.dispatch import Batches
from tests.train.test_loop import tiny_config


@pytest.fixture
def events(monkeypatch):
  """What is done, in order: ('steps' | 'evaluate' | 'fetch' | 'save', step)."""
  found = []
  start, save = Evaluator.start, Checkpointer.save

  def recorded_start(self, variables, **options):
    step = [number for name, number in found if name == 'steps'][-1]
    found.append(('evaluate', step))
    finish = start(self, variables, **options)

    def recorded_finish():
      found.append(('fetch', step))
      return finish()

    return recorded_finish

  def recorded_save(self, state, *, history):
    step = save(self, state, history=history)
    found.append(('save', step))
    return step

  def build_train_step(*arguments, **options):
    step_fn = program.build_train_step(*arguments, **options)
    done = [0]

    def recorded_step(state, *arguments):
      if not isinstance(state.step, jax.core.Tracer | jax.ShapeDtypeStruct):
        done[0] += int(arguments[-1])
        found.append(('steps', done[0]))
      return step_fn(state, *arguments)

    return recorded_step

  monkeypatch.setattr(Evaluator, 'start', recorded_start)
  monkeypatch.setattr(Checkpointer, 'save', recorded_save)
  monkeypatch.setattr(loop, 'build_train_step', build_train_step)
  return found


def test_steps_are_dispatched_between_an_evaluation_and_its_result(
  events, digits_dir, tmp_path
):
  config = tiny_config(digits_dir)
  config.log_every_steps = 100
  config.steps_per_dispatch = 5
  loop.train(config, workdir=str(tmp_path))
  order = [event for event in events if event[0] != 'steps']
  assert order == [
    (name, step) for step in (20, 40) for name in ('evaluate', 'fetch', 'save')
  ]
  begun = events.index(('evaluate', 20))
  assert events[begun - 1 : begun + 2] == [
    ('steps', 20),
    ('evaluate', 20),
    ('steps', 25),  # given to the devices before anything is waited for
  ]
  assert events.index(('fetch', 20)) > events.index(('steps', 25))
  assert events.index(('save', 20)) < events.index(('evaluate', 40))
  assert events[-1] == ('save', 40)
  history = read_json(tmp_path / 'history.json')
  assert [record['step'] for record in history] == [20, 40]


def test_what_was_begun_before_an_error_is_kept(
  events, digits_dir, tmp_path, monkeypatch
):
  """As if it had been done at once."""
  config = tiny_config(digits_dir)
  config.steps_per_dispatch = 1
  take, taken = Batches.take, []

  def broken_take(self, count):
    if len(taken) == 20:
      raise OSError('the data are gone')
    taken.append(count)
    return take(self, count)

  monkeypatch.setattr(Batches, 'take', broken_take)
  with pytest.raises(OSError, match='the data are gone'):
    loop.train(config, workdir=str(tmp_path))
  assert events[-4:] == [
    ('steps', 20),
    ('evaluate', 20),
    ('fetch', 20),
    ('save', 20),
  ]
  assert RunDirectory(tmp_path).committed_steps == [20]
  (record,) = read_json(tmp_path / 'history.json')
  with Checkpointer(tmp_path / 'checkpoints', read_only=True) as checkpointer:
    checkpoint = checkpointer.restore(20)
  assert checkpoint.history == [record]
  assert np.asarray(checkpoint.arrays['step']) == 20
