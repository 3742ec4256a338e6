"""How parts combine into an objective, and the contract with the rest."""

import itertools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossbench
from lossbench.objectives import (
  Interval,
  Part,
  create_objective,
  get_part,
  known_parts,
  losses,
  register,
  registry,
)

BATCH, NUM_FEATURES, NUM_CLASSES = 6, 5, 4


def build(spec, value=0.25):
  """The objective with one value, 0.25, that all hyperparameters allow."""
  names = spec.split('+')
  return create_objective(
    spec, {name: dict.fromkeys(get_part(name).hparams, value) for name in names}
  )


@pytest.fixture(name='logits')
def _logits():
  rng = np.random.default_rng(0)
  return np.float32(rng.normal(size=(BATCH, NUM_CLASSES)))


@pytest.fixture(name='targets')
def _targets():
  return np.eye(NUM_CLASSES, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]


@pytest.fixture(name='kernel')
def _kernel():
  rng = np.random.default_rng(1)
  return np.float32(rng.normal(size=(NUM_FEATURES, NUM_CLASSES)))


# --- Terms. ------------------------------------------------------------------


def test_terms_are_named_after_their_parts_and_sum_to_the_loss(
  logits, targets, kernel
):
  objective = build('logit_penalty+sigmoid+extra_final_layer_l2+dropout')
  terms = objective.loss_terms(logits, targets, kernel)
  assert list(terms) == ['sigmoid', 'logit_penalty', 'extra_final_layer_l2']
  assert [term.shape for term in terms.values()] == [(BATCH,), (BATCH,), ()]
  np.testing.assert_allclose(
    terms['sigmoid'], losses.sigmoid(logits, targets), rtol=1e-6
  )
  np.testing.assert_allclose(
    terms['logit_penalty'], 0.25 * (logits**2).sum(-1), rtol=1e-6
  )
  np.testing.assert_allclose(
    terms['extra_final_layer_l2'], 0.25 / 2 * (kernel**2).sum(), rtol=1e-6
  )
  np.testing.assert_allclose(
    objective.per_example_loss(logits, targets),
    terms['sigmoid'] + terms['logit_penalty'],
    rtol=1e-6,
  )


def test_without_a_kernel_its_penalty_is_left_out(logits, targets):
  terms = build('extra_final_layer_l2').loss_terms(logits, targets)
  assert list(terms) == ['softmax']


@pytest.mark.parametrize(
  'spec', ['dropout', 'logit_penalty', 'logit_normalization', 'cosface']
)
def test_parts_that_bring_no_loss_stand_on_softmax(spec, logits, targets):
  assert next(iter(build(spec).loss_terms(logits, targets))) == 'softmax'


def test_scale_by_temperature_scales_every_term(logits, targets, kernel):
  """The loss as a whole, so that the balance of its terms stays."""
  spec = 'cosine_softmax+label_smoothing+logit_penalty+extra_final_layer_l2'
  plain = build(spec).loss_terms(logits, targets, kernel)
  scaled = build(f'{spec}+scale_by_temperature').loss_terms(
    logits, targets, kernel
  )
  assert list(scaled) == list(plain)
  for name, term in plain.items():
    np.testing.assert_allclose(scaled[name], 0.25 * term, rtol=1e-6)


def test_label_smoothings_factor_is_for_the_loss_not_its_penalties(
  logits, targets
):
  terms = build('label_smoothing+logit_penalty').loss_terms(logits, targets)
  np.testing.assert_allclose(
    terms['logit_penalty'], 0.25 * (logits**2).sum(-1), rtol=1e-6
  )


@pytest.mark.parametrize(
  'spec',
  [
    'sigmoid+dropout+logit_penalty+label_smoothing',
    'label_smoothing+logit_normalization+scale_by_temperature',
    'arcface+focal+label_smoothing',
  ],
)
def test_the_order_of_parts_does_not_matter(spec, logits, targets):
  orders = map('+'.join, itertools.permutations(spec.split('+')))
  first, *others = (build(order) for order in orders)
  loss = first.per_example_loss(logits, targets)
  log_probs = first.log_probs(logits)
  for other in others:
    np.testing.assert_array_equal(
      other.per_example_loss(logits, targets), loss, other.name
    )
    np.testing.assert_array_equal(other.log_probs(logits), log_probs)
    assert other.output_layer(num_classes=4) == first.output_layer(
      num_classes=4
    )


def test_every_pair_of_parts_is_refused_or_works(logits, targets, kernel):
  num_working = 0
  for pair in itertools.combinations(known_parts(), 2):
    try:
      objective = build('+'.join(pair))
    except ValueError:  # The reasons are tested in test_registry.py.
      continue
    num_working += 1
    terms = objective.loss_terms(logits, targets, kernel)
    assert all(np.isfinite(term).all() for term in terms.values()), pair
    probs = np.exp(objective.log_probs(logits))
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)
  assert num_working > len(known_parts())


# --- Hyperparameters are leaves. ---------------------------------------------


def test_an_objective_is_a_pytree_of_its_hyperparameters():
  objective = build('cosine_softmax+dropout')
  assert jax.tree.leaves(objective) == [0.25, 0.25]
  doubled = jax.tree.map(lambda value: 2 * value, objective)
  assert doubled == build('cosine_softmax+dropout', 0.5)
  assert doubled.parts == ('cosine_softmax', 'dropout')


PARTS_WITH_HPARAMS = [name for name in known_parts() if get_part(name).hparams]


