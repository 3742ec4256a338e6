"""Arrays of other frameworks, real and stood in for."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench import logistic_regression, metrics
from lossbench.metrics.dlpack import as_numpy


class Foreign:
  """An array of which nothing is known but DLPack, as of a GPU's framework."""

  def __init__(self, values):
    self._values = np.asarray(values)

  def __dlpack__(self, **arguments):
    return self._values.__dlpack__(**arguments)

  def __dlpack_device__(self):
    return self._values.__dlpack_device__()


def test_what_is_converted():
  values = np.arange(6.0).reshape(2, 3)
  found = as_numpy(Foreign(values))
  assert np.shares_memory(found, values)
  np.testing.assert_array_equal(found, values)
  array = jnp.ones(3)
  assert as_numpy(array) is array
  assert as_numpy(values) is values
  assert as_numpy(0.5) == 0.5
  assert as_numpy(None) is None
  first, second = as_numpy([Foreign(values), 'x'])
  assert isinstance(first, np.ndarray)
  assert second == 'x'
  assert all(isinstance(x, np.ndarray) for x in as_numpy(iter([first, found])))


def test_metrics_of_foreign_arrays():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(40, 6)), rng.integers(6, size=40)
  expected = metrics.top1_accuracy(logits, labels)
  assert metrics.top1_accuracy(Foreign(logits), Foreign(labels)) == expected
  jitted = jax.jit(metrics.top1_accuracy)
  assert jitted(logits, labels) == expected
  log_probs = np.log(np.full((4, 2), 0.5))
  members = (Foreign(log_probs) for _ in range(2))
  np.testing.assert_allclose(metrics.ensemble_log_probs(members), log_probs)
  assert metrics.linear_cka(Foreign(logits), logits) == pytest.approx(1)


@pytest.mark.parametrize(
  'function', [metrics.top1_accuracy, logistic_regression.score]
)
def test_pickled_by_the_public_name(function):
  assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_torch(dtype):
  torch = pytest.importorskip('torch', reason='no torch')
  rng = np.random.default_rng(0)
  labels = np.concatenate([np.arange(3), rng.integers(3, size=57)])
  tensor = torch.tensor(
    rng.normal(size=(60, 4)), dtype=getattr(torch, dtype), requires_grad=True
  )
  features = tensor.detach().to(torch.float64).numpy()
  where = dict(num_classes=3)
  for function in (metrics.class_separation, metrics.class_centroids):
    np.testing.assert_allclose(
      function(tensor, torch.tensor(labels)), function(features, labels)
    )
  np.testing.assert_allclose(
    metrics.temper(tensor, 2.0), metrics.temper(features, 2.0), rtol=1e-6
  )
  fits = [
    logistic_regression.fit_path(x, y, l2_values=[1.0], **where)[0]
    for x, y in ((tensor, torch.tensor(labels)), (features, labels))
  ]
  np.testing.assert_allclose(fits[0].weights, fits[1].weights, atol=1e-6)
  predicted = logistic_regression.predict(fits[0], tensor)
  assert (predicted == logistic_regression.predict(fits[1], features)).all()
