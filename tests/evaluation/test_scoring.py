"""Scores of stored logits against naive float64 formulas and scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from lossbench.evaluation import scoring
from lossbench.objectives import create_objective

N, K = 101, 7


@pytest.fixture(scope='module')
def logits():
  return (2 * np.random.default_rng(0).standard_normal((N, K))).astype(
    np.float32
  )


@pytest.fixture(scope='module')
def labels(logits):
  rng = np.random.default_rng(1)
  noisy = logits + 2 * rng.standard_normal(logits.shape)
  return noisy.argmax(axis=1).astype(np.int32)


def _naive_probs(name, logits):
  logits = logits.astype(np.float64)
  if name == 'sigmoid':
    probs = special.expit(logits)
    return probs / probs.sum(1, keepdims=True)
  return special.softmax(logits, axis=1)


@pytest.fixture(params=['softmax', 'sigmoid'])
def objective(request):
  return create_objective(request.param)


def _values(records):
  return {record.name: record.value for record in records}


def test_chunks_change_nothing(objective, logits, labels, monkeypatch):
  whole = _values(scoring.prediction_records(objective, logits, labels)[0])
  monkeypatch.setattr(scoring, '_CHUNK', 8)
  parts = _values(scoring.prediction_records(objective, logits, labels)[0])
  assert parts == pytest.approx(whole, rel=1e-6)


def test_predictions_against_naive_formulas(objective, logits, labels):
  records, reliability = scoring.prediction_records(objective, logits, labels)
  found = _values(records)
  probs = _naive_probs(objective.name, logits)
  one_hot = np.eye(K)[labels]
  confidence, correct = probs.max(1), probs.argmax(1) == labels
  assert found['top1_accuracy'] == pytest.approx(correct.mean())
  ranks = (logits > logits[np.arange(N), labels][:, None]).sum(1)
  assert found['top5_accuracy'] == pytest.approx(np.mean(ranks < 5))
  assert found['nll'] == pytest.approx(
    sklearn_metrics.log_loss(labels, probs, labels=range(K)), rel=1e-6
  )
  assert found['brier_score'] == pytest.approx(
    ((probs - one_hot) ** 2).sum(1).mean(), rel=1e-5
  )
  parts = np.array_split(np.argsort(confidence, kind='stable'), 15)
  # array_split puts the larger parts first; the metric spreads them.
  starts = [i * N // 15 for i in range(16)]
  order = np.argsort(confidence, kind='stable')
  adaptive = sum(
    abs(np.sum(confidence[order[a:b]] - correct[order[a:b]]))
    for a, b in itertools.pairwise(starts)
  )
  assert len(parts) == 15
  assert found['adaptive_ece'] == pytest.approx(adaptive / N, rel=1e-5)
  bins = np.ceil(confidence * 15).astype(int) - 1
  np.testing.assert_array_equal(
    reliability.num_examples, np.bincount(bins, minlength=15)
  )
  tempered = special.log_softmax(np.log(probs) / found['temperature'], axis=1)
  nll = -tempered[np.arange(N), labels].mean()
  assert found['tempered_nll'] == pytest.approx(nll, rel=1e-5)
  assert nll <= found['nll']


def test_a_temperature_at_the_end_of_the_search_is_none(labels):
  """Where all are right the NLL falls for ever as the temperature does."""
  logits = 3 * np.eye(K, dtype=np.float32)[labels]
  records, _ = scoring.prediction_records(
    create_objective('softmax'), logits, labels
  )
  found = {record.name: record for record in records}
  assert found['temperature'].value is None
  assert found['temperature'].note == (
    'not available: the NLL falls up to the end of the search, temperature 0.01'
  )
  assert found['tempered_nll'].value == pytest.approx(0, abs=1e-6)
  assert 'end of the search' in found['tempered_nll'].note


def test_without_five_classes_there_is_no_top5(labels):
  logits = np.zeros((N, 4), np.float32)
  records, _ = scoring.prediction_records(
    create_objective('softmax'), logits, labels % 4
  )
  assert 'top5_accuracy' not in _values(records)


def test_nan_logits_say_why(logits, labels):
  broken = logits.copy()
  broken[3, 2] = np.nan
  records, _ = scoring.prediction_records(
    create_objective('softmax'), broken, labels
  )
  by_name = {record.name: record for record in records}
  assert by_name['temperature'].value is None
  assert 'NaN' in by_name['temperature'].note
  assert by_name['nll'].value is None
  assert by_name['nll'].note == 'not available: nll is nan'


def test_subset_rules_the_other_classes_out(objective, logits):
  classes = np.array([1, 4, 6])
  labels = classes[np.arange(N) % 3]
  found = _values(
    scoring.subset_records(objective, logits, labels, num_used_classes=3)
  )
  probs = _naive_probs(objective.name, logits)[:, classes]
  probs /= probs.sum(1, keepdims=True)
  within = np.arange(N) % 3
  assert found['subset_top1_accuracy'] == pytest.approx(
    np.mean(logits[:, classes].argmax(1) == within)
  )
  assert found['subset_nll'] == pytest.approx(
    sklearn_metrics.log_loss(within, probs, labels=range(3)), rel=1e-5
  )


def test_subset_of_an_incomplete_set_is_refused(objective, logits, labels):
  records = scoring.subset_records(
    objective, logits, labels, num_used_classes=K + 1
  )
  assert [record.value for record in records] == [None] * 3
  assert '7 classes occur, the complete data set has 8' in records[0].note


def test_real_accuracy_skips_images_without_labels(logits):
  is_label = np.random.default_rng(2).random((N, K)) < 0.3
  is_label[:10] = False
  top1 = logits.argmax(1)
  hits = [is_label[n, top1[n]] for n in range(N) if is_label[n].any()]
  record = scoring.real_record(logits, is_label)
  assert record.value == pytest.approx(np.mean(hits))
  assert record.n == len(hits)
  nothing = scoring.real_record(logits, np.zeros((N, K), bool))
  assert nothing.value is None


def test_detection_against_scikit_learn(objective, logits):
  other = logits[:40] * 0.3
  found = _values(scoring.Detector(objective, logits).records(other))
  is_own = np.r_[np.ones(N), np.zeros(40)]

  def auroc(score_fn):
    return sklearn_metrics.roc_auc_score(
      is_own, np.r_[score_fn(logits), score_fn(other)]
    )

  # float32 may tie what float64 tells apart.
  assert found['energy_auroc'] == pytest.approx(
    auroc(lambda x: special.logsumexp(x.astype(np.float64), axis=1)), abs=1e-3
  )
  assert found['max_probability_auroc'] == pytest.approx(
    auroc(lambda x: _naive_probs(objective.name, x).max(1)), abs=1e-3
  )