@pytest.mark.parametrize(
  'spec',
  [
    *PARTS_WITH_HPARAMS,
    'cosine_softmax+dropout+label_smoothing+logit_penalty+'
    'extra_final_layer_l2+scale_by_temperature',
  ],
)
def test_one_compilation_serves_all_values_of_the_hyperparameters(
  spec, targets, kernel
):
  num_traces = 0

  def loss_fn(objective, features):
    nonlocal num_traces
    num_traces += 1
    layer = objective.output_layer(num_classes=NUM_CLASSES)
    params = {'kernel': kernel, 'bias': np.zeros(NUM_CLASSES, np.float32)}
    logits = layer.apply(
      {'params': params},
      features,
      train=True,
      rngs={'dropout': jax.random.key(0)},
    )
    terms = objective.loss_terms(logits, targets, kernel)
    return sum(jnp.mean(term) for term in terms.values())

  rng = np.random.default_rng(2)
  features = np.float32(rng.normal(size=(BATCH, NUM_FEATURES)))
  jitted = jax.jit(loss_fn)
  jitted_values = [jitted(build(spec, v), features) for v in (0.25, 0.5, 0.75)]
  assert num_traces == 1
  # And the values reach the loss.
  assert len({float(value) for value in jitted_values}) == 3
  np.testing.assert_allclose(
    jitted_values[2], loss_fn(build(spec, 0.75), features), rtol=1e-5
  )


# --- A tenth objective. ------------------------------------------------------


@pytest.fixture
def scratch_registry(monkeypatch):
  """Parts registered by a test are forgotten after it."""
  monkeypatch.setattr(registry, '_PARTS', dict(registry._PARTS))


def generalized_cross_entropy(logits, targets, *, q):
  """(1 - sum_k t_k p_k^q) / q (Zhang & Sabuncu 2018, arXiv:1805.07836)."""
  log_probs = losses.log_softmax(logits)
  return -jnp.sum(targets * jnp.expm1(q * log_probs), axis=-1) / q


def test_a_new_objective_takes_one_entry_in_the_registry(scratch_registry):
  register(
    Part(
      'generalized_cross_entropy',
      hparams={'q': Interval('(0, 1]')},
      loss_fn=generalized_cross_entropy,
    )
  )

  # It is known, checked, and combined with what is there already.
  assert 'generalized_cross_entropy' in known_parts()
  with pytest.raises(ValueError, match=r"needs 'q', a number in \(0, 1\]"):
    create_objective('generalized_cross_entropy')
  with pytest.raises(ValueError, match='are both losses'):
    build('generalized_cross_entropy+sigmoid')
  objective = create_objective(
    'generalized_cross_entropy+dropout+extra_final_layer_l2',
    {
      'generalized_cross_entropy': {'q': 0.7},
      'dropout': {'keep_prob': 0.9},
      'extra_final_layer_l2': {'lambda_final': 1e-4},
    },
  )

  # It trains: three classes round three corners.
  rng = np.random.default_rng(0)
  labels = np.arange(30) % 3
  targets = np.eye(3, dtype=np.float32)[labels]
  features = 3 * targets + np.float32(rng.normal(size=(30, 3)))
  layer = objective.output_layer(num_classes=3)
  params = layer.init(jax.random.key(0), features, train=False)['params']

  @jax.jit
  def train_step(objective, params, key):
    def loss_fn(params):
      layer = objective.output_layer(num_classes=3)
      logits = layer.apply(
        {'params': params}, features, train=True, rngs={'dropout': key}
      )
      terms = objective.loss_terms(logits, targets, params['kernel'])
      return sum(jnp.mean(term) for term in terms.values())

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), loss

  train_losses = []
  for key in jax.random.split(jax.random.key(1), 30):
    params, loss = train_step(objective, params, key)
    train_losses.append(float(loss))
  assert train_losses[-1] < 0.3 * train_losses[0]

  # It evaluates: probabilities are the softmax unless it says otherwise.
  logits = layer.apply({'params': params}, features, train=False)
  log_probs = objective.log_probs(logits)
  np.testing.assert_array_equal(log_probs, losses.log_softmax(logits))
  assert np.mean(log_probs.argmax(-1) == labels) > 0.9


def test_a_new_loss_may_bring_its_own_probabilities_and_bias(
  scratch_registry, logits
):
  register(
    Part(
      'halved',
      loss_fn=lambda logits, targets: losses.softmax(logits / 2, targets),
      log_probs_fn=lambda logits: losses.log_softmax(logits / 2),
      bias_init_fn=lambda num_classes: float(num_classes),
    )
  )
  objective = build('halved+label_smoothing')
  assert objective.output_layer(num_classes=7).bias_init == 7.0
  np.testing.assert_array_equal(
    objective.log_probs(logits), losses.log_softmax(logits / 2)
  )


def test_a_new_losss_targets_are_checked_for_it(scratch_registry, logits):
  register(Part('unchecked', loss_fn=lambda logits, t: jnp.sum(logits * t, -1)))
  with pytest.raises(ValueError, match=r'got \(6, 4\) and \(6, 1\)'):
    build('unchecked').per_example_loss(logits, np.ones([6, 1]))


# --- Purity. -----------------------------------------------------------------


def test_objectives_need_jax_and_flax_only():
  """No TensorFlow, no config, and of lossbench only who says 'Did you mean'."""
  program = """
import sys
for name in ('tensorflow', 'tensorflow_datasets', 'clu', 'ml_collections'):
  sys.modules[name] = None  # Importing it raises ImportError.
import lossbench.objectives
ours = {m for m in sys.modules if m.startswith('lossbench.')}
# Of the package itself, which chooses what libraries read when they are loaded.
ours -= {f'lossbench.runtime{name}' for name in ('', '.storage', '.xla')}
print(sorted({m.split('.')[1] for m in ours}))
"""
  root = pathlib.Path(lossbench.__file__).parents[1]
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.strip() == "['names', 'objectives']"
