"""Copies of the state that differ are found, and nothing is saved of them."""

import jax
import numpy as np
import pytest

from configs import digits_cnn
from lossbench.runs.directory import RunDirectory
from lossbench.runtime import devices
from lossbench.runtime.cluster import Disagreement
from lossbench.train import loop, program
from lossbench.train.replicas import check_replicas, checksums

SMALL = {
  'weights': np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
  'half': np.ones(3, np.float16),
  'step': np.int32(7),
}


def with_a_bit_flipped(state, *, device, leaf=0):
  """A replicated state of which one local device holds another bit."""
  leaves, treedef = jax.tree.flatten(state)
  copies = np.array(devices.fetch(leaves[leaf]))
  copies[device : device + 1].reshape(-1).view(np.uint8)[-1] ^= 1
  leaves[leaf] = devices.place(copies)
  return jax.tree.unflatten(treedef, leaves)


def test_checksums_are_a_function_of_bits_and_places():
  whole = np.array(checksums(devices.replicate(SMALL)))
  assert whole.dtype == np.uint32
  assert whole.shape == (4, 4)
  assert len(set(whole.flat)) == 1
  turned = {**SMALL, 'weights': SMALL['weights'][::-1].copy()}
  assert checksums(devices.replicate(turned))[0, 0] != whole[0, 0]
  check_replicas(devices.replicate(SMALL), step=0)


@pytest.mark.parametrize('leaf', [0, 1, 2])
def test_one_flipped_bit_is_found(leaf):
  state = with_a_bit_flipped(devices.replicate(SMALL), device=2, leaf=leaf)
  with pytest.raises(Disagreement, match=r'step 9 1 of 4 .*: 2 \(of process 0'):
    check_replicas(state, step=9)


@pytest.mark.parametrize('every', [0, 3])
def test_a_run_whose_devices_differ_ends_without_a_checkpoint_of_it(
  every, digits_dir, tmp_path, monkeypatch
):
  config = digits_cnn.get_config('sigmoid')
  config.update({'data_dir': digits_dir, 'batch_size': 64, 'num_epochs': 2.0})
  config.model.width = 4
  config.replica_check_every_steps = every
  take_step = program.build_train_step(config, steps_per_epoch=20)
  faults = [1]  # the device whose memory fails, once

  def faulty_step(state, *arguments):
    state, metrics = take_step(state, *arguments)
    traced = isinstance(state.step, jax.core.Tracer)
    if faults and not traced and state.step[0] >= 2:
      state = with_a_bit_flipped(state, device=faults.pop())
    return state, metrics

  monkeypatch.setattr(loop, 'build_train_step', lambda *_, **__: faulty_step)
  found_at = every or 40  # where it saves
  with pytest.raises(Disagreement, match=f'At step {found_at} 1 of 4 devices'):
    loop.train(config, workdir=str(tmp_path))
  assert not RunDirectory(tmp_path).has_checkpoints()
