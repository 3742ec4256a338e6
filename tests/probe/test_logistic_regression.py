"""Regression paths: optima, certificates, invariances, refusals.

The oracles are SciPy's trust-region Newton method on a float64 objective
written here, and scikit-learn.
"""

import dataclasses
import os
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression

from lossbench.probe import logistic_regression as regression
from tests.faults.processes import with_devices

L2_VALUES = (1e-6, 1e-3, 1.0, 1e5)


def naive_objective(weights, bias, features, labels, l2):
  """sum_i CE + lambda / 2 ||W||^2 as its definition says."""
  logits = features.astype(np.float64) @ weights.T + bias
  rows = np.arange(len(labels))
  others = np.delete(
    logits - logits[rows, labels][:, None],
    np.ravel_multi_index((rows, labels), logits.shape),
  ).reshape(len(labels), -1)
  losses = np.logaddexp(0.0, special.logsumexp(others, axis=1))
  return losses.sum() + l2 / 2 * np.sum(weights**2)


def minimum(features, labels, num_classes, l2, start):
  """SciPy's minimum, from a start that only saves it time."""
  n, m = features.shape
  x = np.column_stack([features.astype(np.float64), np.ones(n)])
  targets = np.eye(num_classes)[labels]
  penalised = np.append(np.ones(m), 0.0)

  def split(theta):
    w = theta.reshape(num_classes, m + 1)
    return w, special.softmax(x @ w.T, axis=1)

  def value(theta):
    w, _ = split(theta)
    return naive_objective(w[:, :m], w[:, m], features, labels, l2)

  def gradient(theta):
    w, p = split(theta)
    return ((p - targets).T @ x + l2 * w * penalised).ravel()

  def hessian(theta):
    _, p = split(theta)
    blocks = np.einsum('nk,kj->nkj', p, np.eye(num_classes))
    blocks -= np.einsum('nk,nj->nkj', p, p)
    h = np.einsum('nkj,na,nb->kajb', blocks, x, x, optimize=True)
    h = h.reshape(theta.size, theta.size)
    return h + np.diag(np.tile(l2 * penalised, num_classes))

  found = optimize.minimize(
    value,
    start.ravel(),
    jac=gradient,
    hess=hessian,
    method='trust-exact',
    options={'gtol': 1e-11, 'maxiter': 300},
  )
  return found.fun


def _examples(kind, seed=0):
  """Features as a network gives them: not negative, a decaying spectrum."""
  rng = np.random.default_rng(seed)
  n, m, k = {'wide': (40, 60, 3)}.get(kind, (150, 8, 4))
  labels = rng.permutation(np.arange(n) % k)
  noise = rng.standard_normal((n, m)) * np.arange(1, m + 1) ** -0.5
  separation = 0.0 if kind == 'noise' else 4.0
  centres = rng.standard_normal((k, m)) * separation
  features = np.maximum(centres[labels] + noise, 0.0)
  if kind == 'duplicates':
    features = np.column_stack([features, features, np.ones(n)])
  if kind == 'offset':
    features = features + 100.0
  if kind == 'large':
    features = features * 1e3
  return features.astype(np.float32), labels, k


KINDS = ('separable', 'noise', 'wide', 'duplicates', 'offset', 'large')


@pytest.fixture(scope='module', params=KINDS)
def path(request):
  features, labels, k = _examples(request.param)
  fits = regression.fit_path(
    features, labels, num_classes=k, l2_values=L2_VALUES
  )
  return features, labels, k, fits


def test_objective_is_the_naive_one(path):
  features, labels, _, fits = path
  assert [fit.l2 for fit in fits] == list(L2_VALUES)
  for fit in fits:
    naive = naive_objective(fit.weights, fit.bias, features, labels, fit.l2)
    assert fit.objective == pytest.approx(naive, rel=1e-9)


def test_within_the_certificate_of_scipys_minimum(path):
  features, labels, k, fits = path
  for fit in fits:
    start = np.column_stack([fit.weights, fit.bias])
    best = minimum(features, labels, k, fit.l2, start)
    rounding = 1e-10 * fit.objective
    assert fit.objective - best <= fit.gap_bound + rounding
    assert fit.relative_gap_bound <= 1e-6


def test_scipy_from_zero_finds_no_better():
  features, labels, k = _examples('separable')
  [fit] = regression.fit_path(features, labels, num_classes=k, l2_values=[0.1])
  best = minimum(features, labels, k, 0.1, np.zeros((k, features.shape[1] + 1)))
  assert abs(fit.objective - best) <= 1e-6 * best


