"""What is written of a split that was measured whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lossbench.evaluation import per_example
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.files import (
  write_arrays,
  write_class_table,
  write_metrics,
)
from lossbench.evaluation.scoring import Scored
from lossbench.runs.records import Record
from lossbench.runtime import storage


def write_results(
  directory: storage.Path,
  scored: Scored,
  representations: Sequence[Record],
  curves: Mapping[str, np.ndarray],
  *,
  ids: np.ndarray,
  sample: Collected | None,
  about: Mapping[str, Any],
  class_names: Sequence[str] | None = None,
  **more,
) -> list[Record]:
  """Writes metrics.json, classes.csv, per_example.npz and curves.npz.

  Args:
    directory: of these files.
    scored: of predictions.
    representations: records of them.
    curves: of representations.
    ids: [N] of the examples.
    sample: 'features' of all or some of them; None without features.
    about: of the checkpoint, for both records.
    class_names: in the order of labels; None for their numbers.
    **more: of metrics.json.

  Returns:
    All records.
  """
  records = [*scored.records, *representations]
  curves = dict(curves)
  if scored.reliability is not None:
    reliability = vars(scored.reliability)
    curves |= {f'reliability_{k}': v for k, v in reliability.items()}
  write_metrics(directory, records, **more, **about)
  names = class_names or [str(k) for k in range(len(scored.by_class.count))]
  write_class_table(directory, scored.by_class, names)
  values = scored.per_example
  for record in records if sample is not None else ():
    if (record.name, record.endpoint) == ('class_separation', 'features'):
      values = values | per_example.of_features(sample, record)
  per_example.write(directory, ids, values, **about)
  if jax.process_index() == 0:
    write_arrays(directory / 'curves.npz', **curves)
  return records
