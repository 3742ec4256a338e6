"""Records and curves of a run's own representations."""

import dataclasses

import numpy as np

from lossbench.evaluation import scoring
from lossbench.evaluation.collected import Collected
from lossbench.metrics.collapse import (
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
  accumulators: dict, sample: Collected, kernel: np.ndarray, *, n: int
) -> tuple[list[Record], dict[str, np.ndarray]]:
  """Records and curves of the suite 'representations'.

  Args:
    accumulators: filled.
    sample: 'features' and 'logits' of the sampled examples.
    kernel: [M, K] of the output layer.
    n: examples that were counted.

  Returns:
    Records, and the arrays of curves.npz.
  """
  accumulators = dict(accumulators)
  collapse = accumulators.pop('neural_collapse')
  records = scoring.accumulator_records(accumulators, n=n)
  curves = {'kernel_singular_values': singular_values(kernel.T, centered=False)}

  def not_available(names, error):
    note = f'not available: {error}'
    return [create_record(name, None, n=n, note=note) for name in names]

  try:
    activations = collapse.activation_spectrum()
    spectrum = activations.singular_values(centered=True)
    dead = activations.dead_unit_fraction()
  except ValueError as error:
    records += not_available(
      ['participation_ratio', 'dead_unit_fraction'], error
    )
  else:
    curves['activation_singular_values'] = spectrum
    ratio = participation_ratio(spectrum)
    records.append(create_record('participation_ratio', ratio, n=n))
    records.append(create_record('dead_unit_fraction', dead, n=n))
  try:
    measures = vars(collapse.measures(kernel))
    means = collapse.class_means()
  except ValueError as error:  # a class is empty
    names = [field.name for field in dataclasses.fields(CollapseMeasures)]
    records += not_available([*names, 'nc4'], error)
  else:
    curves['centroid_singular_values'] = singular_values(means, centered=True)
    records += [create_record(k, v, n=n) for k, v in measures.items()]
    records.append(_nearest_mean_record(means, sample))
  try:
    hardness = angular_visual_hardness(
      sample.arrays['features'], sample.labels, kernel=kernel
    )
  except ValueError as error:
    LOGGER.warning('No densities of angular visual hardness: %s', error)
  else:
    curves['hardness_edges'] = HARDNESS_EDGES / kernel.shape[1]
    curves['hardness'] = np.histogram(hardness, curves['hardness_edges'])[0]
  try:
    distances = cosine_distances(sample.arrays['features'], sample.labels)
  except ValueError as error:
    LOGGER.warning('No cosine distances: %s', error)
  else:
    curves['cosine_distance_edges'] = distances.edges
    curves['cosine_distance_within'] = distances.within
    curves['cosine_distance_between'] = distances.between
  return records, curves


def _nearest_mean_record(means, sample: Collected) -> Record:
  nearest = nearest_class_mean(sample.arrays['features'], means)
  mismatch = NearestMeanMismatch.empty().update(
    nearest, sample.arrays['logits'].argmax(axis=1), None
  )
  return create_record('nc4', mismatch.compute(), n=len(sample))
