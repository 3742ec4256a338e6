"""Files of an evaluation: arrays with the source they are of, and metrics."""

import csv
import io
import zipfile
from collections.abc import Collection, Sequence

import jax
import numpy as np

import lossbench
from lossbench.evaluation.collected import Collected
from lossbench.metrics.by_class import ClassAccuracies
from lossbench.runs.directory import write_json
from lossbench.runs.records import Record
from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def write_arrays(path: storage.Path, **arrays):
  """Writes an .npz, whole or not at all."""
  storage.write_whole(path, lambda file: np.savez(file, **arrays))


def read_collected(
  path: storage.Path, source: str, only: Collection[str] | None = None
) -> Collected | None:
  """The stored arrays; None if there are none, or of another source.

  Args:
    path: of the .npz.
    source: that is wanted.
    only: names of the arrays to read; None reads all.
  """
  if not path.exists():
    return None
  try:
    with path.open('rb') as file, np.load(file) as stored:
      if 'source' not in stored or str(stored['source']) != source:
        return None
      names = stored.files if only is None else ['id', 'label', *only]
      arrays = {name: stored[name] for name in names}
  except _UNREADABLE as error:
    LOGGER.warning('%s is damaged (%s): computing it again.', path, error)
    return None
  arrays.pop('source', None)
  return Collected(
    ids=arrays.pop('id'), labels=arrays.pop('label'), arrays=arrays
  )


def write_class_table(
  directory: storage.Path,
  by_class: ClassAccuracies,
  class_names: Sequence[str],
):
  """Writes classes.csv: a row a class, in the order of labels."""
  if jax.process_index() > 0:
    return
  text = io.StringIO()
  rows = csv.writer(text, lineterminator='\n')
  rows.writerow(['label', 'class', 'n', 'accuracy', 'num_predicted'])
  columns = (by_class.count, by_class.accuracy, by_class.num_predicted)
  for label, (name, n, accuracy, predicted) in enumerate(
    zip(class_names, *columns, strict=True)
  ):
    rows.writerow([label, name, n, f'{accuracy:.6g}' if n else '', predicted])
  content = text.getvalue().encode()
  storage.write_whole(
    directory / 'classes.csv', lambda file: file.write(content)
  )


def write_metrics(directory: storage.Path, records: Sequence[Record], **about):
  """Writes metrics.json; what is wrong with a path is said in one line."""
  if jax.process_index() > 0:
    return
  directory.mkdir(parents=True, exist_ok=True)
  write_json(
    directory / 'metrics.json',
    {
      **about,
      'lossbench_version': lossbench.__version__,
      'metrics': [record.to_json() for record in records],
    },
  )