@pytest.mark.parametrize('l2', [1e-6, 1e-2, 1e3])
@pytest.mark.parametrize('noise', [1e-8, 1e-3, 1.0])
def test_certificate_holds_far_from_the_optimum(l2, noise):
  """Whatever W and b, and with a bias gradient that is not zero."""
  features, labels, k = _examples('noise')
  [optimum] = regression.fit_path(
    features, labels, num_classes=k, l2_values=[l2], tolerance=1e-11
  )
  rng = np.random.default_rng(1)
  with regression._float64():
    data = regression._place(features, labels, num_classes=k)
    solver = regression._Solver(data, tolerance=1e-6)
    weights, bias = regression._initial(data, optimum)
    for _ in range(5):
      point = solver.point(
        weights + noise * rng.standard_normal(weights.shape),
        bias + noise * rng.standard_normal(bias.shape),
      )
      scaled = l2 * data.scale**2
      _, bound = point.gap_bounds(scaled, data)
      gap = point.objective(scaled) - optimum.objective
      assert bound >= gap - 1e-10 * optimum.objective


def test_tight_tolerance():
  features, labels, k = _examples('separable')
  fits = regression.fit_path(
    features, labels, num_classes=k, l2_values=(1e-6, 1.0), tolerance=1e-10
  )
  assert all(fit.relative_gap_bound <= 1e-10 for fit in fits)


def test_gradient_norm_is_that_of_the_centred_problem():
  features, labels, k = _examples('noise')
  [fit] = regression.fit_path(
    features, labels, num_classes=k, l2_values=[1.0], tolerance=1e-3
  )
  x = features.astype(np.float64)
  p = special.softmax(x @ fit.weights.T + fit.bias, axis=1)
  residuals = p - np.eye(k)[labels]
  gradient = residuals.T @ (x - x.mean(0)) + fit.l2 * fit.weights
  expected = np.hypot(
    np.linalg.norm(gradient), np.linalg.norm(residuals.sum(0))
  )
  assert fit.gradient_norm == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('l2', [1e-3, 1.0, 100.0])
def test_not_above_scikit_learn(l2):
  features, labels, k = _examples('separable', seed=3)
  [fit] = regression.fit_path(features, labels, num_classes=k, l2_values=[l2])
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    theirs = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000).fit(
      features.astype(np.float64), labels
    )
  their_objective = naive_objective(
    theirs.coef_, theirs.intercept_, features, labels, l2
  )
  assert fit.objective <= their_objective * (1 + 1e-6)
  agreement = regression.predict(fit, features) == theirs.predict(features)
  assert np.mean(agreement) >= 0.99


def test_stronger_penalty_shrinks_the_weights(path):
  *_, fits = path
  norms = [np.linalg.norm(fit.weights) for fit in fits]
  assert norms == sorted(norms, reverse=True)
  for fit in fits:
    assert fit.bias.sum() == pytest.approx(0.0, abs=1e-6 * (1 + norms[0]))


