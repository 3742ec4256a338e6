"""Rank correlation over objectives, with its uncertainty."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from lossbench.report.bootstrap import LEVEL, Sample

# Fewer objectives have no order that is rare by chance.
MIN_OBJECTIVES = 4


def rank_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Spearman's of rows [P, size]; 0 where one has no order."""
  x, y = (stats.rankdata(values, axis=1) for values in (x, y))
  x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
  scale = np.sqrt(np.sum(x**2, axis=1) * np.sum(y**2, axis=1))
  return np.sum(x * y, axis=1) / np.where(scale > 0, scale, math.inf)


def rank_correlation(
  x: Sequence[Sample], y: Sequence[Sample]
) -> tuple[float, tuple[float, float] | None]:
  """Spearman's of means over seeds, and its interval of 95 %.

  The interval is of these objectives, which are given, and no sample of all there
  are: the estimate plus and minus Student's quantile of the bootstrap's standard
  error, over seeds and examples, within [-1, 1]. Quantiles of the bootstrap itself
  have its noise twice, and where objectives are close to one another lie off the
  estimate. It is an approximation: of two seeds that spread twice as much as
  neighbouring objectives lie apart it covers four times in five.

  Args:
    x: a quantity of each objective.
    y: another, of the same objectives in the same order.

  Returns:
    The correlation, and None for the interval where single seeds without values of
    examples tell none.
  """
  [rho] = rank_correlations(
    *(np.array([[sample.mean for sample in samples]]) for samples in (x, y))
  )
  both = [*x, *y]
  if any(len(s.values) < 2 and s.resampled is None for s in both):
    return float(rho), None
  resampled = rank_correlations(
    *(
      np.stack([sample.draws()[2] for sample in samples], axis=1)
      for samples in (x, y)
    )
  )
  dof = sum(len(sample.values) - 1 for sample in y) or math.inf
  half = stats.t.ppf(1 - LEVEL / 2, dof) * np.std(resampled)
  return float(rho), (
    float(max(-1.0, rho - half)),
    float(min(1.0, rho + half)),
  )
