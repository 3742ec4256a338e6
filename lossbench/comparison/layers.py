"""CKA between the layers of runs."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lossbench.comparison.ensembles import Group
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.outputs import RunOutputs
from lossbench.metrics import agreement, cka, cka_minibatches
from lossbench.runtime.console import LOGGER
from lossbench.runtime.progress import create_printer

_CHUNK = 1024  # examples whose layers are on a device at once
# Gaussian kernels are quadratic in the number of examples.
_MAX_RBF_EXAMPLES = 2000


@jax.jit
def _update_cka(accumulator, xs, ys, mask):
  return accumulator.update(xs, ys, mask)


def pooled_cka(
  xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]
) -> np.ndarray:
  """Exact linear CKA of every x layer with every y layer, float64 [L_x, L_y].

  By streaming covariances, one pair of layers on a device at a time.

  Args:
    xs: [N, C] of each x layer.
    ys: [N, C'] of each y layer, of the same examples.
  """
  matrix = np.zeros((len(xs), len(ys)))
  for i, x in enumerate(xs):
    for j, y in enumerate(ys):
      accumulator = cka.LinearCKA.empty(x.shape[1], y.shape[1])
      for first in range(0, len(x), _CHUNK):
        short = max(0, first + _CHUNK - len(x)) if len(x) > _CHUNK else 0
        rows = [
          np.pad(z[first : first + _CHUNK], ((0, short), (0, 0)))
          for z in (x, y)
        ]
        mask = np.arange(len(rows[0])) < len(rows[0]) - short
        accumulator = _update_cka(accumulator, rows[0], rows[1], mask)
      matrix[i, j] = jax.device_get(accumulator).compute()
  return matrix


def _first_pair(groups: Sequence[Group]) -> tuple[int, int]:
  """Two seeds of one configuration if there are, else the first two runs."""
  for group in groups:
    if len(group.indices) > 1:
      return group.indices[0], group.indices[1]
  return 0, 1


def compare_layers(
  runs: Sequence[RunOutputs],
  groups: Sequence[Group],
  *,
  dataset: str,
  split: str,
  num_examples: int,
  minibatch_size: int,
) -> dict[str, Any]:
  """CKA of all layers of two runs, and of corresponding layers of all runs.

  Linear CKA of spatial averages, exact, and unbiased minibatch CKA of whole
  feature maps. The two runs are the first two seeds of one configuration, or
  the first two where none has two.

  Raises:
    ValueError: if the runs read different examples, or activations are NaN.
  """

  def read(run, only) -> Collected:
    return run.layers(
      dataset,
      split,
      num_examples=num_examples,
      minibatch_size=minibatch_size,
      only=only,
    )

  ids, endpoints = {}, []
  for run in runs:
    ids[str(run.run.path)] = read(run, ()).ids
    endpoints.append(run.endpoints())
    run.release()
  agreement.check_same_examples(ids)
  result = {
    'num_examples': len(next(iter(ids.values()))),
    'minibatch_size': minibatch_size,
  }

  def layers(kind, index):
    names = [f'{kind}/{name}' for name in endpoints[index]]
    arrays = read(runs[index], names).arrays
    return [arrays[name] for name in names]

  i, j = _first_pair(groups)
  if endpoints[i] == endpoints[j]:
    grams = [*layers('gram', i), *layers('gram', j)]
    both = cka_minibatches.cka_of_grams(grams, minibatch_size=minibatch_size)
    num_layers = len(endpoints[i])
    result['layers'] = {
      'runs': [i, j],
      'endpoints': endpoints[i],
      'linear_cka': pooled_cka(layers('pooled', i), layers('pooled', j)),
      'minibatch_cka': both[:num_layers, num_layers:],
    }
  if any(names != endpoints[0] for names in endpoints):
    LOGGER.info('Architectures differ: layers do not correspond.')
    return result
  on_progress = create_printer('layers', len(endpoints[0]))
  linear, minibatch = [], []
  for done, name in enumerate(endpoints[0], start=1):
    # One layer of all runs at a time: what fits in memory.
    arrays = [read(r, [f'gram/{name}', f'pooled/{name}']).arrays for r in runs]
    grams = [of_run[f'gram/{name}'] for of_run in arrays]
    minibatch.append(
      cka_minibatches.cka_of_grams(grams, minibatch_size=minibatch_size)
    )
    matrix = np.eye(len(runs))
    for a in range(len(runs)):
      for b in range(a):
        pair = [[arrays[index][f'pooled/{name}']] for index in (a, b)]
        matrix[a, b] = matrix[b, a] = pooled_cka(*pair)[0, 0]
    linear.append(matrix)
    on_progress(done)
  result['corresponding'] = {
    'endpoints': endpoints[0],
    'linear_cka': np.stack(linear),
    'minibatch_cka': np.stack(minibatch),
  }
  return result


def compare_features(features: Sequence[np.ndarray]) -> dict[str, Any]:
  """Linear, debiased and Gaussian CKA of penultimate features, [A, A] each.

  Args:
    features: [N, M] of each run, of the same examples; Gaussian kernels take
      the first 2,000 of them.
  """
  linear, debiased = cka.linear_cka_matrices(features)
  first = [x[:_MAX_RBF_EXAMPLES] for x in features]
  return {
    'num_examples': len(features[0]),
    'num_rbf_examples': len(first[0]),
    'linear_cka': linear,
    'debiased_cka': debiased,
    'rbf_cka': cka.rbf_cka_matrix(first),
  }
