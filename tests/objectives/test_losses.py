"""Losses and gradients against float64 oracles; identities of the formulas.

The oracles are written from the formulas of the paper (section 1 of PAPER),
naively and without a look at the code under test. Each maps float64 logits and
targets [B, K] to the per-example loss [B] and its gradient by the logits
[B, K]. A newly registered part without an oracle fails this module.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.objectives import create_objective, known_parts, losses

# --- The oracles. ------------------------------------------------------------


def minus_log_probs(logits):
  """-log p_k = log(1 + sum_{j != k} exp(l_j - l_k)): no digits cancel."""
  rows = []
  for row in logits:
    odds = np.exp(row[:, None] - row[None, :])  # [j, k]
    np.fill_diagonal(odds, 0.0)
    rows.append(np.log1p(odds.sum(axis=0)))
  return np.stack(rows)


def through_softmax(surprise, slope):
  """dL/dl from slope_k = dL/d(-log p_k), where surprise_k = -log p_k.

  dL/dl_k = p_k sum_j slope_j - slope_k
          = p_k sum_{j != k} slope_j - (1 - p_k) slope_k.
  """
  others = slope.sum(-1, keepdims=True) - slope
  return np.exp(-surprise) * others + np.expm1(-surprise) * slope


def softmax(logits, targets):
  surprise = minus_log_probs(logits)
  loss = (targets * surprise).sum(-1)
  return loss, through_softmax(surprise, targets)


def sigmoid(logits, targets):
  loss = targets * np.log1p(np.exp(-logits))
  loss += (1 - targets) * np.log1p(np.exp(logits))
  gradient = (1 - targets) / (1 + np.exp(-logits))
  gradient -= targets / (1 + np.exp(logits))
  return loss.sum(-1), gradient


def squared_error(logits, targets, *, kappa, target_logit, scale):
  num_classes = logits.shape[-1]
  right = kappa * targets * (logits - target_logit) ** 2
  wrong = (1 - targets) * logits**2
  slope = kappa * targets * (logits - target_logit) + (1 - targets) * logits
  loss = scale / num_classes * (right + wrong).sum(-1)
  return loss, scale / num_classes * 2 * slope


def focal(logits, targets, *, gamma):
  surprise = minus_log_probs(logits)
  probs, miss = np.exp(-surprise), -np.expm1(-surprise)
  loss = targets * miss**gamma * surprise
  slope = miss**gamma + gamma * miss ** (gamma - 1) * probs * surprise
  return loss.sum(-1), through_softmax(surprise, targets * slope)


def poly1(logits, targets, *, epsilon):
  surprise = minus_log_probs(logits)
  loss = targets * (surprise - epsilon * np.expm1(-surprise))
  slope = targets * (1 + epsilon * np.exp(-surprise))
  return loss.sum(-1), through_softmax(surprise, slope)


def label_smoothing(logits, targets, *, alpha, base=softmax):
  smooth = (1 - alpha) * targets + alpha / targets.shape[-1]
  loss, gradient = base(logits, smooth)
  return loss / (1 - alpha), gradient / (1 - alpha)


def logit_penalty(logits, targets, *, beta, base=softmax):
  loss, gradient = base(logits, targets)
  return loss + beta * (logits**2).sum(-1), gradient + 2 * beta * logits


def logit_normalization(logits, targets, *, temperature, base=softmax):
  norm = np.sqrt((logits**2).sum(-1, keepdims=True))
  unit = logits / norm
  loss, slope = base(unit / temperature, targets)
  slope = slope - unit * (unit * slope).sum(-1, keepdims=True)
  return loss, slope / (temperature * norm)


def cosface(logits, targets, *, temperature, margin):
  return softmax(logits - targets * margin / temperature, targets)


def arcface(logits, targets, *, temperature, margin):
  angle = np.arccos(logits * temperature)
  beyond = angle + margin >= np.pi
  shifted = np.where(
    beyond,
    np.cos(angle) - margin * np.sin(margin),
    np.cos(angle + margin),
  )
  shift = targets * (shifted / temperature - logits)
  loss, slope = softmax(logits + shift, targets)
  slope_of_shifted = np.where(beyond, 1, np.sin(angle + margin) / np.sin(angle))
  return loss, slope * (1 + targets * (slope_of_shifted - 1))


def scale_by_temperature(logits, targets, *, temperature, base):
  loss, gradient = base(logits, targets)
  return temperature * loss, temperature * gradient


# The authors' ImageNet values, and the defaults of the other losses' papers.
HPARAMS = {
  'label_smoothing': {'alpha': 0.1},
  'dropout': {'keep_prob': 0.7},
  'extra_final_layer_l2': {'lambda_final': 8e-4},
  'logit_penalty': {'beta': 3e-4},
  'logit_normalization': {'temperature': 0.04},
  'cosine_softmax': {'temperature': 0.05},
  'squared_error': {'kappa': 9.0, 'target_logit': 60.0, 'scale': 10.0},
  'focal': {'gamma': 2.0},
  'poly1': {'epsilon': 2.0},
  'cosface': {'temperature': 0.05, 'margin': 0.35},
  'arcface': {'temperature': 0.05, 'margin': 0.5},
  'cosine': {'temperature': 0.05},
}


def oracle(function, *parts, **keywords):
  """`function` with the hyperparameters of `parts`."""
  hparams = {k: v for part in parts for k, v in HPARAMS[part].items()}
  return functools.partial(function, **hparams, **keywords)


ORACLES = {
  # Parts alone. As functions of the logits, several are softmax; what else
  # they do is tested in test_heads.py and test_objective.py.
  'softmax': softmax,
  'label_smoothing': oracle(label_smoothing, 'label_smoothing'),
  'dropout': softmax,
  'extra_final_layer_l2': softmax,
  'logit_penalty': oracle(logit_penalty, 'logit_penalty'),
  'logit_normalization': oracle(logit_normalization, 'logit_normalization'),
  'cosine_softmax': softmax,
  'sigmoid': sigmoid,
  'squared_error': oracle(squared_error, 'squared_error'),
  'focal': oracle(focal, 'focal'),
  'poly1': oracle(poly1, 'poly1'),
  'cosface': oracle(cosface, 'cosface'),
  'arcface': oracle(arcface, 'arcface'),
  'cosine': softmax,
  # Combinations.
  'cosine_softmax+scale_by_temperature': oracle(
    scale_by_temperature, 'cosine_softmax', base=softmax
  ),
  'logit_normalization+scale_by_temperature': oracle(
    scale_by_temperature,
    'logit_normalization',
    base=oracle(logit_normalization, 'logit_normalization'),
  ),
  'cosine_softmax+logit_penalty+scale_by_temperature': oracle(
    scale_by_temperature,
    'cosine_softmax',
    base=oracle(logit_penalty, 'logit_penalty'),
  ),
  'cosine_softmax+label_smoothing': oracle(label_smoothing, 'label_smoothing'),
  'sigmoid+label_smoothing': oracle(
    label_smoothing, 'label_smoothing', base=sigmoid
  ),
  'sigmoid+cosine': sigmoid,
  'sigmoid+dropout+logit_penalty': oracle(
    logit_penalty, 'logit_penalty', base=sigmoid
  ),
  'sigmoid+logit_normalization': oracle(
    logit_normalization, 'logit_normalization', base=sigmoid
  ),
  'logit_normalization+label_smoothing': oracle(
    logit_normalization,
    'logit_normalization',
    base=oracle(label_smoothing, 'label_smoothing'),
  ),
  'label_smoothing+logit_penalty': oracle(
    logit_penalty,
    'logit_penalty',
    base=oracle(label_smoothing, 'label_smoothing'),
  ),
  # The penalty is on the logits without the margin.
  'cosface+logit_penalty': oracle(
    logit_penalty, 'logit_penalty', base=oracle(cosface, 'cosface')
  ),
  'squared_error+logit_penalty': oracle(
    logit_penalty,
    'logit_penalty',
    base=oracle(squared_error, 'squared_error'),
  ),
  'focal+label_smoothing': oracle(
    label_smoothing, 'label_smoothing', base=oracle(focal, 'focal')
  ),
}


def build(spec, **changes):
  """The objective with HPARAMS for those of its parts that have any."""
  hparams = {p: HPARAMS[p] for p in spec.split('+') if p in HPARAMS}
  return create_objective(spec, {**hparams, **changes})


# --- The inputs. -------------------------------------------------------------

SCALES = (1, 5, 20)
KINDS = ('wrong', 'right', 'confident', 'mixup', 'soft')
ROWS = [f'{kind}, scale {scale}' for scale in SCALES for kind in KINDS]


def random_batch(num_classes):
  """Float32 logits and targets, one row for each of ROWS.

  The logits are N(0, scale^2); the targets, by kind of row:

  wrong: one-hot, the lowest logit.  right: one-hot, the top logit.
  confident: right, and the top logit is higher by `scale`.
  mixup: two classes.  soft: all classes.
  """
  rng = np.random.default_rng(num_classes)
  one_hot = np.eye(num_classes)
  all_logits, all_targets = [], []
  for scale in SCALES:
    logits = rng.normal(scale=scale, size=(len(KINDS), num_classes))
    top = logits.argmax(-1)
    logits[2, top[2]] += scale
    # Counts of 1024ths are float32 numbers, and sum to one exactly.
    soft = rng.multinomial(1024, one_hot.mean(0)) / 1024
    mixup = 0.75 * one_hot[top[3]] + 0.25 * one_hot[top[3] - 1]
    wrong = one_hot[logits[0].argmin()]
    all_logits.append(logits)
    all_targets += [wrong, one_hot[top[1]], one_hot[top[2]], mixup, soft]
  logits, targets = np.concatenate(all_logits), np.stack(all_targets)
  return logits.astype(np.float32), targets.astype(np.float32)


def squash(logits, *, temperature):
  """Maps logits into what a cosine layer can give, |cos| < 0.95."""
  limit = np.float32(0.95 / temperature)
  return limit * np.tanh(logits / limit)


def inputs_for(spec, num_classes):
  logits, targets = random_batch(num_classes)
  if 'arcface' in spec:  # The only loss that needs cosines to be cosines.
    logits = squash(logits, temperature=HPARAMS['arcface']['temperature'])
  return logits, targets


def loss_and_gradient(objective, logits, targets):
  loss, pull_back = jax.vjp(
    lambda logits: objective.per_example_loss(logits, targets), logits
  )
  return loss, pull_back(jnp.ones_like(loss))[0]


# --- Losses and gradients agree with the oracles. ----------------------------

TOLERANCE = 1e-5
# Below the float32 numbers that have all their digits, nothing is relative.
FLOOR = 1e-36


def test_every_part_has_an_oracle():
  covered = {part for spec in ORACLES for part in spec.split('+')}
  assert covered == set(known_parts())
  assert set(ORACLES) >= set(known_parts()) - {'scale_by_temperature'}


@pytest.mark.parametrize('spec', ORACLES)
def test_the_oracles_gradient_is_the_slope_of_its_loss(spec):
  logits, targets = inputs_for(spec, 10)
  logits, targets = logits.astype(np.float64), targets.astype(np.float64)
  _, gradient = ORACLES[spec](logits, targets)
  step = 1e-6
  for k, shift in enumerate(step * np.eye(10)):
    above, _ = ORACLES[spec](logits + shift, targets)
    below, _ = ORACLES[spec](logits - shift, targets)
    slope = (above - below) / (2 * step)
    error = np.abs(slope - gradient[:, k])
    assert np.all(error < 1e-6 * np.linalg.norm(gradient, axis=-1))


@pytest.mark.parametrize('num_classes', [10, 100, 1000])
@pytest.mark.parametrize('spec', ORACLES)
def test_losses_and_gradients_agree_with_float64(spec, num_classes):
  logits, targets = inputs_for(spec, num_classes)
  loss, gradient = loss_and_gradient(build(spec), logits, targets)
  assert loss.dtype == gradient.dtype == jnp.float32
  expected_loss, expected_gradient = ORACLES[spec](
    logits.astype(np.float64), targets.astype(np.float64)
  )

  # The loss is right example by example, however small it is.
  error = np.abs(loss - expected_loss)
  bound = TOLERANCE * np.abs(expected_loss) + FLOOR
  # The gradient is right in norm: an entry p_k - t_k of an example with soft
  # targets may be arbitrarily close to zero, beside others that are not.
  gradient_error = np.linalg.norm(gradient - expected_gradient, axis=-1)
  norm = np.linalg.norm(expected_gradient, axis=-1)
  gradient_bound = TOLERANCE * norm + FLOOR

  for i, row in enumerate(ROWS):
    assert error[i] < bound[i], f'loss of row: {row}'
    assert gradient_error[i] < gradient_bound[i], f'gradient of row: {row}'


# From a gap of 17 on, the probability of the right class rounds to 1.
GAPS = np.array([10, 15, 17, 20, 50, 80], np.float32)


def confidently_right():
  """Two classes; the first is right, and its logit is higher by one of GAPS."""
  logits = np.stack([GAPS, np.zeros_like(GAPS)], axis=-1)
  return logits, np.broadcast_to(np.float32([1, 0]), logits.shape)


def test_a_confidently_right_example_still_has_a_gradient():
  loss, gradient = loss_and_gradient(build('softmax'), *confidently_right())
  odds = np.exp(-GAPS.astype(np.float64))
  miss = odds / (1 + odds)
  expected_gradient = np.stack([-miss, miss], axis=-1)
  np.testing.assert_allclose(loss, np.log1p(odds), rtol=TOLERANCE)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=TOLERANCE)


def test_a_confidently_wrong_example_costs_the_gap():
  logits, right = confidently_right()
  loss, gradient = loss_and_gradient(build('softmax'), logits, 1 - right)
  np.testing.assert_allclose(loss, GAPS + np.log1p(np.exp(-GAPS)), rtol=1e-6)
  np.testing.assert_allclose(gradient, 2 * right - 1, rtol=1e-4)


# --- Identities. -------------------------------------------------------------


@pytest.fixture(name='batch')
def _batch():
  return random_batch(10)


def assert_same_loss_and_gradient(one, other, logits, targets):
  loss, gradient = loss_and_gradient(one, logits, targets)
  other_loss, other_gradient = loss_and_gradient(other, logits, targets)
  np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
  np.testing.assert_allclose(gradient, other_gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ('spec', 'neutral', 'same_as'),
  [
    ('label_smoothing', {'alpha': 0.0}, 'softmax'),
    ('logit_penalty', {'beta': 0.0}, 'softmax'),
    ('focal', {'gamma': 0.0}, 'softmax'),
    ('poly1', {'epsilon': 0.0}, 'softmax'),
    ('dropout', {'keep_prob': 1.0}, 'softmax'),
    ('cosface', {'temperature': 0.05, 'margin': 0.0}, 'cosine_softmax'),
    ('arcface', {'temperature': 0.05, 'margin': 0.0}, 'cosine_softmax'),
  ],
)
def test_neutral_hyperparameters_give_the_plain_loss(
  batch, spec, neutral, same_as
):
  objective = create_objective(spec, {spec: neutral})
  assert_same_loss_and_gradient(objective, build(same_as), *batch)


def test_both_forms_of_label_smoothing_agree(batch):
  """Eq. 2 is smoothed cross-entropy / (1 - alpha); expanded, it is eq. 3."""
  logits, targets = (array.astype(np.float64) for array in batch)
  alpha, num_classes = 0.1, logits.shape[-1]
  eq_3 = (
    -(targets * logits).sum(-1)
    + np.log(np.exp(logits).sum(-1)) / (1 - alpha)
    - alpha / ((1 - alpha) * num_classes) * logits.sum(-1)
  )
  eq_2 = build('label_smoothing').per_example_loss(*batch)
  np.testing.assert_allclose(eq_2, eq_3, rtol=1e-5)


def test_smoothed_targets_are_distributions(batch):
  _, targets = batch
  smooth = losses.smooth_targets(targets, alpha=0.3)
  np.testing.assert_allclose(smooth.sum(-1), 1.0, rtol=1e-6)
  np.testing.assert_allclose(smooth.min(), 0.03, rtol=1e-6)


def test_squared_error_is_by_default_the_mean_squared_error(batch):
  logits, _ = batch
  targets = np.eye(10, dtype=np.float32)[logits.argmax(-1)]
  mean_squared_error = np.mean((logits - targets) ** 2, axis=-1)
  np.testing.assert_allclose(
    losses.squared_error(logits, targets), mean_squared_error, rtol=1e-6
  )


def test_sigmoids_gradient_is_probability_minus_target(batch):
  logits, targets = batch
  _, gradient = loss_and_gradient(build('sigmoid'), logits, targets)
  np.testing.assert_allclose(
    gradient, 1 / (1 + np.exp(-logits)) - targets, rtol=1e-5, atol=1e-7
  )


def test_logit_normalization_ignores_the_scale_of_the_logits(batch):
  logits, targets = batch
  objective = build('logit_normalization')
  loss, gradient = loss_and_gradient(objective, logits, targets)
  # Powers of two multiply without rounding.
  scaled, scaled_gradient = loss_and_gradient(objective, 64 * logits, targets)
  np.testing.assert_array_equal(scaled, loss)
  np.testing.assert_allclose(64 * scaled_gradient, gradient, rtol=1e-6)
  # Hence a gradient at right angles to the logits.
  along = np.abs((gradient * logits).sum(-1))
  size = np.linalg.norm(gradient, axis=-1) * np.linalg.norm(logits, axis=-1)
  assert np.all(along < 1e-5 * size)


def test_normalized_logits_have_norm_one_over_temperature(batch):
  seen = build('logit_normalization').seen_logits(batch[0])
  np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), 25, rtol=1e-6)


def test_extra_l2_pulls_the_kernel_by_lambda_times_itself():
  kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
  gradient = jax.grad(losses.kernel_l2)(kernel, lambda_final=0.25)
  np.testing.assert_array_equal(gradient, 0.25 * kernel)


@pytest.mark.parametrize(
  'spec',
  ['softmax', 'label_smoothing', 'focal', 'poly1', 'cosface'],
)
def test_losses_of_softmax_ignore_a_common_shift(batch, spec):
  logits, targets = batch
  logits = np.round(256 * logits) / 256  # So that adding 8 does not round.
  objective = build(spec)
  loss, gradient = loss_and_gradient(objective, logits, targets)
  shifted, shifted_gradient = loss_and_gradient(objective, logits + 8, targets)
  np.testing.assert_allclose(shifted, loss, rtol=1e-5)
  np.testing.assert_allclose(shifted_gradient, gradient, rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-6)


@pytest.mark.parametrize('spec', ORACLES)
def test_examples_do_not_see_each_other(spec):
  logits, targets = inputs_for(spec, 10)
  objective = build(spec)
  loss = objective.per_example_loss(logits, targets)
  in_other_company = objective.per_example_loss(
    np.where(np.arange(15)[:, None] == 3, logits, 1.0), targets
  )
  np.testing.assert_array_equal(loss[3], in_other_company[3])


def test_cosface_takes_the_margin_off_the_right_classs_cosine(batch):
  logits, targets = batch
  with_margin = losses.additive_margin(
    logits, targets, temperature=0.1, margin=0.3
  )
  np.testing.assert_allclose(
    0.1 * with_margin, 0.1 * logits - 0.3 * targets, rtol=1e-6, atol=1e-7
  )


def test_arcface_adds_the_margin_to_the_right_classs_angle():
  angles = np.linspace(0.01, np.pi - 0.01, 150)
  logits = np.float32(np.cos(angles) / 0.1).reshape(15, 10)
  cosines = 0.1 * losses.additive_angular_margin(
    logits, np.ones_like(logits), temperature=0.1, margin=0.4
  )
  cosines = np.ravel(cosines)
  before = angles + 0.4 < np.pi
  # atol: near angle 0, a float32 cosine does not determine its angle.
  np.testing.assert_allclose(
    cosines[before], np.cos(angles + 0.4)[before], rtol=1e-5, atol=1e-5
  )
  assert np.all(np.diff(cosines) < 0), 'falls on as the angle grows to pi'


def test_margins_leave_wrong_classes_alone(batch):
  logits, _ = batch
  for margin_fn in (losses.additive_margin, losses.additive_angular_margin):
    unchanged = margin_fn(
      logits, np.zeros_like(logits), temperature=0.1, margin=0.4
    )
    np.testing.assert_array_equal(unchanged, logits)


# --- Extremes. ---------------------------------------------------------------

BIG = 1e4
EXTREME_LOGITS = {
  'zeros': [0, 0, 0],
  'all equal': [7, 7, 7],
  'all large': [BIG, BIG, BIG],
  'all very negative': [-BIG, -BIG, -BIG],
  'one large': [BIG, 0, 0],
  'one very negative': [-BIG, 0, 0],
  'far apart': [BIG, -BIG, -BIG],
  'two large': [BIG, BIG, -BIG],
  'tiny': [1e-30, -1e-30, 0],
}
EXTREME_TARGETS = {
  'first': [1.0, 0, 0],
  'last': [0, 0, 1.0],
  'uniform': [1 / 3, 1 / 3, 1 / 3],
}


def assert_finite_at_extremes(objective):
  cases = list(itertools.product(EXTREME_LOGITS, EXTREME_TARGETS))
  logits = jnp.array([EXTREME_LOGITS[name] for name, _ in cases], jnp.float32)
  targets = jnp.array([EXTREME_TARGETS[name] for _, name in cases])
  loss, gradient = loss_and_gradient(objective, logits, targets)
  finite = np.isfinite(loss) & np.isfinite(gradient).all(-1)
  assert finite.all(), [
    case for case, ok in zip(cases, finite, strict=True) if not ok
  ]
  log_probs = objective.log_probs(logits)
  assert np.isfinite(log_probs).all()
  np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize('spec', ORACLES)
def test_extreme_logits_give_finite_losses_and_gradients(spec):
  assert_finite_at_extremes(build(spec))


@pytest.mark.parametrize(
  ('spec', 'hparams'),
  [
    ('label_smoothing', {'alpha': 0.999}),
    ('focal', {'gamma': 0.0}),
    ('focal', {'gamma': 0.5}),
    ('focal', {'gamma': 1.0}),
    ('focal', {'gamma': 50.0}),
    ('poly1', {'epsilon': -1.0}),
    ('logit_normalization', {'temperature': 1e-3}),
    ('cosface', {'temperature': 0.01, 'margin': 1.9}),
    ('arcface', {'temperature': 0.01, 'margin': 0.0}),
    ('arcface', {'temperature': 0.01, 'margin': 1.57}),
  ],
)
def test_extreme_hyperparameters_too(spec, hparams):
  assert_finite_at_extremes(create_objective(spec, {spec: hparams}))


@pytest.mark.parametrize('gamma', [0.5, 1.0, 2.0])
def test_focal_stays_finite_where_the_probability_rounds_to_one(gamma):
  """There (1 - p)^(gamma - 1) of its derivative is 0^negative, or 0^0."""
  objective = create_objective('focal', {'focal': {'gamma': gamma}})
  loss, gradient = loss_and_gradient(objective, *confidently_right())
  softmax_loss = losses.softmax(*confidently_right())
  assert np.all((loss >= 0) & (loss <= softmax_loss))
  assert np.isfinite(gradient).all()
  assert np.all((gradient[:, 0] <= 0) & (gradient[:, 1] >= 0))


# --- Probabilities. ----------------------------------------------------------


@pytest.mark.parametrize('spec', ORACLES)
def test_probabilities_sum_to_one_and_keep_the_top_class(spec):
  logits, _ = inputs_for(spec, 10)
  probs = np.exp(build(spec).log_probs(logits))
  np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)
  # At large logits several sigmoids round to 1 and tie for the top.
  top = np.take_along_axis(probs, logits.argmax(-1)[:, None], axis=-1)
  np.testing.assert_array_equal(top[:, 0], probs.max(-1))


def test_log_softmax_agrees_with_float64_in_both_tails():
  logits, _ = random_batch(10)
  expected = -minus_log_probs(logits.astype(np.float64))
  np.testing.assert_allclose(losses.log_softmax(logits), expected, rtol=1e-5)


def test_sigmoids_probabilities_are_sigmoids_normalized_over_classes(batch):
  logits, _ = batch
  sigmoids = 1 / (1 + np.exp(-logits.astype(np.float64)))
  expected = sigmoids / sigmoids.sum(-1, keepdims=True)
  for spec in ('sigmoid', 'sigmoid+cosine', 'sigmoid+label_smoothing'):
    probs = np.exp(build(spec).log_probs(logits))
    np.testing.assert_allclose(probs, expected, rtol=1e-5)


def test_probabilities_come_from_the_logits_that_the_loss_sees(batch):
  logits, targets = batch
  objective = build('logit_normalization')
  nll = -(targets * objective.log_probs(logits)).sum(-1)
  np.testing.assert_allclose(
    nll, objective.per_example_loss(logits, targets), rtol=1e-6
  )


@pytest.mark.parametrize('margin_spec', ['cosface', 'arcface'])
def test_probabilities_know_no_margin(batch, margin_spec):
  np.testing.assert_array_equal(
    build(margin_spec).log_probs(batch[0]),
    build('cosine_softmax').log_probs(batch[0]),
  )


# --- Errors. -----------------------------------------------------------------


@pytest.mark.parametrize('spec', ['softmax', 'label_smoothing', 'arcface'])
@pytest.mark.parametrize(
  ('logits_shape', 'targets_shape'),
  [((2, 3), (2,)), ((2, 3), (2, 1)), ((3,), (3,)), ((2, 3), (2, 4))],
)
def test_wrong_shapes_are_refused(spec, logits_shape, targets_shape):
  """Class ids in place of targets are the usual mistake."""
  with pytest.raises(ValueError) as error:
    build(spec).per_example_loss(np.ones(logits_shape), np.ones(targets_shape))
  assert str(error.value) == (
    'logits and targets must both be [batch, num_classes]; got '
    f'{logits_shape} and {targets_shape}. Labels become targets by '
    'jax.nn.one_hot(labels, num_classes).'
  )


@pytest.mark.parametrize(
  'loss_fn',
  [
    losses.softmax,
    losses.sigmoid,
    losses.squared_error,
    losses.focal,
    losses.poly1,
  ],
)
def test_the_losses_check_shapes_by_themselves_too(loss_fn):
  with pytest.raises(ValueError, match='one_hot'):
    loss_fn(np.ones((2, 2)), np.ones(2))
