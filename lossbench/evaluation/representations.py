"""Records and curves of a run's own representations."""

import dataclasses

import numpy as np

from lossbench.evaluation import scoring
from lossbench.evaluation.collected import Collected
from lossbench.metrics.collapse import (
  KERNEL_MEASURES,
  CollapseMeasures,
  NearestMeanMismatch,
  nearest_class_mean,
)
from lossbench.metrics.distances import cosine_distances
from lossbench.metrics.hardness import angular_visual_hardness
from lossbench.metrics.spectra import participation_ratio, singular_values
from lossbench.runs.records import Record, create_record
from lossbench.runtime.console import LOGGER

# In multiples of 1 / K, the hardness of an example as near to every class.
HARDNESS_EDGES = np.linspace(0.0, 1.6, 81)


def representation_records(
  accumulators: dict,
  sample: Collected | None,
  kernel: np.ndarray | None,
  *,
  n: int,
) -> tuple[list[Record], dict[str, np.ndarray]]:
  """Records and curves of the suite 'representations'.

  Args:
    accumulators: filled.
    sample: 'features' and 'logits' of the sampled examples; None where nobody
      has features.
    kernel: [M, K] of the output layer; None where nobody knows it.
    n: examples that were counted.

  Returns:
    Records, and the arrays of curves.npz.
  """
  accumulators = dict(accumulators)
  collapse = accumulators.pop('neural_collapse', None)
  records = scoring.accumulator_records(accumulators, n=n)
  curves = {}
  if kernel is not None:
    curves['kernel_singular_values'] = singular_values(kernel.T, centered=False)
  if sample is None:
    return records, curves
  records += _spectrum_records(collapse, curves, n=n)
  records += _collapse_records(collapse, sample, kernel, curves, n=n)
  if kernel is not None:
    _add_hardness(curves, sample, kernel)
  _add_distances(curves, sample)
  return records, curves


def _not_available(names, error, *, n) -> list[Record]:
  note = f'not available: {error}'
  return [create_record(name, None, n=n, note=note) for name in names]


def _spectrum_records(collapse, curves, *, n) -> list[Record]:
  """Directions and dead units of the features; adds their spectrum."""
  try:
    activations = collapse.activation_spectrum()
    spectrum = activations.singular_values(centered=True)
    dead = activations.dead_unit_fraction()
  except ValueError as error:
    names = ['participation_ratio', 'dead_unit_fraction']
    return _not_available(names, error, n=n)
  curves['activation_singular_values'] = spectrum
  ratio = participation_ratio(spectrum)
  return [
    create_record('participation_ratio', ratio, n=n),
    create_record('dead_unit_fraction', dead, n=n),
  ]


def _collapse_records(collapse, sample, kernel, curves, *, n) -> list[Record]:
  """Neural collapse, without a kernel of the features alone; adds a spectrum."""
  names = [field.name for field in dataclasses.fields(CollapseMeasures)]
  if kernel is None:
    names = [name for name in names if name not in KERNEL_MEASURES]
  try:
    measures = vars(collapse.measures(kernel))
    means = collapse.class_means()
  except ValueError as error:  # a class is empty
    return _not_available([*names, 'nc4'], error, n=n)
  curves['centroid_singular_values'] = singular_values(means, centered=True)
  return [
    *(create_record(name, measures[name], n=n) for name in names),
    _nearest_mean_record(means, sample),
  ]


def _add_hardness(curves, sample, kernel):
  try:
    hardness = angular_visual_hardness(
      sample.arrays['features'], sample.labels, kernel=kernel
    )
  except ValueError as error:
    LOGGER.warning('No densities of angular visual hardness: %s', error)
    return
  curves['hardness_edges'] = HARDNESS_EDGES / kernel.shape[1]
  curves['hardness'] = np.histogram(hardness, curves['hardness_edges'])[0]


def _add_distances(curves, sample):
  try:
    distances = cosine_distances(sample.arrays['features'], sample.labels)
  except ValueError as error:
    LOGGER.warning('No cosine distances: %s', error)
    return
  curves['cosine_distance_edges'] = distances.edges
  curves['cosine_distance_within'] = distances.within
  curves['cosine_distance_between'] = distances.between


def _nearest_mean_record(means, sample: Collected) -> Record:
  nearest = nearest_class_mean(sample.arrays['features'], means)
  mismatch = NearestMeanMismatch.empty().update(
    nearest, sample.arrays['logits'].argmax(axis=1), None
  )
  return create_record('nc4', mismatch.compute(), n=len(sample))
