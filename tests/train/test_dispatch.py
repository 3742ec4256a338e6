"""Several steps in one call: the same numbers, and the host in time."""

import jax
import numpy as np
import pytest

from lossbench.data import device_data
from lossbench.runs.checkpoints import Checkpointer
from lossbench.runs.directory import RunDirectory, read_json
from lossbench.train import loop
from lossbench.train.dispatch import Batches, Pace
from lossbench.train.inputs import TrainInputs
from lossbench.train.plan import Plan
from tests.train.test_loop import _arrays, tiny_config


def _plan(**changes):
  fields = dict(
    steps_per_epoch=10,
    num_steps=100,
    eval_every=0,
    checkpoint_every=0,
    keep_every=0,
    keep_last=2,
    log_every=50,
    check_every=0,
    num_profiled=0,
  )
  return Plan(**{**fields, **changes})


def _ends(plan, *, start=0, **options):
  pace = Pace(plan, **{'fixed': 16, 'one_by_one': False, **options})
  ends, step = [], start
  while step < plan.num_steps:
    step = pace.last_step(step)
    ends.append(step)
  return ends


def test_nothing_is_dispatched_across_what_the_host_has_to_do():
  assert _ends(_plan()) == [16, 32, 48, 50, 66, 82, 98, 100]
  assert _ends(_plan(eval_every=20), start=37) == [40, 50, 60, 76, 80, 96, 100]
  assert _ends(_plan(num_steps=5)) == [5]
  assert _ends(_plan(num_steps=3), one_by_one=True) == [1, 2, 3]


def test_an_unmeasured_step_goes_alone_and_slow_ones_too():
  pace = Pace(_plan(), fixed=0, one_by_one=False)
  assert pace.last_step(0) == 1
  pace.observe(8.0)
  assert pace.last_step(0) == 4
  pace.observe(1e6)
  assert pace.last_step(0) == 16
  pace.observe(0.1)
  assert pace.last_step(0) == 1


def test_batches_of_several_steps_are_those_of_single_ones():
  def batches_fn(start_step, num_steps):
    return device_data.index_batches(
      num_examples=40,
      batch_size=8,
      seed=3,
      start_step=start_step,
      num_steps=num_steps,
    )

  inputs = TrainInputs(
    num_examples=40, data=None, batch_shapes={}, batches_fn=batches_fn
  )
  batches = Batches(inputs, 2, 9, size=4)
  taken = [batches.take(3), batches.take(4)]
  assert [dispatch.count for dispatch in taken] == [(3,), (4,)]
  found = [
    np.asarray(dispatch.batch['index'])[:, i].ravel()  # [devices, steps, ...]
    for dispatch in taken
    for i in range(dispatch.count[0])
  ]
  wanted = [batch['index'] for batch in batches_fn(2, 9)]
  np.testing.assert_array_equal(found, wanted)


@pytest.fixture(scope='module')
def one_by_one(digits_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('dispatch') / 'run'
  config = tiny_config(digits_dir)
  config.steps_per_dispatch = 1
  loop.train(config, workdir=str(workdir))
  return workdir


@pytest.mark.parametrize('size', [0, 5])
def test_parameters_are_those_of_one_step_at_a_time(
  size, one_by_one, digits_dir, tmp_path
):
  """To the last bit, and so are the lines of the log."""
  config = tiny_config(digits_dir)
  config.steps_per_dispatch = size
  loop.train(config, workdir=str(tmp_path))
  found, wanted = _arrays(tmp_path), _arrays(one_by_one)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  histories = [read_json(p / 'history.json') for p in (one_by_one, tmp_path)]
  assert histories[0] == histories[1]


def test_a_run_may_go_on_with_other_dispatches(
  one_by_one, digits_dir, tmp_path, monkeypatch
):
  """The number of steps of a dispatch is not part of a run's numbers."""
  config = tiny_config(digits_dir)
  config.steps_per_dispatch = 3
  save = Checkpointer.save

  class Killed(Exception):
    pass

  def save_and_die(self, *arguments, **options):
    save(self, *arguments, **options)
    self.wait()
    raise Killed

  monkeypatch.setattr(Checkpointer, 'save', save_and_die)
  with pytest.raises(Killed):
    loop.train(config, workdir=str(tmp_path))
  monkeypatch.undo()
  assert RunDirectory(tmp_path).last_step > 0
  config.steps_per_dispatch = 7
  loop.train(config, workdir=str(tmp_path))
  found, wanted = _arrays(tmp_path), _arrays(one_by_one)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_loss_that_is_not_finite_is_found_by_its_step(digits_dir, tmp_path):
  messages = []
  for size in (1, 6):
    config = tiny_config(digits_dir)
    config.learning_rate = 1e30
    config.steps_per_dispatch = size
    with pytest.raises(FloatingPointError) as error:
      loop.train(config, workdir=str(tmp_path / str(size)))
    messages.append(str(error.value))
  assert messages[0] == messages[1]
  assert 'at step ' in messages[0]
