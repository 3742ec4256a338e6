"""What a checkpoint's features are worth on other data sets."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import lossbench
from lossbench.data import catalogue
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.outputs import RunOutputs
from lossbench.probe import knn
from lossbench.probe.protocol import fit_and_test
from lossbench.probe.results import write_results
from lossbench.runs.directory import TRAINING
from lossbench.runs.records import Record
from lossbench.runtime.console import LOGGER


@dataclasses.dataclass(frozen=True)
class Transferred:
  """One checkpoint's features on one data set.

  Attributes:
    objective: of the run.
    step: of the checkpoint.
    dataset: transferred to.
    split: trained on.
    num_train: examples of it.
    main_metric: name of the data set's own measure.
    records: that one first.
  """

  objective: str
  step: int
  dataset: str
  split: str
  num_train: int
  main_metric: str
  records: list[Record]


def build_image_fn(config: ml_collections.ConfigDict, dataset: str):
  """How the images of a data set to transfer to become what the model sees.

  The run's own data set is read as the run evaluates it. Of any other the
  shorter side is resized to the model's image size and the centre cropped, as
  in the paper.

  Returns:
    Encoded bytes -> [image_size, image_size, C], and a description that
    tells it from others.
  """
  import tensorflow as tf

  from lossbench.data import preprocess

  if dataset == config.dataset:
    return preprocess.build_eval_image_fn(config), {'transfer': 'own'}
  own = config.copy_and_resolve_references()
  own.resize_images = True
  own.resize_ratio = 1.0
  crop_fn = preprocess.build_eval_image_fn(own)
  if len(config.pixel_mean) != 1:
    return crop_fn, {'transfer': 'centre crop'}
  return (
    lambda image_bytes: tf.image.rgb_to_grayscale(crop_fn(image_bytes)),
    {'transfer': 'grey centre crop'},
  )


def _check_split(outputs: RunOutputs, builder, dataset: str, split: str) -> int:
  """How many examples to train the classifier on the network was trained on.

  Raises:
    ValueError: if there is no such split, or some of them are tested on.
  """
  from lossbench.data import datasets

  own = outputs.config.dataset
  if split in ('holdout', TRAINING) and dataset != own:
    raise ValueError(
      f'--split={split} is what the run kept of its own {own!r}, or was trained '
      f'on; it has none of {dataset!r}.'
    )
  spec = catalogue.get_dataset_spec(dataset)
  train, test = (
    outputs.tfds_split(builder, name) for name in (split, spec.test_split)
  )
  shared = datasets.num_shared_examples(builder, train, test)
  if shared:
    raise ValueError(
      f'{shared} examples of --split={split} are also in {spec.test_split!r}, '
      'which the classifier is tested on. Name another --split.'
    )
  if dataset != own:
    return 0
  num_holdout = outputs.config.num_holdout
  seen, _ = datasets.holdout_splits(builder, num_holdout=num_holdout)
  num_seen = datasets.num_shared_examples(builder, train, seen)
  if num_seen:
    LOGGER.info(
      'Note: the network itself was trained on %d of the examples of %s.%s',
      num_seen,
      split,
      ' --split=holdout has none of them.' if num_holdout else '',
    )
  return num_seen


def _read_features(
  outputs: RunOutputs, dataset: str, splits: Sequence[str]
) -> list[Collected]:
  """Penultimate features of splits of a data set, as the run sees its images."""
  image_fn, preprocessing = build_image_fn(outputs.config, dataset)
  return [
    outputs.features(
      dataset, split, image_fn=image_fn, preprocessing=preprocessing
    )
    for split in splits
  ]


def _other_protocols(
  train: Collected, test: Collected, num_classes: int
) -> tuple[list[Record], dict[str, np.ndarray]]:
  """Records of neighbours and few examples; prefix -> what was right."""
  found = (
    knn.score_neighbours(train, test, num_classes=num_classes),
    knn.score_few_shots(train, test),
  )
  records = [record for scores in found for record in scores.records]
  return records, {k: v for scores in found for k, v in scores.correct.items()}


def describe_source(outputs: RunOutputs) -> dict[str, Any]:
  """The checkpoint and the code that a record is of."""
  return {
    'step': outputs.step,
    'checkpoint': outputs.fingerprint,
    'compute_dtype': outputs.config.compute_dtype,
    'objective': outputs.config.objective.name,
    'lossbench_version': lossbench.__version__,
  }


def transfer_checkpoint(
  workdir: str,
  dataset: str,
  *,
  step: str = 'best',
  split: str | None = None,
  data_dir: str | None = None,
  batch_size: int | None = None,
  compute_dtype: str | None = None,
) -> Transferred:
  """Measures how a checkpoint's features transfer; writes into its run.

  Args:
    workdir: of the run.
    dataset: one of `known_datasets()`.
    step: 'best', 'last' or a number.
    split: training data, a TFDS split or 'holdout'; None for the data set's
      usual one.
    data_dir: TFDS directory; None takes the run's.
    batch_size: of the feature pass, global; None takes the run's.
    compute_dtype: 'float32' or 'bfloat16'; None takes the run's.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set.
    ValueError: if an argument is not legal, or features or labels are refused.
    OSError: if the results cannot be written.
  """
  from lossbench.data import datasets

  outputs = RunOutputs(
    workdir,
    step=step,
    data_dir=data_dir,
    batch_size=batch_size,
    compute_dtype=compute_dtype,
  )
  spec = catalogue.get_dataset_spec(dataset)
  name = split or spec.train_split
  builder = outputs.open_dataset(dataset)
  num_seen = _check_split(outputs, builder, dataset, name)
  LOGGER.info(
    'Transferring step %d of %s (%s) to %s %s.',
    outputs.step,
    outputs.run.path,
    outputs.config.objective.name,
    dataset,
    name,
  )
  train, test = _read_features(outputs, dataset, (name, spec.test_split))
  num_classes = datasets.count_classes(builder)
  records, path, final = fit_and_test(
    train, test, num_classes=num_classes, main_metric=spec.main_metric
  )
  more, correct = _other_protocols(train, test, num_classes)
  records += more
  if jax.process_index() == 0:
    target = outputs.run.transfer_path(dataset, split)
    metrics = {
      'dataset': dataset,
      'split': spec.test_split,
      'train_split': name,
      'num_seen_by_network': num_seen,
      'main_metric': spec.main_metric,
      **describe_source(outputs),
      'metrics': [record.to_json() for record in records],
      'path': path,
    }
    write_results(target, test, final, metrics, correct)
    LOGGER.info('Wrote %s', target)
  return Transferred(
    objective=outputs.config.objective.name,
    step=outputs.step,
    dataset=dataset,
    split=name,
    num_train=len(train),
    main_metric=spec.main_metric,
    records=records,
  )