def test_one_device_finds_the_same(root):
  """4 devices here, 1 there; 150 examples do not divide by 4."""
  features, labels, k = _examples('separable')
  assert jax.local_device_count() == 4
  [fit] = regression.fit_path(
    features, labels, num_classes=k, l2_values=[1e-3], tolerance=1e-12
  )
  program = """
import jax
from lossbench.probe import logistic_regression as regression
from tests.probe.test_logistic_regression import _examples
assert jax.local_device_count() == 1
features, labels, k = _examples('separable')
[fit] = regression.fit_path(
  features, labels, num_classes=k, l2_values=[1e-3], tolerance=1e-12
)
print(repr(fit.objective), repr(float(fit.weights[0, 0])))
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=root,
    env={**os.environ, 'XLA_FLAGS': with_devices(1)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  objective, weight = map(float, result.stdout.split())
  assert objective == pytest.approx(fit.objective, rel=1e-11)
  assert weight == pytest.approx(fit.weights[0, 0], rel=1e-4)


def test_a_start_changes_only_the_work():
  features, labels, k = _examples('separable')
  kwargs = dict(num_classes=k, l2_values=[1e-4])
  [cold] = regression.fit_path(features, labels, **kwargs)
  [warm] = regression.fit_path(features, labels, start=cold, **kwargs)
  assert warm.num_steps == 0
  assert warm.objective == pytest.approx(cold.objective, rel=1e-9)
  np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-9)


def test_float64_takes_over_where_float32_stalls(monkeypatch):
  features, labels, k = _examples('noise')
  place = regression._place

  def without_float32(*args, **kwargs):
    data = place(*args, **kwargs)
    return dataclasses.replace(data, x32=0 * data.x32)

  kwargs = dict(num_classes=k, l2_values=[1e-6])
  [expected] = regression.fit_path(features, labels, **kwargs)
  monkeypatch.setattr(regression, '_place', without_float32)
  [fit] = regression.fit_path(features, labels, **kwargs)
  assert fit.relative_gap_bound <= 1e-6
  assert fit.objective == pytest.approx(expected.objective, rel=1e-6)


def test_many_small_steps_are_no_stall():
  """Few examples of many classes: the objective falls, the bound is far off."""
  rng = np.random.default_rng(0)
  n, m, k = 240, 20, 40
  scales = np.logspace(0, -0.5, m)
  features = (np.maximum(rng.normal(size=(n, m)), 0) * scales).astype(
    np.float32
  )
  labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
  [fit] = regression.fit_path(features, labels, num_classes=k, l2_values=[1e-6])
  assert fit.relative_gap_bound <= 1e-6
  naive = naive_objective(fit.weights, fit.bias, features, labels, 1e-6)
  assert fit.objective == pytest.approx(naive, rel=1e-9)


def test_float64_stays_in_the_module():
  features, labels, k = _examples('separable')
  [fit] = regression.fit_path(features, labels, num_classes=k, l2_values=[1.0])
  regression.predict(fit, features)
  assert not jax.config.jax_enable_x64


def test_constant_features_give_the_class_frequencies():
  labels = np.array([0, 0, 0, 1])
  [fit] = regression.fit_path(
    np.ones((4, 2)), labels, num_classes=2, l2_values=[1.0]
  )
  assert fit.objective == pytest.approx(
    -3 * np.log(0.75) - np.log(0.25), rel=1e-9
  )
  np.testing.assert_allclose(fit.weights, 0.0, atol=1e-9)


def _refused(**changes):
  features, labels, k = _examples('separable')
  arguments = dict(
    features=features, labels=labels, num_classes=k, l2_values=[1.0]
  )
  arguments |= changes
  return regression.fit_path(
    arguments.pop('features'), arguments.pop('labels'), **arguments
  )


def _with_nan():
  features = _examples('separable')[0].copy()
  features[3, 2] = np.nan
  return features


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'features': np.zeros(150)}, r'Expected features \[num_examples'),
    ({'labels': np.zeros(150)}, 'labels must be integer'),
    ({'features': _with_nan()}, '1 of 150 rows of features hold NaN'),
    ({'num_classes': 6}, '2 of 6 classes have no training example: 4, 5'),
    ({'num_classes': 3}, r'Label 3 is not a class id in \[0, 3\)'),
    ({'num_classes': 1}, 'num_classes must be at least 2'),
    (
      {'features': np.zeros((1, 3)), 'labels': np.zeros(1, int)},
      'at least 2 examples and 1 feature; got 1 and 3',
    ),
    ({'l2_values': [0.0]}, 'l2_values must be positive'),
    ({'l2_values': []}, 'l2_values must be positive'),
    ({'l2_values': [1.0, 1.0]}, 'l2_values must differ'),
    ({'tolerance': 0.0}, 'tolerance must be in'),
    ({'tolerance': 1e-18}, r'not within 1e-18 of the minimum after'),
  ],
)
def test_refusals(changes, text):
  with pytest.raises(ValueError, match=text):
    _refused(**changes)


def test_an_error_names_the_l2_that_was_given():
  features, labels, k = _examples('separable')
  with pytest.raises(ValueError, match=r'^L2 = 0\.5: not within 1e-300'):
    regression.fit_path(
      1e3 * features,
      labels,
      num_classes=k,
      l2_values=[0.5],
      tolerance=1e-300,
    )


def test_a_start_of_another_shape_is_refused():
  features, labels, k = _examples('separable')
  [fit] = regression.fit_path(features, labels, num_classes=k, l2_values=[1.0])
  other = dataclasses.replace(fit, weights=fit.weights[:, :3])
  with pytest.raises(ValueError, match='start has weights'):
    _refused(start=other)
  with pytest.raises(ValueError, match=r'Expected features \[num_examples, 3'):
    regression.predict(other, features)


def test_the_paths_values():
  """45, log-spaced from 1e-6 to 1e5 (PAPER section 3)."""
  values = np.array(regression.L2_VALUES)
  assert len(values) == 45
  np.testing.assert_allclose(values[[0, -1]], [1e-6, 1e5])
  np.testing.assert_allclose(values[1:] / values[:-1], 10**0.25)


def test_scores_are_float64_where_almost_nothing_is_wrong():
  """Losses of 1e-12 and ids of 5,000 examples, more than one chunk."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 5000)
  features = 30.0 * np.eye(3)[labels] + rng.normal(size=(5000, 3))
  fit = regression.Fit(
    l2=1.0,
    weights=np.eye(3),
    bias=np.array([0.1, -0.2, 0.1]),
    objective=0.0,
    gradient_norm=0.0,
    gap_bound=0.0,
    num_steps=0,
    num_products=0,
  )
  predicted, cross_entropy = regression.score(fit, features, labels)
  np.testing.assert_array_equal(predicted, labels)
  np.testing.assert_array_equal(regression.predict(fit, features), labels)
  naive = naive_objective(fit.weights, fit.bias, features, labels, 0.0)
  assert 0 < cross_entropy < 1e-9
  assert cross_entropy == pytest.approx(naive / 5000, rel=1e-9)
  with pytest.raises(ValueError, match='labels of 5000 examples'):
    regression.score(fit, features, labels[:10])
  assert regression.predict(fit, features[:0]).shape == (0,)
