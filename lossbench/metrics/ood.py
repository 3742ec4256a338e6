"""Telling out-of-distribution examples from those of the data set.

A score is higher where an example looks like the training distribution. The
two scores here are the maximum softmax probability (Hendrycks & Gimpel 2017,
arXiv:1610.02136) and the negative energy (Liu et al. 2020, arXiv:2010.03759).
How well a score separates in- from out-of-distribution examples is its AUROC
and its false positive rate at 95% true positives; "positive" is
in-distribution, as in both papers. Plain float64 NumPy.
"""

import numpy as np
from jax.typing import ArrayLike
from scipy import special, stats

from lossbench.metrics import checks


def max_probability_score(log_probs: ArrayLike) -> np.ndarray:
  """Log of the maximum probability; higher is more in-distribution.

  The log, because it orders examples as the probability does, and float32
  probabilities of confident models are ties at 1.

  Args:
    log_probs: [N, K] log-probabilities, by the objective's own map.

  Returns:
    [N] float64 in [log 1/K, 0], nats.

  Raises:
    ValueError: if it is not [N, K], or a row is NaN or does not sum to 1.

  Example:
    >>> log_probs = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> print(np.exp(metrics.max_probability_score(log_probs)))
    [0.9 0.6]
  """
  log_probs = _check_scores_2d(log_probs, 'log_probs')
  checks.check_distributions(log_probs, prefix='log_probs: ')
  return log_probs.max(axis=1)


def energy_score(logits: ArrayLike, *, temperature: float = 1.0) -> np.ndarray:
  """Negative free energy; higher is more in-distribution.

  Liu et al. 2020, eqs. 4 and 7: -E = T log sum_k exp(z_k / T). Logits of
  different objectives have different scales; the energy is one of a softmax.

  Args:
    logits: [N, K], not log-probabilities, whose energy is always 0.
    temperature: T > 0; the paper advises 1.

  Returns:
    [N] float64, in units of the logits.

  Raises:
    ValueError: if it is not [N, K], has NaN or +inf, or T is not in (0, inf).

  Example:
    >>> print(metrics.energy_score([[0.0, 0.0], [5.0, 0.0]]).round(3))
    [0.693 5.007]
  """
  logits = _check_scores_2d(logits, 'logits')
  if not 0 < temperature < np.inf:
    raise ValueError(f'temperature must be in (0, inf); got {temperature}.')
  return temperature * special.logsumexp(logits / temperature, axis=1)


def auroc(in_scores: ArrayLike, out_scores: ArrayLike) -> float:
  """Area under the ROC curve; higher is better, chance is 0.5.

  The probability that an in-distribution example has the higher score, ties
  counting half (Mann-Whitney).

  Args:
    in_scores: [N] scores of in-distribution examples, higher is more so.
    out_scores: [M] of out-of-distribution examples.

  Returns:
    A fraction in [0, 1].

  Raises:
    ValueError: if either is empty, not one-dimensional or has a NaN.

  Example:
    >>> metrics.auroc([0.9, 0.8], [0.1, 0.85])
    0.75
  """
  in_scores = _check_scores(in_scores, 'in_scores')
  out_scores = _check_scores(out_scores, 'out_scores')
  num_in, num_out = len(in_scores), len(out_scores)
  ranks = stats.rankdata(np.concatenate([in_scores, out_scores]))
  # Ranks are halves and their sum far below 2^53: exact.
  wins = ranks[:num_in].sum() - num_in * (num_in + 1) / 2
  return float(wins / (num_in * num_out))


def fpr_at_95_tpr(
  in_scores: ArrayLike, out_scores: ArrayLike, *, tpr: float = 0.95
) -> float:
  """Share of OOD examples accepted when 95% of the others are; lower is better.

  Accepted are scores >= t, with t the highest threshold that accepts at least
  95% of the in-distribution examples. Tied scores are accepted together: no
  interpolation of the ROC curve between thresholds that exist.

  Args:
    in_scores: [N] scores of in-distribution examples, higher is more so.
    out_scores: [M] of out-of-distribution examples.
    tpr: the true positive rate to reach, in (0, 1].

  Returns:
    A fraction in [0, 1].

  Raises:
    ValueError: if either is empty, not one-dimensional or has a NaN, or tpr is
      not in (0, 1].

  Example:
    >>> metrics.fpr_at_95_tpr([0.9, 0.8], [0.1, 0.85])
    0.5
  """
  in_scores = _check_scores(in_scores, 'in_scores')
  out_scores = _check_scores(out_scores, 'out_scores')
  if not 0 < tpr <= 1:
    raise ValueError(f'tpr must be in (0, 1]; got {tpr}.')
  # Less a rounding error: 0.95 * 20 must ask for 19, and not for 20.
  num_accepted = int(np.ceil(tpr * len(in_scores) * (1 - 1e-12)))
  threshold = np.sort(in_scores)[len(in_scores) - num_accepted]
  return float(np.mean(out_scores >= threshold))


def _check_scores(scores, name):
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 1 or not len(scores):
    raise ValueError(
      f'{name} must be [num_examples], of one example or more; got '
      f'{scores.shape}.'
    )
  num_nan = int(np.isnan(scores).sum())
  if num_nan:
    raise ValueError(f'{num_nan} of {len(scores)} {name} are NaN.')
  return scores


def _check_scores_2d(scores, name):
  scores = np.asarray(scores, np.float64)
  checks.check_scores(scores, name=name)
  num_broken = int((np.isnan(scores) | np.isposinf(scores)).any(axis=1).sum())
  if num_broken:
    raise ValueError(
      f'{num_broken} of {len(scores)} rows of {name} have NaN or +inf: did the '
      'run diverge?'
    )
  return scores
