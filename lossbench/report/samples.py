"""From what runs measured to samples that can be resampled."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from lossbench.report.bootstrap import Sample, resampled_means
from lossbench.report.looks import Key
from lossbench.report.records import Measured, RunRecords, StudyRecords

# What the seeds of one configuration measured.
Pairs = Sequence[tuple[RunRecords, Measured]]
Read = Callable[[RunRecords], Measured | None]


def create_samples(measured: Mapping[Key, Pairs]) -> dict[Key, Sample]:
  """Samples of one quantity, with values of examples where all have the same.

  Examples are resampled for all configurations or for none, so that differences
  between any two of them have one kind of uncertainty.

  Args:
    measured: configuration -> what its seeds measured, all of it defined;
      configurations without any have no sample.
  """
  measured = {key: pairs for key, pairs in measured.items() if pairs}
  resampled = _resampled(
    tuple(m for pairs in measured.values() for _, m in pairs)
  )
  samples, first = {}, 0
  for key, pairs in measured.items():
    last = first + len(pairs)
    found = resampled and (resampled[0][:, first:last], resampled[1])
    samples[key] = Sample(
      key=repr((pairs[0][0].group, *key)),
      values=np.array([m.value for _, m in pairs]),
      resampled=found[0] if found else None,
      num_examples=found[1] if found else 0,
      seeds=tuple(run.seed for run, _ in pairs),
    )
    first = last
  return samples


def samples_of(
  study: StudyRecords, group: str, read_fn: Read, keys: Iterable[Key]
) -> dict[Key, Sample]:
  """Samples of a quantity, of the configurations that have it.

  Args:
    study: the records.
    group: of runs.
    read_fn: run -> what was measured.
    keys: configurations.
  """
  measured = {}
  for key in keys:
    pairs = [(run, read_fn(run)) for run in study.runs_of(group, key)]
    measured[key] = [
      (run, found)
      for run, found in pairs
      if found is not None and found.value is not None
    ]
  return create_samples(measured)


# Several claims and tables are of the same quantity.
@functools.lru_cache(maxsize=128)
def _resampled(
  measured: tuple[Measured, ...],
) -> tuple[np.ndarray, int] | None:
  """[R, C] of every run and number of examples; None if ids are not the same."""
  rows, ids = [], None
  for one in measured:
    found = one.per_example
    if found is None:
      return None
    ids = found.ids if ids is None else ids
    if not np.array_equal(found.ids, ids):
      return None
    rows.append(found.values)
  if ids is None:
    return None
  return resampled_means(np.stack(rows)), len(ids)


def mean_samples(parts: Sequence[Mapping[Key, Sample]]) -> dict[Key, Sample]:
  """The mean over quantities of the same runs, e.g. over data sets.

  Args:
    parts: samples of each; of configurations that have all of them there is a
      mean, if the same seeds have each.
  """
  means = {}
  for key in parts[0] if parts else ():
    found = [of_part[key] for of_part in parts if key in of_part]
    seeds = {sample.seeds for sample in found}
    if len(found) < len(parts) or len(seeds) > 1:
      continue
    resampled = [sample.resampled for sample in found]
    means[key] = Sample(
      key=found[0].key,
      values=np.mean([sample.values for sample in found], axis=0),
      resampled=None
      if any(r is None for r in resampled)
      else np.mean(resampled, axis=0),
      num_examples=sum(sample.num_examples for sample in found),
      seeds=found[0].seeds,
    )
  return means
