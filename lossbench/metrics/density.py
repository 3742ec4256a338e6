"""Smooth densities of binned distances.

NumPy alone, so that reports can draw what evaluation has binned.
"""

import numpy as np
from numpy.typing import ArrayLike


def smooth_density(
  counts: ArrayLike,
  edges: ArrayLike,
  points: ArrayLike,
  *,
  num_examples: int,
  bandwidth: float | None = None,
) -> np.ndarray:
  """Gaussian kernel density of binned values within [edges[0], edges[-1]].

  Of values that are known by their bins alone: each counts as its bin's middle,
  half a bin away at most. The kernel is reflected at both ends, so that no mass
  leaks to where there can be no value, and the density integrates to 1.

  Args:
    counts: [B] of values in each bin.
    edges: [B + 1], ascending.
    points: [P] to evaluate at, in [edges[0], edges[-1]].
    num_examples: n of the rule for the bandwidth: independent observations,
      fewer than the counts where these are of pairs.
    bandwidth: standard deviation of the kernel, not below a bin's width. None:
      the normal reference rule, 1.06 s n^(-1/5) (Scott 1992, eq. 6.17), s the
      standard deviation of the values; or a bin's width if that is more.

  Returns:
    float64 [P]; NaN where nothing was counted.

  Raises:
    ValueError: if points is not [P] or bandwidth is under a bin's width.

  Example:
    >>> edges = np.linspace(0, 1, 101)
    >>> counts, _ = np.histogram(np.random.default_rng(0).random(5000), edges)
    >>> density = metrics.smooth_density(counts, edges, [0.5], num_examples=5000)
    >>> print(f'{density[0]:.1f}')
    1.0
  """
  counts, edges, points = (
    np.asarray(x, np.float64) for x in (counts, edges, points)
  )
  width = float(np.max(np.diff(edges)))
  if points.ndim != 1:
    raise ValueError(f'points must be [num_points]; got {points.shape}.')
  if bandwidth is not None and not width <= bandwidth < np.inf:
    raise ValueError(
      f'bandwidth must be at least a bin, {width:.2g}; got {bandwidth}. Take '
      'more bins.'
    )
  total = counts.sum()
  if not total:
    return np.full(points.shape, np.nan)
  weights, centers = counts / total, (edges[:-1] + edges[1:]) / 2
  if bandwidth is None:
    spread = np.sqrt(weights @ (centers - weights @ centers) ** 2)
    bandwidth = max(1.06 * spread * num_examples**-0.2, width)
  # Values in the mirrors at both ends; further reflections are beyond any
  # bandwidth that the rule gives.
  images = centers, 2 * edges[0] - centers, 2 * edges[-1] - centers
  scaled = [(points[:, None] - image[None, :]) / bandwidth for image in images]
  kernels = sum(np.exp(-(z**2) / 2) for z in scaled)
  return kernels @ weights / (bandwidth * np.sqrt(2 * np.pi))
