"""What is measured of one checkpoint: its own data set, then shifted ones."""

import dataclasses
from collections.abc import Sequence

import jax

from lossbench.data import catalogue
from lossbench.evaluation import asked, scoring
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.outputs import RunOutputs
from lossbench.evaluation.representations import representation_records
from lossbench.evaluation.results import write_results
from lossbench.evaluation.shifts import evaluate_ood, find_ood_sets
from lossbench.metrics.by_class import ClassAccuracies
from lossbench.runs.directory import TRAINING, write_json
from lossbench.runs.records import Record
from lossbench.runtime.console import LOGGER

# Of what a run was trained on: as many images as ImageNet's validation set has.
NUM_TRAIN_EXAMPLES = 50_000


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One checkpoint on its own data set and out of distribution.

  Attributes:
    objective: of the run.
    dataset: of the run.
    split: of it.
    step: of the checkpoint.
    records: on that split.
    by_class: on that split, accuracy of each class.
    class_names: of these.
    ood: data set or corruption family -> its records; {} if none was asked for.
    not_available: data set -> why it was not read.
  """

  objective: str
  dataset: str
  split: str
  step: int
  records: list[Record]
  by_class: ClassAccuracies
  class_names: list[str]
  ood: dict[str, list[Record]]
  not_available: dict[str, str]


def _holdout(outputs: RunOutputs, split: str) -> Collected | None:
  """Predictions on the run's holdout, beside those on its test split.

  Another split of the training data might share examples with it.
  """
  config = outputs.config
  test_split = catalogue.get_dataset_spec(config.dataset).test_split
  if not config.num_holdout or split != test_split:
    return None
  return outputs.predictions(config.dataset, 'holdout', quiet=True)


def _evaluate_own(
  outputs: RunOutputs, split: str, num_examples: int | None = None
) -> tuple[list[Record], ClassAccuracies]:
  """Predictions and representations on a split of the run's own data set.

  Args:
    outputs: of the run.
    split: of its data set, or 'holdout' or 'training'.
    num_examples: at most so many; None for all.
  """
  config = outputs.config
  result = outputs.measure(
    config.dataset,
    split,
    suite='representations',
    num_examples=num_examples,
  )
  whole = result.collected
  scored = scoring.score_predictions(
    outputs.objective,
    whole.arrays['logits'],
    whole.labels,
    holdout=_holdout(outputs, split),
    held_out=True,
  )
  more, curves = representation_records(
    result.accumulators, result.sample, outputs.kernel, n=len(whole)
  )
  records = write_results(
    outputs.eval_path(config.dataset, split),
    scored,
    more,
    curves,
    ids=whole.ids,
    sample=result.sample,
    about={'step': outputs.step, 'checkpoint': outputs.fingerprint},
    dataset=config.dataset,
    split=split,
    compute_dtype=outputs.config.compute_dtype,
    objective=config.objective.name,
    class_names=outputs.class_names,
    **({} if num_examples is None else {'num_wanted': num_examples}),
  )
  return records, scored.by_class


def _num_examples(split: str | None, asked: int | None) -> int | None:
  """How many examples are evaluated at most; None for all of the split."""
  if split == TRAINING:
    return asked or NUM_TRAIN_EXAMPLES
  if asked is not None:
    raise ValueError(
      f'--num_train_examples={asked} is of --split={TRAINING}; of '
      f'{split or "the test split"} all examples are evaluated.'
    )
  return None


def _write_whole(outputs, *, ood, ood_sets, missing):
  """Writes evaluation.json, which says that everything was evaluated."""
  write_json(
    outputs.run.evaluation_path,
    {
      'step': outputs.step,
      'checkpoint': outputs.fingerprint,
      'compute_dtype': outputs.config.compute_dtype,
      'ood': ood,
      'ood_sets': list(ood_sets),
      'not_available': missing,
    },
  )


def evaluate_checkpoint(
  workdir: str,
  *,
  step: str = 'best',
  split: str | None = None,
  num_train_examples: int | None = None,
  ood: bool = True,
  ood_sets: Sequence[str] = (),
  data_dir: str | None = None,
  batch_size: int | None = None,
  compute_dtype: str | None = None,
) -> Evaluation:
  """Evaluates one checkpoint and writes the results into its run directory.

  Args:
    workdir: of the run.
    step: 'best', 'last' or a number.
    split: only this one, 'holdout', 'training' or a TFDS split; None for the
      data set's test split and the out-of-distribution sets.
    num_train_examples: of split 'training' at most so many, the same random ones
      for all runs; None for 50,000.
    ood: whether the latter are evaluated.
    ood_sets: names of further ones: data sets, folders, families; not with a
      split.
    data_dir: TFDS directory; None takes the run's.
    batch_size: global; None takes the run's.
    compute_dtype: 'float32' or 'bfloat16'; None takes the run's.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set; nothing has
      been written where it is one of `ood_sets`.
    ValueError: if the checkpoint is damaged or an argument is not legal.
    OSError: if the results cannot be written.
  """
  asked.check_ood_sets(split, ood_sets)
  num_train_examples = _num_examples(split, num_train_examples)
  outputs = RunOutputs(
    workdir,
    step=step,
    data_dir=data_dir,
    batch_size=batch_size,
    compute_dtype=compute_dtype,
  )
  config = outputs.config
  named = find_ood_sets(outputs, ood_sets, data_dir=data_dir)
  name = split or catalogue.get_dataset_spec(config.dataset).test_split
  LOGGER.info(
    'Evaluating step %d of %s (%s) on %s %s.',
    outputs.step,
    outputs.run.path,
    config.objective.name,
    config.dataset,
    name,
  )
  first = jax.process_index() == 0
  if split is None and first:
    # Until it is written again, last, the records are of several checkpoints.
    outputs.run.evaluation_path.unlink(missing_ok=True)
  records, by_class = _evaluate_own(outputs, name, num_train_examples)
  results: dict[str, list[Record]] = {}
  missing: dict[str, str] = {}
  if split is None and (ood or named):
    results, missing = evaluate_ood(
      outputs, data_dir=data_dir, named=named, whole_suite=ood
    )
  if split is None and first:
    _write_whole(outputs, ood=ood, ood_sets=ood_sets, missing=missing)
  LOGGER.info('Wrote %s', outputs.run.path / 'eval')
  return Evaluation(
    objective=config.objective.name,
    dataset=config.dataset,
    split=name,
    step=outputs.step,
    records=records,
    by_class=by_class,
    class_names=outputs.class_names,
    ood=results,
    not_available=missing,
  )
