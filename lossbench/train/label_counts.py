"""How many training examples each class has: counted once, kept with the run.

Balanced class weights need it, and counting reads all of train. label_counts.json of
the run directory has the counts and what they are of; where it is damaged, or of
other data, they are counted anew.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lossbench.runs.directory import RunDirectory, read_json, write_json
from lossbench.runtime.console import LOGGER

_ABOUT = ('name', 'version', 'fingerprint')


def count_labels(labels: np.ndarray, *, num_classes: int) -> np.ndarray:
  """How often each class occurs, int64 [K].

  Args:
    labels: int [n] in [0, K).
    num_classes: K.

  Raises:
    ValueError: if a label is no class.
  """
  if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
    bad = labels[(labels < 0) | (labels >= num_classes)][0]
    raise ValueError(
      f'A training example has label {bad}, outside [0, {num_classes}). Check '
      '--config.num_classes and the data.'
    )
  return np.bincount(labels, minlength=num_classes)


def _source(examples, dataset: Mapping[str, Any]) -> dict[str, Any]:
  """What decides the counts, as JSON."""
  return {
    **{name: dataset[name] for name in _ABOUT},
    'split': examples.split,
    'left_out': f'{zlib.crc32(repr(examples.bad_ids).encode()):08x}',
  }


def _stored(
  directory: RunDirectory, source: Mapping[str, Any], num_classes: int
) -> dict[str, Any] | None:
  """The record of these data; None without one."""
  path = directory.label_counts_path
  if not path.exists():
    return None
  try:
    record = read_json(path)
    fits = record['source'] == source and len(record['counts']) == num_classes
    return record if fits else None
  except (OSError, ValueError, KeyError, TypeError) as error:
    LOGGER.warning('%s: counting the labels again.', error)
    return None


def find_label_counts(
  examples,
  *,
  num_classes: int,
  directory: RunDirectory,
  dataset: Mapping[str, Any],
) -> dict[str, Any]:
  """The counts in a run directory, or counted; writes nothing.

  Args:
    examples: that the run is trained on, `lossbench.data.examples.Examples`.
    num_classes: K.
    directory: of the run.
    dataset: of `lossbench.data.datasets.describe`.

  Returns:
    The record: 'counts' [K], and 'source', what they are of.

  Raises:
    ValueError: if a label is no class, or a file is damaged.
  """
  source = _source(examples, dataset)
  record = _stored(directory, source, num_classes)
  if record is not None:
    return record
  from lossbench.data import labels

  # All records are read for it, which takes minutes of ImageNet.
  LOGGER.info('Counting the labels of %s.', examples.split)
  counts = count_labels(labels.read_labels(examples), num_classes=num_classes)
  return {'source': source, 'counts': counts.tolist()}


def write_label_counts(directory: RunDirectory, record: Mapping[str, Any]):
  """Keeps the counts with their run, from its first process."""
  if jax.process_index() == 0:
    write_json(directory.label_counts_path, dict(record))
