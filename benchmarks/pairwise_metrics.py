"""Class separation and CKA against the formulas as they are written.

Class separation by its definition takes all pairs of examples, and CKA by its
definition the kernels of all pairs; both here as vectorised NumPy in float64
(and CKA also with its kernels centred the cheap way). Ours are linear in the
examples.

  python -m benchmarks.pairwise_metrics
"""

import argparse
import statistics
import time

import numpy as np

from lossbench.metrics.cka import linear_cka
from lossbench.metrics.separation import class_separation

_BLOCK = 1000


def naive_class_separation(features, labels):
  """Eq. 11 of the paper, all pairs."""
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)
  num_classes = labels.max() + 1
  sums = np.zeros((num_classes, num_classes))
  counts = np.bincount(labels).astype(np.float64)
  member = np.eye(num_classes)[labels]
  for first in range(0, len(unit), _BLOCK):
    rows = slice(first, first + _BLOCK)
    distances = 1 - unit[rows] @ unit.T
    sums += member[rows].T @ distances @ member
  means = sums / np.outer(counts, counts)
  return 1 - np.mean(np.diag(means)) / np.mean(means)


def naive_linear_cka(x, y):
  """HSIC as tr(K H L H), centring matrices multiplied out."""
  num_examples = len(x)
  centring = np.eye(num_examples) - 1 / num_examples
  x, y = (z @ z.T @ centring for z in (x, y))
  return np.sum(x * y.T) / np.sqrt(np.sum(x * x.T) * np.sum(y * y.T))


def kernel_linear_cka(x, y):
  """HSIC by kernels that are centred by subtracting means."""

  def centred_kernel(z):
    kernel = z @ z.T
    kernel -= kernel.mean(axis=0)
    kernel -= kernel.mean(axis=1)[:, None]
    return kernel

  x, y = centred_kernel(x), centred_kernel(y)
  return np.vdot(x, y) / np.sqrt(np.vdot(x, x) * np.vdot(y, y))


def _time(function, *args, repeats):
  secs = []
  for _ in range(repeats):
    began = time.monotonic()
    value = function(*args)
    secs.append(time.monotonic() - began)
  return statistics.median(secs), value


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_features', type=int, default=2048)
  parser.add_argument('--sizes', type=int, nargs='+', default=[5000, 10000])
  parser.add_argument('--num_repeats', type=int, default=3)
  args = parser.parse_args()
  rng = np.random.default_rng(0)
  print('| metric | N | ours, s | naive, s | naive / ours | difference |')
  print('|---|---:|---:|---:|---:|---:|')
  for num_examples in args.sizes:
    labels = np.arange(num_examples) % 1000
    centres = rng.standard_normal((1000, args.num_features))
    noise = rng.standard_normal((2, num_examples, args.num_features))
    x, y = (np.maximum(centres[labels] + 2 * z, 0.0) for z in noise)
    for name, ours, naive, operands in [
      (
        'class separation',
        class_separation,
        naive_class_separation,
        (x, labels),
      ),
      ('linear CKA', linear_cka, naive_linear_cka, (x, y)),
      ('linear CKA, by kernels', linear_cka, kernel_linear_cka, (x, y)),
    ]:
      our_secs, value = _time(ours, *operands, repeats=args.num_repeats)
      their_secs, expected = _time(naive, *operands, repeats=1)
      print(
        f'| {name} | {num_examples} | {our_secs:.2f} | {their_secs:.2f} | '
        f'{their_secs / our_secs:.1f} | {abs(value - expected):.1e} |',
        flush=True,
      )


if __name__ == '__main__':
  main()
