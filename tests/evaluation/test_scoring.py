"""Scores of stored logits against naive float64 formulas and scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from lossbench.evaluation import chunks, per_example, scoring, suites
from lossbench.evaluation.collected import Collected
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
  whole = _values(scoring.score_predictions(objective, logits, labels)[0])
  monkeypatch.setattr(chunks, '_SIZE', 8)
  parts = _values(scoring.score_predictions(objective, logits, labels)[0])
  assert parts == pytest.approx(whole, rel=1e-6)


def test_predictions_against_naive_formulas(objective, logits, labels):
  scored = scoring.score_predictions(objective, logits, labels)
  found, reliability = _values(scored.records), scored.reliability
  probs = _naive_probs(objective.name, logits)
  one_hot = np.eye(K)[labels]
  confidence, correct = probs.max(1), probs.argmax(1) == labels
  assert found['top1_accuracy'] == pytest.approx(correct.mean())
  recalls = sklearn_metrics.recall_score(
    labels, probs.argmax(1), average=None, labels=np.unique(labels)
  )
  assert found['mean_class_accuracy'] == pytest.approx(recalls.mean())
  assert found['worst_class_accuracy'] == pytest.approx(recalls.min())
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
  records, *_ = scoring.score_predictions(
    create_objective('softmax'), logits, labels
  )
  found = {record.name: record for record in records}
  assert found['temperature'].value is None
  assert found['temperature'].note == (
    'not available: the NLL falls up to the end of the search, temperature 0.01'
  )
  assert found['tempered_nll'].value == pytest.approx(0, abs=1e-6)
  assert 'end of the search' in found['tempered_nll'].note


def test_values_of_examples_average_to_the_metrics(objective, logits, labels):
  scored = scoring.score_predictions(objective, logits, labels, held_out=True)
  found = _values(scored.records)
  assert set(scored.per_example) == set(found) - {
    'temperature',
    'held_out_temperature',
    'adaptive_ece',
    'classwise_ece',
    'worst_class_accuracy',
  }
  for name, values in scored.per_example.items():
    assert values.shape == (N,)
    assert values.mean(dtype=np.float64) == pytest.approx(found[name], rel=1e-5)


def _best_temperature(probs, labels):
  grid = np.geomspace(0.2, 5, 20_001)
  rows = np.arange(len(labels))
  found = [
    -special.log_softmax(np.log(probs) / t, axis=1)[rows, labels].mean()
    for t in grid
  ]
  return grid[np.argmin(found)]


def test_a_held_out_temperature_is_of_other_examples(objective, logits, labels):
  """Of the holdout; without one, of either half for the other."""
  rows = np.arange(N)
  probs = _naive_probs(objective.name, logits)
  holdout = Collected(
    ids=np.arange(40),
    labels=labels[:40],
    arrays={'logits': 3 * logits[:40]},
  )
  records, *_ = scoring.score_predictions(
    objective, logits, labels, holdout=holdout, held_out=True
  )
  found = _values(records)
  temperature = _best_temperature(
    _naive_probs(objective.name, 3 * logits[:40]), labels[:40]
  )
  assert found['held_out_temperature'] == pytest.approx(temperature, rel=1e-3)
  assert found['held_out_temperature'] > 1.5 * found['temperature']
  tempered = special.log_softmax(np.log(probs) / temperature, axis=1)
  assert found['held_out_tempered_nll'] == pytest.approx(
    -tempered[rows, labels].mean(), rel=1e-4
  )
  [note] = {r.note for r in records if r.name.startswith('held_out')}
  assert note == 'temperature fitted on the holdout, 40 examples'
  records, *_ = scoring.score_predictions(
    objective, logits, labels, held_out=True
  )
  found = _values(records)
  order = np.random.default_rng(0).permutation(N)
  tempered, fitted = np.zeros((N, K)), []
  for here, there in ((order[::2], order[1::2]), (order[1::2], order[::2])):
    fitted.append(_best_temperature(probs[there], labels[there]))
    tempered[here] = np.log(probs[here]) / fitted[-1]
  nll = -special.log_softmax(tempered, axis=1)[rows, labels].mean()
  assert found['held_out_tempered_nll'] == pytest.approx(nll, rel=1e-4)
  assert found['held_out_temperature'] == pytest.approx(
    np.sqrt(np.prod(fitted)), rel=1e-3
  )
  assert found['tempered_nll'] < nll


def test_a_holdout_that_is_all_right_gives_no_temperature(logits, labels):
  """What it would do to other examples depends on the search alone."""
  right = 3 * np.eye(K, dtype=np.float32)[labels]
  scored = scoring.score_predictions(
    create_objective('softmax'),
    logits,
    labels,
    holdout=Collected(np.arange(N), labels, {'logits': right}),
    held_out=True,
  )
  found = {r.name: r for r in scored.records if r.name.startswith('held_out')}
  assert {record.value for record in found.values()} == {None}
  assert {record.note for record in found.values()} == {
    'not available: the NLL of the holdout falls up to the end of the search, '
    'temperature 0.01'
  }
  assert 'tempered_nll' in scored.per_example
  assert 'held_out_tempered_nll' not in scored.per_example


def test_values_of_other_label_spaces(objective, logits, labels):
  of_subset = per_example.of_subset(logits, labels % 3, 3)
  records = scoring.subset_records(
    objective, logits, labels % 3, num_used_classes=3
  )
  assert of_subset['subset_top1_accuracy'].mean() == records[0].value
  assert per_example.of_subset(logits, labels % 3, 4) == {}
  is_label = np.eye(K, dtype=bool)[labels]
  is_label[::3] = False
  values = per_example.of_real_labels(logits, is_label)['real_accuracy']
  assert values.mean() == pytest.approx(
    scoring.real_record(logits, is_label).value
  )
  assert per_example.of_real_labels(logits, is_label & False) == {}


def test_without_five_classes_there_is_no_top5(labels):
  logits = np.zeros((N, 4), np.float32)
  records, *_ = scoring.score_predictions(
    create_objective('softmax'), logits, labels % 4
  )
  assert 'top5_accuracy' not in _values(records)


def test_nan_logits_say_why(logits, labels):
  broken = logits.copy()
  broken[3, 2] = np.nan
  records, *_ = scoring.score_predictions(
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


def _saturated():
  """Two sigmoids at 1 in every row: their float32 probabilities tie."""
  rng = np.random.default_rng(2)
  labels = rng.integers(0, K, 300).astype(np.int32)
  logits = rng.uniform(-30, -25, size=(300, K))
  second = (labels + rng.integers(1, K, 300)) % K
  rows = np.arange(300)
  logits[rows, labels] = rng.uniform(20, 24, 300)
  logits[rows, second] = rng.uniform(18, 19.5, 300)
  # A tenth are wrong.
  logits[rows[::10], second[::10]] = 24.5
  return logits.astype(np.float32), labels


def _close():
  """Logits that differ by less than the log of a probability can tell."""
  rng = np.random.default_rng(3)
  labels = rng.integers(0, K, 300).astype(np.int32)
  logits = np.zeros((300, K))
  logits[np.arange(300), labels] = rng.uniform(1e-9, 2e-8, 300)
  return logits.astype(np.float32), labels


def _naive_ece(probs, correct):
  confidence = probs.max(axis=1)
  index = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
  gaps = [abs(np.sum((confidence - correct)[index == b])) for b in range(15)]
  return sum(gaps) / len(correct)


@pytest.mark.parametrize(
  ('name', 'data_fn'), [('sigmoid', _saturated), ('softmax', _close)]
)
def test_ties_made_by_rounding_are_no_ties(name, data_fn):
  """Correct is what the raw logits say; the oracle is float64."""
  logits, labels = data_fn()
  objective = create_objective(name)
  rounded = scoring.log_probs_of(objective, logits)
  correct = logits.astype(np.float64).argmax(axis=1) == labels
  assert np.mean(rounded.argmax(axis=1) == labels) < correct.mean() - 0.2
  records, *_ = scoring.score_predictions(objective, logits, labels)
  found = _values(records)
  probs = _naive_probs(name, logits)
  assert found['top1_accuracy'] == pytest.approx(correct.mean())
  assert found['ece'] == pytest.approx(_naive_ece(probs, correct), abs=1e-6)
  starts = [i * 300 // 15 for i in range(16)]
  confidence = np.exp(np.minimum(rounded.max(axis=1), 0.0))
  order = np.argsort(confidence, kind='stable')
  adaptive = sum(
    abs(np.sum((confidence - correct)[order[a:b]]))
    for a, b in itertools.pairwise(starts)
  )
  assert found['adaptive_ece'] == pytest.approx(adaptive / 300, abs=1e-6)
  # The note has it where it is at the end of its search.
  [note] = [r.note for r in records if r.name == 'tempered_ece']
  temperature = found['temperature'] or float(note.split()[-1])
  tempered = special.softmax(np.log(probs) / temperature, axis=1)
  assert found['tempered_ece'] == pytest.approx(
    _naive_ece(tempered, correct), abs=1e-5
  )


def test_the_suite_of_training_takes_correct_from_the_logits():
  logits, labels = _saturated()
  objective = create_objective('sigmoid')
  suite = suites.create_measurements('predictions', {}, num_classes=K)
  filled = suite.update_fn(
    suite.empty_fn(),
    suites.ModelOutputs(
      endpoints={'logits': logits},
      log_probs=objective.log_probs(logits),
      labels=labels,
      mask=np.ones(300),
      kernel=np.zeros((1, K)),
    ),
  )
  correct = logits.argmax(axis=1) == labels
  expected = _naive_ece(_naive_probs('sigmoid', logits), correct)
  assert filled['ece'].compute() == pytest.approx(expected, abs=1e-6)
  assert int(filled['ece'].num_correct.sum()) == correct.sum()
