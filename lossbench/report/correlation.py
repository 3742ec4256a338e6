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
) -> tuple[float, tuple[float, float]]:
  """Spearman's of means over seeds, and its interval of 95 %.

  The interval is the bootstrap's, over seeds and examples: of these objectives,
  which are given, and no sample of all there are.

  Args:
    x: a quantity of each objective.
    y: another, of the same objectives in the same order.
  """
  [rho] = rank_correlations(
    *(np.array([[sample.mean for sample in samples]]) for samples in (x, y))
  )
  resampled = rank_correlations(
    *(
      np.stack([sample.draws()[2] for sample in samples], axis=1)
      for samples in (x, y)
    )
  )
  low, high = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
  return float(rho), (float(low), float(high))
