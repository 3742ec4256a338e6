"""OOD scores and their ROC measures against scikit-learn and loops."""

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import roc_auc_score, roc_curve

from lossbench.metrics.ood import (
  auroc,
  energy_score,
  fpr_at_95_tpr,
  max_probability_score,
)


def _scores(*, ties, seed=0, sizes=(300, 500)):
  rng = np.random.default_rng(seed)
  scores = [rng.normal(1, 1, sizes[0]), rng.normal(0, 1.5, sizes[1])]
  return [np.round(s * 2) if ties else s for s in scores]


def _as_one(in_scores, out_scores):
  labels = np.repeat([1, 0], [len(in_scores), len(out_scores)])
  return labels, np.concatenate([in_scores, out_scores])


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('sizes', [(300, 500), (20, 7), (1, 1), (3, 100)])
def test_auroc_scikit_learn(ties, sizes):
  scores = _scores(ties=ties, sizes=sizes)
  expected = roc_auc_score(*_as_one(*scores))
  assert auroc(*scores) == pytest.approx(expected, rel=1e-12)
  assert auroc(*scores[::-1]) == pytest.approx(1 - expected, abs=1e-12)
  wins = np.subtract.outer(*scores)
  by_pairs = np.mean((wins > 0) + 0.5 * (wins == 0))
  assert auroc(*scores) == pytest.approx(by_pairs, rel=1e-12)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('sizes', [(300, 500), (20, 7), (1, 1), (3, 100)])
@pytest.mark.parametrize('tpr', [0.5, 0.95, 1.0])
def test_fpr_scikit_learn(ties, sizes, tpr):
  scores = _scores(ties=ties, sizes=sizes)
  fprs, tprs, _ = roc_curve(*_as_one(*scores), drop_intermediate=False)
  expected = fprs[np.flatnonzero(tprs >= tpr - 1e-12)[0]]
  assert fpr_at_95_tpr(*scores, tpr=tpr) == pytest.approx(expected, abs=1e-12)


def test_hand_values():
  in_scores = np.arange(1, 21)  # 19 of the 20 are >= 2
  assert fpr_at_95_tpr(in_scores, [0, 1, 2, 3]) == 0.5
  assert fpr_at_95_tpr(in_scores, [1.999]) == 0
  assert fpr_at_95_tpr(in_scores[:19], [1, 0]) == 0.5  # 95% of 19: all
  assert fpr_at_95_tpr([3, 3, 3], [3, 3]) == 1
  assert auroc([3, 3, 3], [3, 3]) == 0.5
  assert auroc([2, 3], [0, 1]) == 1
  assert auroc([np.inf, 0], [-np.inf, 0]) == 0.875


def test_monotone_maps_change_nothing():
  scores = _scores(ties=True)
  mapped = [np.exp(s) - 7 for s in scores]
  assert auroc(*mapped) == auroc(*scores)
  assert fpr_at_95_tpr(*mapped) == fpr_at_95_tpr(*scores)


def test_scores():
  logits = np.random.default_rng(0).normal(size=(50, 7)) * 5
  log_probs = special.log_softmax(logits, axis=1)
  got = max_probability_score(log_probs)
  expected = special.softmax(logits, axis=1).max(axis=1)
  np.testing.assert_allclose(np.exp(got), expected, rtol=1e-12)
  for temperature in (0.5, 1.0, 10.0):
    got = energy_score(logits, temperature=temperature)
    expected = temperature * np.log(np.exp(logits / temperature).sum(axis=1))
    np.testing.assert_allclose(got, expected, rtol=1e-12)
  # Liu et al. 2020, eq. 6: log max p = max z - (-E).
  np.testing.assert_allclose(
    max_probability_score(log_probs), logits.max(1) - energy_score(logits)
  )
  np.testing.assert_allclose(energy_score(logits + 3), energy_score(logits) + 3)


def test_confident_models_have_no_ties():
  logits = np.stack([np.linspace(18, 30, 20), np.zeros(20)], axis=1)
  log_probs = special.log_softmax(logits, axis=1).astype(np.float32)
  assert len(np.unique(np.exp(log_probs)[:, 0])) == 1
  assert len(np.unique(max_probability_score(log_probs))) == 20


def test_refusals():
  scores = np.ones(3)
  for function in (auroc, fpr_at_95_tpr):
    with pytest.raises(ValueError, match=r'in_scores must be .* got \(0,\)'):
      function([], scores)
    with pytest.raises(ValueError, match=r'out_scores must be .*\(3, 1\)'):
      function(scores, scores[:, None])
    with pytest.raises(ValueError, match='1 of 2 out_scores are NaN'):
      function(scores, [1, np.nan])
  for tpr in (0.0, 1.1, np.nan):
    with pytest.raises(ValueError, match=r'tpr must be in \(0, 1\]'):
      fpr_at_95_tpr(scores, scores, tpr=tpr)
  logits = np.zeros((4, 3))
  with pytest.raises(
    ValueError, match='of 4 of 4 examples are NaN or do not sum'
  ):
    max_probability_score(logits)
  for bad in (np.nan, np.inf):
    broken = logits.copy()
    broken[1, 2] = bad
    with pytest.raises(ValueError, match=r'1 of 4 rows of logits have NaN'):
      energy_score(broken)
  with pytest.raises(ValueError, match=r'log_probs must be .*\(3,\)'):
    max_probability_score(logits[0])
  with pytest.raises(ValueError, match='temperature must be'):
    energy_score(logits, temperature=0.0)
