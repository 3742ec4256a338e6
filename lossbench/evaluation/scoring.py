"""Accuracy, calibration and detection from logits, example by example.

Works on stored logits [N, K] of one data set, in chunks on the device, with the
objective's own probabilities; so whatever was predicted once can be scored in
any label space, and again.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lossbench.evaluation import chunks, per_example, predictions, temperatures
from lossbench.evaluation.collected import Collected
from lossbench.metrics import ood
from lossbench.metrics.brier import BrierScore
from lossbench.metrics.by_class import ClassAccuracies, class_accuracies
from lossbench.metrics.calibration import Reliability
from lossbench.metrics.calibration_errors import (
  ClasswiseCalibrationError,
  equal_mass_error,
)
from lossbench.objectives import Objective
from lossbench.runs.records import Record, create_record


@jax.jit
def _log_probs(objective: Objective, logits):
  return objective.log_probs(logits)


def log_probs_of(
  objective: Objective, logits: np.ndarray, *, exact: bool = False
) -> np.ndarray:
  """The objective's log-probabilities of stored logits [N, K], on the host.

  Args:
    objective: whose map is meant.
    logits: [N, K].
    exact: in float64 instead of float32.
  """
  if exact:
    with jax.enable_x64(True):
      return _log_probs_of(objective, logits.astype(np.float64))
  return _log_probs_of(objective, logits.astype(np.float32))


def _log_probs_of(objective, logits):
  log_probs, first = np.empty(logits.shape, logits.dtype), 0
  for rows, mask in chunks.split(logits):
    real = np.asarray(_log_probs(objective, rows))[mask]
    log_probs[first : first + len(real)] = real
    first += len(real)
  return log_probs


def _empty(num_classes: int) -> predictions.Accumulators:
  return {
    **predictions.empty(num_classes),
    'brier_score': BrierScore.empty(),
    'classwise_ece': ClasswiseCalibrationError.empty(
      num_classes, num_bins=predictions.NUM_BINS
    ),
  }


_update = jax.jit(predictions.update, donate_argnums=0)


def _fill(logits, log_probs, labels):
  accumulators = _empty(logits.shape[1])
  for *arrays, mask in chunks.split(logits, log_probs, labels):
    accumulators = _update(accumulators, *arrays, mask)
  names = _empty(logits.shape[1])  # jit sorts them
  return {name: accumulators[name] for name in names}


def accumulator_records(accumulators, *, n: int) -> list[Record]:
  """One record per accumulator; one that cannot be computed says why.

  Args:
    accumulators: 'metric' or 'metric/endpoint' -> filled accumulator.
    n: examples that were counted.
  """
  records = []
  for name, accumulator in accumulators.items():
    metric, _, endpoint = name.partition('/')
    value, note = None, ''
    try:
      value = accumulator.compute()
    except ValueError as error:
      note = f'not available: {error}'
    records.append(
      create_record(metric, value, n=n, endpoint=endpoint or None, note=note)
    )
  return records


class Scored(NamedTuple):
  """What predictions are worth.

  Attributes:
    records: of accuracy and calibration.
    reliability: the diagram, None if it cannot be computed.
    per_example: metric -> [N] values whose mean is the metric's record.
    by_class: accuracy of each class.
  """

  records: list[Record]
  reliability: Reliability | None
  per_example: dict[str, np.ndarray]
  by_class: ClassAccuracies


def score_predictions(
  objective: Objective,
  logits: np.ndarray,
  labels: np.ndarray,
  *,
  holdout: Collected | None = None,
  holdout_name: str = 'the holdout',
  held_out: bool = False,
) -> Scored:
  """Accuracy and calibration, before and after temperature scaling.

  As in the paper `temperature` is fitted on the very examples it is reported on,
  so it is the best that scaling could do. `held_out_temperature` is fitted on
  others: see `temperatures.held_out`.

  Args:
    objective: whose probabilities are meant.
    logits: [N, K] raw outputs of the output layer.
    labels: [N] int class ids in [0, K).
    holdout: 'logits' of examples that trained nothing and are none of these;
      None where the run has none.
    holdout_name: in notes.
    held_out: whether a held-out temperature is wanted.
  """
  n = len(labels)
  log_probs = log_probs_of(objective, logits)
  accumulators = _fill(logits, log_probs, labels)
  records = accumulator_records(accumulators, n=n)
  predicted = logits.argmax(axis=1)
  by_class = class_accuracies(predicted, labels, num_classes=logits.shape[1])
  records += _class_records(by_class, n=n)
  correct = predicted == labels
  records += _adaptive_records(log_probs, correct)
  fits = [temperatures.fitted_here(log_probs, labels)]
  if held_out:
    calibration = None
    if holdout is not None:
      fit_on = log_probs_of(objective, holdout.arrays['logits'])
      calibration = fit_on, holdout.labels
    fits.append(
      temperatures.held_out(log_probs, labels, calibration, name=holdout_name)
    )
  for fit in fits:
    records += fit.records(labels, correct)
  values = per_example.of_predictions(logits, log_probs, labels, fits)
  try:
    reliability = accumulators['ece'].reliability()
  except ValueError:
    reliability = None
  return Scored(records, reliability, per_example.finite(values), by_class)


def _class_records(found: ClassAccuracies, *, n: int) -> list[Record]:
  """The mean over classes and the worst one, of those that occur."""
  worst = found.worst
  missing = int((found.count == 0).sum())
  lack = f'{missing} classes have no example' if missing else ''
  if worst is None:
    return [
      create_record(name, None, n=n, note='not available: no examples')
      for name in ('mean_class_accuracy', 'worst_class_accuracy')
    ]
  return [
    create_record('mean_class_accuracy', found.mean, n=n, note=lack),
    create_record(
      'worst_class_accuracy',
      float(found.accuracy[worst]),
      n=int(found.count[worst]),
      note=f'worst is class {worst}, of {found.count[worst]} examples',
    ),
  ]


def _adaptive_records(log_probs, correct) -> list[Record]:
  n = len(correct)
  if n < predictions.NUM_BINS or np.isnan(log_probs).any():
    note = 'not available: NaN predictions'
    if n < predictions.NUM_BINS:
      note = f'not available: {n} examples for {predictions.NUM_BINS} bins'
    return [create_record('adaptive_ece', None, n=n, note=note)]
  confidence = np.exp(np.minimum(log_probs.max(axis=1), 0.0))
  error = equal_mass_error(confidence, correct, num_bins=predictions.NUM_BINS)
  return [create_record('adaptive_ece', error, n=n)]


def subset_records(
  objective: Objective,
  logits: np.ndarray,
  labels: np.ndarray,
  *,
  num_used_classes: int,
) -> list[Record]:
  """Accuracy and calibration among only the classes that a data set has.

  ImageNet-A and -R have 200 of ImageNet's 1000 classes, and are reported with
  the other 800 ruled out. Probabilities are renormalised over those left, which
  for softmax and for normalised sigmoids is the objective's own map of the
  logits left.

  Args:
    objective: whose probabilities are meant.
    logits: [N, K] over all classes.
    labels: [N] int class ids in [0, K).
    num_used_classes: how many of them the complete data set has.

  Returns:
    subset_top1_accuracy, subset_nll, subset_ece; without a value, and with the
    reason, if other than `num_used_classes` classes occur.
  """
  n = len(labels)
  classes, within = np.unique(labels, return_inverse=True)
  metrics = ('top1_accuracy', 'nll', 'ece')
  names = [f'subset_{metric}' for metric in metrics]
  if len(classes) != num_used_classes:
    note = (
      f'not available: {len(classes)} classes occur, the complete data set has '
      f'{num_used_classes}'
    )
    return [create_record(name, None, n=n, note=note) for name in names]
  log_probs = log_probs_of(objective, logits)[:, classes]
  log_probs = np.concatenate(
    [
      np.asarray(jax.nn.log_softmax(jnp.asarray(rows), axis=1))[mask]
      for rows, mask in chunks.split(log_probs)
    ]
  )
  accumulators = _fill(
    np.ascontiguousarray(logits[:, classes]),
    log_probs,
    within.astype(np.int32),
  )
  note = f'among the {num_used_classes} classes of the data set'
  return [
    create_record(
      f'subset_{metric}', accumulators[metric].compute(), n=n, note=note
    )
    for metric in metrics
  ]


def mapped_record(
  logits: np.ndarray, is_label: np.ndarray, classes: Sequence[int]
) -> Record:
  """Accuracy on a data set each of whose classes is one or several of ours.

  As ObjectNet is scored (Barbu et al. 2019): among the classes that are some
  example's, the one of the largest logit is one of the example's own.

  Args:
    logits: [N, K].
    is_label: [N, K] bool.
    classes: the ids that are right of some class of the data set, ascending.
  """
  return create_record(
    'subset_top1_accuracy',
    float(per_example.of_mapped(logits, is_label, classes).mean()),
    n=len(logits),
    note=f'among the {len(classes)} classes that the class map names',
  )


def real_record(logits: np.ndarray, is_label: np.ndarray) -> Record:
  """ReaL accuracy: the top-1 class is among the labels raters gave.

  Beyer et al. 2020 (arXiv:2006.07159). Images without any label do not count.

  Args:
    logits: [N, K].
    is_label: [N, K] bool.
  """
  labelled = is_label.any(axis=1)
  hits = is_label[np.arange(len(logits)), logits.argmax(axis=1)][labelled]
  return create_record(
    'real_accuracy',
    float(hits.mean()) if len(hits) else None,
    n=len(hits),
    note='' if len(hits) else 'not available: no image has a label',
  )


@jax.jit
def _seen_logits(objective: Objective, logits):
  return objective.seen_logits(logits)


def _detection_scores(
  objective: Objective, logits: np.ndarray, *, are_log_probs: bool
) -> dict[str, np.ndarray | ValueError]:
  """Score -> [N], or why it cannot be computed."""

  def of_chunks(score_fn, map_fn):
    parts = [
      score_fn(np.asarray(map_fn(objective, rows))[mask])
      for rows, mask in chunks.split(logits)
    ]
    return np.concatenate(parts)

  scores: dict[str, np.ndarray | ValueError] = {}
  for name, score_fn, map_fn in (
    ('max_probability', ood.max_probability_score, _log_probs),
    ('energy', ood.energy_score, _seen_logits),
  ):
    try:
      scores[name] = of_chunks(score_fn, map_fn)
    except ValueError as error:
      scores[name] = error
  if are_log_probs:
    scores['energy'] = ValueError('log-probabilities all have the energy 0')
  return scores


class Detector:
  """How well two scores tell data sets' examples from the test set's.

  Args:
    objective: whose probabilities are meant.
    in_logits: [N, K] of the run's own test set.
    are_log_probs: what is given for logits are log-probabilities of a softmax,
      which have no energy.
  """

  def __init__(
    self,
    objective: Objective,
    in_logits: np.ndarray,
    *,
    are_log_probs: bool = False,
  ):
    self._num_own = len(in_logits)
    self._scores_fn = functools.partial(
      _detection_scores, objective, are_log_probs=are_log_probs
    )
    self._in_scores = self._scores_fn(in_logits)

  def records(self, out_logits: np.ndarray) -> list[Record]:
    """AUROC and FPR at 95 % TPR of both scores.

    The maximum probability, and the energy of the logits that the loss sees.

    Args:
      out_logits: [M, K] of the other data set.
    """
    n = self._num_own + len(out_logits)
    out_scores = self._scores_fn(out_logits)
    records = []
    for score, own in self._in_scores.items():
      pair = own, out_scores[score]
      values, note = (None, None), ''
      broken = [scores for scores in pair if isinstance(scores, ValueError)]
      if broken:
        note = f'not available: {broken[0]}'
      else:
        values = ood.auroc(*pair), ood.fpr_at_95_tpr(*pair)
      for metric, value in zip(('auroc', 'fpr_at_95_tpr'), values, strict=True):
        records.append(
          create_record(f'{score}_{metric}', value, n=n, note=note)
        )
    return records
