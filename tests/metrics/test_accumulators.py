"""Compensated sums, and what holds for every accumulator."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossbench.metrics
from lossbench.metrics import accumulators
from lossbench.metrics.accumulators import CompensatedSum, reduce_devices
from lossbench.metrics.accuracy import Accuracy
from lossbench.metrics.brier import BrierScore
from lossbench.metrics.calibration import (
  ExpectedCalibrationError,
  NegativeLogLikelihood,
)
from lossbench.metrics.calibration_errors import ClasswiseCalibrationError
from lossbench.metrics.cka import LinearCKA
from lossbench.metrics.collapse import (
  NearestMeanMismatch,
  NeuralCollapse,
)
from lossbench.metrics.hardness import AngularVisualHardness
from lossbench.metrics.separation import ClassSeparation
from lossbench.metrics.sparsity import ActivationSparsity
from lossbench.metrics.spectra import ActivationSpectrum

NUM_EXAMPLES, NUM_CLASSES, NUM_FEATURES = 61, 7, 5


def _data():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(NUM_EXAMPLES, NUM_CLASSES)).astype(np.float32)
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  labels = np.arange(NUM_EXAMPLES) % NUM_CLASSES
  features = rng.normal(size=(NUM_EXAMPLES, NUM_FEATURES)) + 0.5
  maps = np.maximum(rng.normal(size=(NUM_EXAMPLES, 3, 4, 2)), 0)
  others = np.tanh(features @ rng.normal(size=(NUM_FEATURES, 3)))
  prediction = rng.integers(NUM_CLASSES, size=NUM_EXAMPLES)
  return {
    'cosines': np.tanh(logits),
    'others': others.astype(np.float32),
    'prediction': prediction.astype(np.int32),
    'logits': logits,
    'log_probs': log_probs,
    'labels': rng.permutation(labels).astype(np.int32),
    'features': features.astype(np.float32),
    'maps': maps.astype(np.float32),
  }


# name: (the empty accumulator, which arrays of _data its update takes).
# test_every_accumulator_has_a_case fails for an accumulator missing here.
CASES = {
  'top1': (lambda: Accuracy.empty(), ('logits', 'labels')),
  'top5': (lambda: Accuracy.empty(k=5), ('logits', 'labels')),
  'nll': (lambda: NegativeLogLikelihood.empty(), ('log_probs', 'labels')),
  'ece': (lambda: ExpectedCalibrationError.empty(), ('log_probs', 'labels')),
  'class_separation': (
    lambda: ClassSeparation.empty(NUM_CLASSES, NUM_FEATURES),
    ('features', 'labels'),
  ),
  'sparsity': (lambda: ActivationSparsity.empty(), ('maps',)),
  'brier': (lambda: BrierScore.empty(), ('log_probs', 'labels')),
  'classwise_ece': (
    lambda: ClasswiseCalibrationError.empty(NUM_CLASSES),
    ('log_probs', 'labels'),
  ),
  'linear_cka': (
    lambda: LinearCKA.empty(NUM_FEATURES, 3),
    ('features', 'others'),
  ),
  'hardness': (lambda: AngularVisualHardness.empty(), ('cosines', 'labels')),
  'spectrum': (lambda: ActivationSpectrum.empty(NUM_FEATURES), ('features',)),
  'neural_collapse': (
    lambda: NeuralCollapse.empty(NUM_CLASSES, NUM_FEATURES),
    ('features', 'labels'),
  ),
  'nearest_mean': (
    lambda: NearestMeanMismatch.empty(),
    ('prediction', 'labels'),
  ),
}


@pytest.fixture(params=CASES)
def case(request):
  empty_fn, names = CASES[request.param]
  data = _data()
  return empty_fn, [data[name] for name in names]


@jax.jit
def _update(accumulator, arrays, mask):
  return accumulator.update(*arrays, mask)


def _in_one(empty_fn, arrays):
  return _update(empty_fn(), arrays, np.ones(len(arrays[0]), bool))


def _batches(arrays, batch_size):
  """Batches of one size, the last filled up with masked garbage."""
  for start in range(0, len(arrays[0]), batch_size):
    batch = [array[start : start + batch_size] for array in arrays]
    num_real = len(batch[0])
    yield (
      [_pad(array, batch_size) for array in batch],
      (np.arange(batch_size) < num_real),
    )


def _pad(array, size):
  garbage = np.empty((size - len(array), *array.shape[1:]), array.dtype)
  if np.issubdtype(array.dtype, np.floating):
    garbage[...] = np.nan
    garbage[::2] = np.inf
  else:
    garbage[...] = -7
    garbage[::2] = 10**6
  return np.concatenate([array, garbage])


def _assert_same_leaves(got, expected, rtol=1e-6):
  got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


def test_every_accumulator_has_a_case():
  covered = {type(empty_fn()) for empty_fn, _ in CASES.values()}
  for info in pkgutil.iter_modules(lossbench.metrics.__path__):
    module = importlib.import_module(f'lossbench.metrics.{info.name}')
    for name, value in vars(module).items():
      if (
        inspect.isclass(value)
        and value.__module__ == module.__name__
        and issubclass(value, accumulators.Accumulator)
        and value is not accumulators.Accumulator
      ):
        assert value in covered, f'{name}: add it to CASES in {__file__}'


@pytest.mark.parametrize('batch_size', [1, 16, 64])
def test_any_batch_size_and_masked_garbage(case, batch_size):
  empty_fn, arrays = case
  accumulator = empty_fn()
  for batch, mask in _batches(arrays, batch_size):
    accumulator = _update(accumulator, batch, mask)
  expected = _in_one(empty_fn, arrays).compute()
  assert accumulator.compute() == pytest.approx(expected, rel=1e-6)
  assert 0 < expected < np.inf
  assert isinstance(expected, float)


def test_order_does_not_matter(case):
  empty_fn, arrays = case
  order = np.random.default_rng(1).permutation(NUM_EXAMPLES)
  shuffled = _in_one(empty_fn, [array[order] for array in arrays])
  expected = _in_one(empty_fn, arrays).compute()
  assert shuffled.compute() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('mask_dtype', [bool, np.int32])
def test_a_mask_selects(case, mask_dtype):
  empty_fn, arrays = case
  mask = np.random.default_rng(2).random(NUM_EXAMPLES) < 0.7
  masked = _update(empty_fn(), arrays, mask.astype(mask_dtype))
  # Not by mask: the selected rows, and after them garbage.
  selected = [_pad(array[mask], NUM_EXAMPLES) for array in arrays]
  selected = _update(empty_fn(), selected, np.arange(NUM_EXAMPLES) < mask.sum())
  assert masked.compute() == pytest.approx(selected.compute(), rel=1e-6)
  _assert_same_leaves(masked, selected)


def test_a_fully_masked_batch_changes_no_bit(case):
  empty_fn, arrays = case
  before = _in_one(empty_fn, arrays)
  garbage = [_pad(array[:0], 8) for array in arrays]
  after = _update(before, garbage, np.zeros(8))
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(a, b)


def test_merge_on_device_and_on_host(case):
  empty_fn, arrays = case
  part = np.random.default_rng(3).integers(3, size=NUM_EXAMPLES)
  parts = [_update(empty_fn(), arrays, part == i) for i in range(3)]
  expected = _in_one(empty_fn, arrays).compute()

  def merged(a, b, c):
    return a.merge(b).merge(c)

  assert merged(*parts).compute() == pytest.approx(expected, rel=1e-6)
  assert jax.jit(merged)(*parts).compute() == pytest.approx(expected, rel=1e-6)
  on_host = merged(*jax.device_get(parts))
  assert on_host.compute() == pytest.approx(expected, rel=1e-6)
  # Mixed: the host's precision wins, and stays.
  mixed = merged(parts[0], jax.device_get(parts[1]), parts[2])
  for tree in (on_host, mixed):
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(tree)}
    assert dtypes <= {np.dtype(np.float64), np.dtype(np.int64)}
  # Additivity, literally: the leaves' sums are an accumulator of everything.
  summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
  assert summed.compute() == pytest.approx(expected, rel=1e-5)


def test_empty_is_neutral(case):
  empty_fn, arrays = case
  one = _in_one(empty_fn, arrays)
  _assert_same_leaves(empty_fn().merge(one), one, rtol=0)
  _assert_same_leaves(one.merge(empty_fn()), one, rtol=0)


def test_devices(case):
  """pmap over all devices, then a sum on the host, equals one device."""
  empty_fn, arrays = case
  num_devices = jax.local_device_count()
  assert num_devices > 1, 'conftest.py sets 4 virtual devices'
  update = jax.pmap(lambda acc, arrays, mask: acc.update(*arrays, mask))
  accumulator = jax.tree.map(
    lambda leaf: jnp.stack([leaf] * num_devices), empty_fn()
  )
  for batch, mask in _batches(arrays, 8 * num_devices):
    batch = [array.reshape(num_devices, 8, *array.shape[1:]) for array in batch]
    accumulator = update(accumulator, batch, mask.reshape(num_devices, 8))
  reduced = reduce_devices(accumulator)
  assert {leaf.dtype for leaf in jax.tree.leaves(reduced)} <= {
    np.dtype(np.float64),
    np.dtype(np.int64),
  }
  single = _in_one(empty_fn, arrays)
  _assert_same_leaves(
    jax.tree.map(np.shape, reduced), jax.tree.map(np.shape, single)
  )
  assert reduced.compute() == pytest.approx(single.compute(), rel=1e-6)


def test_update_refuses_a_mask_of_another_shape(case):
  empty_fn, arrays = case
  with pytest.raises(ValueError, match=r'mask must be \[61\].*\(60,\)'):
    _update(empty_fn(), arrays, np.ones(NUM_EXAMPLES - 1))
  with pytest.raises(ValueError, match=r'mask must be \[61\].*\(61, 1\)'):
    _update(empty_fn(), arrays, np.ones((NUM_EXAMPLES, 1)))


def test_merge_refuses_other_kinds_and_shapes():
  with pytest.raises(ValueError, match='different kinds'):
    Accuracy.empty(k=1).merge(Accuracy.empty(k=5))
  with pytest.raises(ValueError, match='different kinds'):
    Accuracy.empty().merge(NegativeLogLikelihood.empty())
  with pytest.raises(ValueError, match='different shapes'):
    ClassSeparation.empty(3, 4).merge(ClassSeparation.empty(3, 5))
  stacked = jax.tree.map(lambda leaf: leaf[None], Accuracy.empty())
  with pytest.raises(ValueError, match='reduce_devices'):
    Accuracy.empty().merge(stacked)


def test_the_base_is_abstract():
  base = accumulators.Accumulator()
  for call in (base.empty, base.compute, lambda: base.update(mask=None)):
    with pytest.raises(NotImplementedError):
      call()


def test_reduce_devices_of_a_dictionary_widens():
  tree = {'a': np.array([2**31 - 1] * 3, np.int32), 'b': jnp.ones((3, 2))}
  reduced = reduce_devices(tree)
  assert reduced['a'] == 3 * (2**31 - 1)
  np.testing.assert_array_equal(reduced['b'], np.full(2, 3.0))
  assert reduced['b'].dtype == np.float64
  half = reduce_devices({'c': jnp.ones(4, jnp.bfloat16)})
  assert half['c'].dtype == np.float64


def test_reduce_devices_refuses():
  with pytest.raises(ValueError, match='leading device axis'):
    reduce_devices(Accuracy.empty())
  with pytest.raises(ValueError, match='leading device axis'):
    reduce_devices({'a': np.ones(2), 'b': np.ones(3)})
  with pytest.raises(ValueError, match='sums and counts; got bool'):
    reduce_devices({'a': np.ones(2, bool)})


def _scan_add(values):
  def add(carry, value):
    return carry.add(value), None

  return jax.lax.scan(add, CompensatedSum.empty(), values)[0]


@pytest.mark.parametrize('constant', [True, False])
def test_two_million_additions_under_scan(constant):
  noise = np.random.default_rng(0).random(2_000_000)
  values = (0.1 + (0.0 if constant else 0.01) * noise).astype(np.float32)
  exact = values.sum(dtype=np.float64)
  compensated = jax.jit(_scan_add)(values)
  assert abs(compensated.compute() / exact - 1) < 1e-12
  # What the compensation is for; should this pass, the test above is void.
  naive = jax.jit(
    lambda x: jax.lax.scan(lambda a, v: (a + v, None), jnp.float32(0), x)[0]
  )(values)
  assert abs(float(naive) / exact - 1) > 1e-4
  # As rows: the sum within a batch is compensated too.
  rows = jax.jit(lambda x: CompensatedSum.empty().add_rows(x))(values)
  assert abs(rows.compute() / exact - 1) < 1e-12


def test_cancellation_is_exact():
  values = np.array([1e8, 1.0, -1e8, 1e-3], np.float32)
  expected = 1.0 + np.float64(np.float32(1e-3))
  rows = CompensatedSum.empty().add_rows(values)
  assert rows.compute() == pytest.approx(expected, rel=1e-9)
  one_by_one = jax.jit(_scan_add)(values)
  assert one_by_one.compute() == pytest.approx(expected, rel=1e-9)
  merged = CompensatedSum.empty().add(1e8).merge(CompensatedSum.empty().add(1))
  assert merged.compute() == 1e8 + 1
  assert merged.merge(CompensatedSum.empty().add(-1e8)).on_device() == 1


@pytest.mark.parametrize('num_rows', [0, 1, 2, 3, 7, 8, 1000])
def test_rows_of_arrays(num_rows):
  values = np.random.default_rng(3).normal(size=(num_rows, 2, 3))
  values = values.astype(np.float32)
  total = CompensatedSum.empty((2, 3)).add_rows(values)
  np.testing.assert_allclose(
    total.compute(), values.sum(0, dtype=np.float64), atol=1e-11
  )


@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_what_it_is(bad):
  values = np.array([1.0, bad, 2.0], np.float32)
  for total in (
    CompensatedSum.empty().add_rows(values),
    jax.jit(_scan_add)(values),
    _scan_add(values).merge(CompensatedSum.empty().add(1.0)),
  ):
    np.testing.assert_equal(float(total.compute()), bad)
    np.testing.assert_equal(float(total.on_device()), bad)


def test_vmap_of_a_sum():
  values = np.random.default_rng(4).random((3, 100)).astype(np.float32)
  totals = jax.vmap(_scan_add)(values)
  np.testing.assert_allclose(
    totals.compute(), values.sum(1, dtype=np.float64), rtol=1e-13
  )


def test_sums_refuse_other_shapes():
  with pytest.raises(ValueError, match=r'\(2,\), the sum \(\)'):
    CompensatedSum.empty().add(np.ones(2))
  with pytest.raises(ValueError, match=r'sum, \(2,\); got \(2,\)'):
    CompensatedSum.empty((2,)).add_rows(np.ones(2))


def test_masked_mean():
  values = np.array([1.0, np.nan, 4.0, np.inf], np.float32)
  mask = np.array([1, 0, 1, 0])
  assert accumulators.masked_mean(values, mask) == 2.5
  assert np.isnan(accumulators.masked_mean(values, np.zeros(4)))
  assert accumulators.masked_mean(values[:1], None) == 1.0
