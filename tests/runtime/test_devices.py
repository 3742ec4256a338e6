"""What is on the devices, in one process and in two, is what pmap makes of it."""

import pickle

import jax
import numpy as np
import pytest

from lossbench.runtime import devices
from tests.faults.processes import run_two

STATE = {
  'step': np.int32(3),
  'weights': np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
}
BATCH = np.linspace(0, 1, 16, dtype=np.float32).reshape(8, 2)


def step(state, batch, scale):
  """Of one device; it has all that a step has: a reduction, an index, a sum."""
  place = jax.lax.axis_index(devices.AXIS)
  gradient = jax.lax.pmean(batch.T @ (batch @ state['weights']), devices.AXIS)
  weights = state['weights'] * scale - gradient * (1 + place)
  total = jax.lax.psum(batch.sum(), devices.AXIS)
  return {'step': state['step'] + 1, 'weights': weights}, total


def through_pmap(state, batch, scale):
  """Two steps by jax.pmap, of this process's rows; on the host."""
  mapped = jax.pmap(
    step, axis_name=devices.AXIS, in_axes=(0, 0, None), out_axes=(0, None)
  )
  num_devices = jax.local_device_count()
  state = jax.tree.map(lambda x: np.stack([x] * num_devices), state)
  batch = batch.reshape(num_devices, -1, *batch.shape[1:])
  for _ in range(2):
    state, total = mapped(state, batch, scale)
  return jax.device_get((state, total))


def through_devices(mapped, state, batch, scale):
  """The same by what `devices.pmap` makes of it."""
  state, batch = devices.replicate(state), devices.shard(batch)
  scale = devices.broadcast(scale)
  for _ in range(2):
    state, total = mapped(state, batch, scale)
  return devices.fetch(state), jax.device_get(total)


OPTIONS = {
  'in_axes': (0, 0, None),
  'out_axes': (0, None),
  'donate_argnums': 0,
}
WAYS = {'own': devices.pmap, 'of many processes': devices._pmap_globally}


def assert_same_bits(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)


@pytest.mark.parametrize('way', WAYS)
def test_a_mapped_function_is_pmap_to_the_last_bit(way):
  mapped = WAYS[way](step, **OPTIONS)
  found = through_devices(mapped, STATE, BATCH, 0.9)
  assert_same_bits(found, through_pmap(STATE, BATCH, 0.9))
  assert len({row.tobytes() for row in found[0]['weights']}) == 4


@pytest.mark.parametrize('way', WAYS)
def test_a_mapped_function_is_compiled_once(way):
  traced = []

  def counted(*args):
    traced.append(args)
    return step(*args)

  through_devices(WAYS[way](counted, **OPTIONS), STATE, BATCH, 0.9)
  assert len(traced) == 1


def test_donated_arrays_are_gone():
  state = devices.replicate(STATE)
  devices.pmap(step, **OPTIONS)(state, devices.shard(BATCH), 0.9)
  assert state['weights'].is_deleted()


def test_a_copy_stays_when_the_state_is_donated():
  state = devices.replicate(STATE)
  copy = devices.copy_first(state)
  state, _ = devices.pmap(step, **OPTIONS)(state, devices.shard(BATCH), 0.9)
  assert_same_bits(devices.unreplicate(copy), STATE)
  assert devices.unreplicate(state)['step'] == STATE['step'] + 1


def test_inside_only_there_is_one_device():
  device = jax.devices()[2]
  # Made before: it asks for the devices when it is called.
  increment = devices.pmap(lambda tree: jax.tree.map(lambda x: x + 1, tree))
  with devices.only(device):
    placed = increment(devices.replicate(STATE))
    assert devices.broadcast(1.0).devices() == {device}
    assert devices.along_axis() == (device,)
    assert_same_bits(
      devices.unreplicate(placed), jax.tree.map(lambda x: x + 1, STATE)
    )
  assert {leaf.shape[0] for leaf in jax.tree.leaves(placed)} == {1}
  assert placed['step'].devices() == {device}
  assert len(increment(devices.replicate(STATE))['step'].devices()) == 4


TWO = """
import pickle
import jax
from absl import app
from lossbench.runtime import cluster, devices
from tests.runtime import test_devices as t

def main(argv):
  cluster.initialize()
  index = jax.process_index()
  own = t.BATCH[4 * index : 4 * (index + 1)]
  mapped = devices.pmap(t.step, **t.OPTIONS)
  found = t.through_devices(mapped, t.STATE, own, 0.9)
  rows = jax.device_get(devices.gather(devices.shard(own)))
  steps = devices.shard_steps(own[None])
  assert steps.shape == (4, 1, 2, 2) and not steps.is_fully_addressable
  wanted = t.through_pmap(t.STATE, own, 0.9)
  with open(f'{argv[1]}/{index}.pickle', 'wb') as file:
    pickle.dump((found, wanted, rows), file)

cluster.define_flags()
app.run(main)
"""


def test_two_processes_hold_parts_of_one_array(tmp_path):
  """And a function mapped over them is still pmap."""

  logs = tmp_path / 'logs'
  statuses = run_two('-c', TWO, str(tmp_path), logs=logs)
  assert statuses == [0, 0], (logs / '0.log').read_text()
  of_all = through_pmap(STATE, BATCH, 0.9)[0]['weights']
  for index in range(2):
    found, wanted, rows = pickle.loads(
      (tmp_path / f'{index}.pickle').read_bytes()
    )
    assert_same_bits(found, wanted)
    np.testing.assert_allclose(
      found[0]['weights'], of_all[2 * index : 2 * index + 2], rtol=1e-6
    )
    np.testing.assert_array_equal(rows, BATCH.reshape(4, 2, 2))
