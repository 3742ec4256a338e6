"""What one model's outputs are worth: as evaluation measures those of runs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lossbench.arrays.outputs import Outputs
from lossbench.evaluation import chunks, per_example, scoring
from lossbench.evaluation.collected import (
  NUM_SAMPLED,
  Collected,
  random_order,
)
from lossbench.evaluation.files import write_metrics
from lossbench.evaluation.representations import representation_records
from lossbench.evaluation.results import write_results
from lossbench.evaluation.suites import ModelOutputs, create_measurements
from lossbench.objectives import Objective
from lossbench.runs.directory import RunDirectory
from lossbench.runs.records import Record

SPLIT = 'test'  # what every file is a split of


@dataclasses.dataclass(frozen=True)
class Model:
  """One model's files.

  Attributes:
    name: that people know it by; several of one name differ in the seed.
    seed: number of the file among those of its name.
    objective: whose map turns logits into probabilities.
    outputs: its predictions, labelled.
    calibration: other examples, labelled, to fit a temperature on; None without.
    shifted: name -> outputs on another data set, labelled by the same classes.
    ood: name -> outputs on another data set, to be told from its own.
  """

  name: str
  seed: int
  objective: Objective
  outputs: Outputs
  calibration: Outputs | None
  shifted: Mapping[str, Outputs]
  ood: Mapping[str, Outputs]


def _logits(outputs: Outputs) -> Collected:
  """The scores as 'logits': log-probabilities are those of a softmax too."""
  found = outputs.read(['scores'])
  return dataclasses.replace(found, arrays={'logits': found.arrays['scores']})


@functools.lru_cache(maxsize=16)
def _compiled(
  endpoints: tuple[tuple[str, int], ...], num_classes: int, with_kernel: bool
):
  """Empty accumulators and their update, once for models of one shape."""
  measurements = create_measurements(
    'representations',
    dict(endpoints),
    num_classes=num_classes,
    with_kernel=with_kernel,
  )

  @jax.jit
  def update(accumulators, arrays, log_probs, labels, mask, kernel):
    return measurements.update_fn(
      accumulators, ModelOutputs(arrays, log_probs, labels, mask, kernel)
    )

  return measurements.empty_fn, update


def _fill(outputs: Outputs, whole: Collected, log_probs: np.ndarray):
  """The accumulators of representations, of all layers that there are."""
  empty_fn, update = _compiled(
    tuple(outputs.endpoints.items()),
    outputs.num_classes,
    outputs.kernel is not None,
  )
  accumulators = empty_fn()
  names = list(accumulators)  # jit sorts them
  kernel = jax.device_put(outputs.kernel)
  endpoints = list(outputs.endpoints)
  for *rows, probs, labels, mask in chunks.split(
    *map(outputs.rows, endpoints), log_probs, whole.labels
  ):
    accumulators = update(
      accumulators,
      dict(zip(endpoints, rows, strict=True)),
      probs,
      labels,
      mask,
      kernel,
    )
  accumulators = jax.device_get(accumulators)
  return {name: accumulators[name] for name in names}


def _representations(model: Model, whole: Collected):
  """Records, curves and the sample; of no features the sample is None."""
  outputs = model.outputs
  log_probs = scoring.log_probs_of(model.objective, whole.arrays['logits'])
  accumulators = _fill(outputs, whole, log_probs)
  sample = None
  if 'features' in outputs.endpoints:
    chosen = random_order(whole.ids)[:NUM_SAMPLED]
    sample = whole.take(chosen)
    sample.arrays.update(outputs.read(['features'], chosen).arrays)
    sample = sample.sorted_by_id()
  records, curves = representation_records(
    accumulators, sample, outputs.kernel, n=len(whole)
  )
  return records, curves, sample


def score_model(
  model: Model, run: RunDirectory, *, dataset: str
) -> tuple[list[Record], dict[str, list[Record]]]:
  """Measures a model's outputs and writes what an evaluation would.

  Args:
    model: its files.
    run: the directory to write below, in eval/<data set>-test/.
    dataset: what the model's own data set is called.

  Returns:
    Records of its own data set, and of every other by name.
  """
  outputs, objective = model.outputs, model.objective
  whole = _logits(outputs)
  calibration = model.calibration
  scored = scoring.score_predictions(
    objective,
    whole.arrays['logits'],
    whole.labels,
    holdout=None if calibration is None else _logits(calibration),
    holdout_name='' if calibration is None else calibration.path,
    held_out=True,
  )
  representations, curves, sample = _representations(model, whole)
  about = {'checkpoint': outputs.file.fingerprint}
  records = write_results(
    run.eval_path(dataset, SPLIT),
    scored,
    representations,
    curves,
    ids=whole.ids,
    sample=sample,
    about=about,
    dataset=dataset,
    split=SPLIT,
    objective=objective.name,
    file=outputs.path,
  )
  others = {}
  if sets := {**model.shifted, **model.ood}:
    detector = scoring.Detector(
      objective,
      whole.arrays['logits'],
      are_log_probs=outputs.scores == 'log_probs',
    )
    others = {
      name: _score_other(detector, objective, name, other, run, about)
      for name, other in sets.items()
    }
  return records, others


def _score_other(
  detector: scoring.Detector,
  objective: Objective,
  name: str,
  other: Outputs,
  run: RunDirectory,
  about: Mapping[str, Any],
) -> list[Record]:
  """Writes what another data set's outputs say; predictions if it has labels."""
  examples = _logits(other)
  records, values = [], {}
  if other.labels is not None:
    scored = scoring.score_predictions(
      objective, examples.arrays['logits'], examples.labels
    )
    records, values = [*scored.records], scored.per_example
  records += detector.records(examples.arrays['logits'])
  directory = run.eval_path(name, SPLIT)
  write_metrics(
    directory,
    records,
    dataset=name,
    split=SPLIT,
    objective=objective.name,
    file=other.path,
    **about,
  )
  per_example.write(directory, examples.ids, values, **about)
  return records
