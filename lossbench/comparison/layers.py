"""CKA between the layers of models."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from lossbench.comparison.ensembles import Group
from lossbench.evaluation.collected import Collected
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
  """Two seeds of one configuration if there are, else the first two models."""
  for group in groups:
    if len(group.indices) > 1:
      return group.indices[0], group.indices[1]
  return 0, 1


def compare_layers(
  names: Sequence[str],
  endpoints: Sequence[Sequence[str]],
  groups: Sequence[Group],
  read_fn: Callable[[int, Collection[str]], Collected],
  *,
  minibatch_size: int,
) -> dict[str, Any]:
  """CKA of all layers of two models, and of corresponding layers of all.

  Linear CKA of spatial averages, exact, and unbiased minibatch CKA of whole
  feature maps. The two models are the first two seeds of one configuration, or
  the first two where none has two.

  Args:
    names: of the models, in errors.
    endpoints: of each the names of its layers, in forward order.
    groups: of all models.
    read_fn: index of a model, names of arrays -> 'pooled/<endpoint>' [N, C] and
      'gram/<endpoint>' [N, minibatch_size], as far as they are named.
    minibatch_size: of the Gram matrices.

  Raises:
    ValueError: if the models read different examples, or activations are NaN.
  """
  ids = {name: read_fn(index, ()).ids for index, name in enumerate(names)}
  agreement.check_same_examples(ids)
  result = {
    'num_examples': len(next(iter(ids.values()))),
    'minibatch_size': minibatch_size,
  }

  def layers(kind, index):
    wanted = [f'{kind}/{name}' for name in endpoints[index]]
    arrays = read_fn(index, wanted).arrays
    return [arrays[name] for name in wanted]

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
  if any(of_model != endpoints[0] for of_model in endpoints):
    LOGGER.info('Architectures differ: layers do not correspond.')
    return result
  on_progress = create_printer('layers', len(endpoints[0]))
  linear, minibatch = [], []
  for done, name in enumerate(endpoints[0], start=1):
    # One layer of all models at a time: what fits in memory.
    wanted = [f'gram/{name}', f'pooled/{name}']
    arrays = [read_fn(index, wanted).arrays for index in range(len(names))]
    grams = [of_model[f'gram/{name}'] for of_model in arrays]
    minibatch.append(
      cka_minibatches.cka_of_grams(grams, minibatch_size=minibatch_size)
    )
    matrix = np.eye(len(names))
    for a in range(len(names)):
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
    features: [N, M] of each model, of the same examples; Gaussian kernels take
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
