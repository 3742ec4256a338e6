"""What several models' outputs say of one another."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import lossbench
from lossbench.arrays.mapping import Rows
from lossbench.arrays.outputs import Outputs
from lossbench.arrays.scored import SPLIT, Model
from lossbench.comparison.ensembles import Group, read_predictions
from lossbench.comparison.layers import compare_features, compare_layers
from lossbench.comparison.results import compare_predictions, write_comparison
from lossbench.evaluation import chunks
from lossbench.evaluation.collected import Collected, random_order
from lossbench.evaluation.suites import spatial_mean
from lossbench.metrics import cka
from lossbench.metrics.cka_minibatches import to_minibatches, u_centered_grams
from lossbench.runtime import storage


def group_models(models: Sequence[Model]) -> list[Group]:
  """Files of one name are its seeds, in order."""
  names = [model.name for model in models]
  return [
    Group(name, tuple(i for i, other in enumerate(names) if other == name))
    for name in dict.fromkeys(names)
  ]


_pool = jax.jit(spatial_mean)


def _pooled(values: Rows) -> np.ndarray:
  """The spatial average of each example, float32 [N, C]."""
  return np.concatenate(
    [np.asarray(_pool(part))[mask] for part, mask in chunks.split(values)]
  )


def _gram_rows(values: Rows, *, minibatch_size: int) -> np.ndarray:
  """Each example's row [N, G] of its minibatch's Gram matrix."""
  rows = []
  for first in range(0, len(values), minibatch_size):
    part = values[first : first + minibatch_size]
    short = minibatch_size - len(part)
    padded = np.pad(part, [(0, short)] + [(0, 0)] * (part.ndim - 1))
    members = np.arange(minibatch_size) < len(part)
    grams = _grams(
      *(
        to_minibatches(x, minibatch_size=minibatch_size)
        for x in (padded, members)
      )
    )
    rows.append(np.asarray(grams)[0, : len(part)])
  return np.concatenate(rows)


_grams = jax.jit(u_centered_grams)


def _read_layers(
  outputs: Outputs, names, rows, *, minibatch_size: int
) -> Collected:
  """'pooled/<endpoint>' and 'gram/<endpoint>', as they are named."""
  found = outputs.read([], rows)
  for name in names:
    kind, _, endpoint = name.partition('/')
    values = outputs.rows(endpoint, rows)
    if kind == 'pooled':
      found.arrays[name] = _pooled(values)
    else:
      found.arrays[name] = _gram_rows(values, minibatch_size=minibatch_size)
  return found


def _compare_cka(
  models: Sequence[Model],
  groups: Sequence[Group],
  *,
  num_examples: int,
  minibatch_size: int,
) -> dict[str, Any]:
  """CKA of layers that all have, features and logits among them."""
  # Minibatches are of consecutive examples, which ids may have sorted by class.
  rows = random_order(models[0].outputs.ids)
  if (
    minibatch_size <= num_examples < len(rows)
  ):  # whole minibatches, as of runs
    num_examples -= num_examples % minibatch_size
  rows = rows[:num_examples]

  def read(index, names) -> Collected:
    return _read_layers(
      models[index].outputs, names, rows, minibatch_size=minibatch_size
    )

  result = compare_layers(
    [model.outputs.path for model in models],
    [list(model.outputs.endpoints) for model in models],
    groups,
    read,
    minibatch_size=minibatch_size,
  )
  if all('features' in model.outputs.endpoints for model in models):
    name = 'pooled/features'
    result['features'] = compare_features(
      [read(i, [name]).arrays[name] for i in range(len(models))]
    )
  return result


def _why_no_cka(models: Sequence[Model]) -> str:
  """Why there is none of any layer; '' where there is."""
  if len(models[0].outputs) < cka.MIN_DEBIASED:
    return f'CKA is left out: it needs {cka.MIN_DEBIASED} examples.'
  for model in models:
    if not model.outputs.endpoints:
      return (
        f'CKA is left out: {model.outputs.path} has log_probs alone, and neither '
        'layers nor features nor logits.'
      )
  return ''


def _missing_cka(models: Sequence[Model]) -> list[str]:
  """What is left out of CKA, and of which file."""
  first, notes = models[0].outputs, []
  for model in models[1:]:
    other = model.outputs
    if list(other.endpoints) != list(first.endpoints):
      notes.append(
        f'CKA of corresponding layers is left out: {first.path} has '
        f'{", ".join(first.endpoints)}, and {other.path} '
        f'{", ".join(other.endpoints)}.'
      )
      break
  lacking = [m for m in models if 'features' not in m.outputs.endpoints]
  if 0 < len(lacking) < len(models):
    notes.append(
      f'CKA of features is left out: {lacking[0].outputs.path} has none.'
    )
  return notes


def compare_models(
  models: Sequence[Model],
  run_names: Sequence[str],
  target: storage.Path,
  *,
  dataset: str,
  num_cka_examples: int,
  minibatch_size: int,
) -> dict[str, Any]:
  """Agreement, ensembles and CKA of several models; writes comparison.json.

  Args:
    models: of the same examples.
    run_names: what each is called in the records.
    target: directory.
    dataset: that the examples are of.
    num_cka_examples: CKA is of at most so many, chosen by their ids.
    minibatch_size: of the unbiased CKA.
  """
  groups = group_models(models)

  def read(index) -> Collected:
    found = models[index].outputs.read(['scores'])
    found.arrays['logits'] = found.arrays.pop('scores')
    return found

  predictions = read_predictions(
    [model.outputs.path for model in models],
    [model.objective for model in models],
    groups,
    read,
  )
  result = {
    'lossbench_version': lossbench.__version__,
    'dataset': dataset,
    'split': SPLIT,
    'num_examples': len(predictions.labels),
    'runs': [
      {
        'name': name,
        'path': model.outputs.path,
        'group': model.name,
        'objective': model.name,
        'seed': model.seed,
        'checkpoint': model.outputs.file.fingerprint,
        'top1_accuracy': accuracy,
      }
      for name, model, accuracy in zip(
        run_names, models, predictions.top1_accuracy, strict=True
      )
    ],
    **compare_predictions(groups, predictions),
  }
  why = _why_no_cka(models)
  result['notes'] = [why] if why else _missing_cka(models)
  if not why:
    result['cka'] = _compare_cka(
      models,
      groups,
      num_examples=num_cka_examples,
      minibatch_size=minibatch_size,
    )
  return write_comparison(target, result)
