"""Transfers a checkpoint's features: python -m lossbench.transfer.

  python -m lossbench.transfer --workdir=RUN --dataset=caltech101

Multinomial logistic regression on the fixed penultimate features of a run's
checkpoint (Kornblith et al. 2021, section 3.4): 45 L2 values, chosen on a
holdout that is cut from the training data, refitted on all of it at the chosen
value, tested once. Writes eval/transfer-<dataset>/metrics.json, predictions.npz
and classifier.npz into the run directory and prints a table.

`--dataset` equal to the run's own with `--split=holdout` relearns the source
task from examples that the run did not train on, the paper's IN(50k).
"""

from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags
from rich import table as rich_table

import lossbench
from lossbench.data import catalogue
from lossbench.evaluation.collected import Collected
from lossbench.evaluation.outputs import RunOutputs, write_arrays
from lossbench.metrics.records import Record
from lossbench.probe import logistic_regression as regression
from lossbench.probe.protocol import fit_and_test
from lossbench.runs.directory import write_json
from lossbench.runtime import cluster, console
from lossbench.runtime.console import LOGGER


def build_image_fn(config: ml_collections.ConfigDict, dataset: str):
  """How the images of a data set to transfer to become what the model sees.

  The run's own data set is read as the run evaluates it. Of any other the
  shorter side is resized to the model's image size and the centre cropped, as
  in the paper.

  Returns:
    Encoded bytes -> uint8 [image_size, image_size, C], and a description that
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


def print_table(title: str, records: Sequence[Record], *, main_metric: str):
  """Prints the records, the main metric first and marked."""
  output = console.output()
  output.print(title, style='bold', highlight=False)
  table = rich_table.Table()
  table.add_column('metric')
  table.add_column('value', justify='right')
  table.add_column('unit')
  table.add_column('n', justify='right')
  for record in records:
    main = record.name == main_metric
    wide = record.name.endswith('accuracy')
    table.add_row(
      f'{record.name} (main)' if main else record.name,
      f'{record.value:.4f}' if wide else f'{record.value:.4g}',
      record.unit,
      str(record.n),
      style='bold' if main else None,
    )
  output.print(table)
  for note in dict.fromkeys(r.note for r in records if r.note):
    output.print(f'Note: {note}', style='dim', highlight=False)


def _check_split(outputs: RunOutputs, builder, dataset: str, split: str) -> int:
  """How many examples to train the classifier on the network was trained on.

  Raises:
    ValueError: if there is no such split, or some of them are tested on.
  """
  from lossbench.data import datasets

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
  if dataset != outputs.config.dataset:
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


def _write_results(
  target, test: Collected, final: regression.Fit, metrics: dict[str, Any]
):
  """Writes predictions, classifier and metrics; the last says it is whole."""
  logits = test.arrays['features'] @ final.weights.T + final.bias
  write_arrays(
    target / 'predictions.npz',
    id=test.ids,
    label=test.labels,
    logits=logits.astype(np.float32),
  )
  write_arrays(
    target / 'classifier.npz',
    weights=final.weights,
    bias=final.bias,
    l2=final.l2,
  )
  write_json(target / 'metrics.json', metrics)


def transfer(
  *,
  workdir: str,
  dataset: str,
  step: str = 'best',
  split: str | None = None,
  data_dir: str | None = None,
  batch_size: int | None = None,
) -> list[Record]:
  """Measures how a checkpoint's features transfer; writes into its run.

  Args:
    workdir: of the run.
    dataset: one of `known_datasets()`.
    step: 'best', 'last' or a number.
    split: training data, a TFDS split or 'holdout'; None for the data set's
      usual one.
    data_dir: TFDS directory; None takes the run's.
    batch_size: of the feature pass, global; None takes the run's.

  Returns:
    The records that were written, the data set's main metric first.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set.
    ValueError: if an argument is not legal, or features or labels are refused.
    OSError: if the results cannot be written.
  """
  from lossbench.data import datasets

  outputs = RunOutputs(
    workdir, step=step, data_dir=data_dir, batch_size=batch_size
  )
  config = outputs.config
  spec = catalogue.get_dataset_spec(dataset)
  if split == 'holdout' and dataset != config.dataset:
    raise ValueError(
      f'--split=holdout is what the run kept of its own {config.dataset!r}; it '
      f'has no holdout of {dataset!r}.'
    )
  name = split or spec.train_split
  builder = outputs.open_dataset(dataset)
  num_seen = _check_split(outputs, builder, dataset, name)
  LOGGER.info(
    'Transferring step %d of %s (%s) to %s %s.',
    outputs.step,
    outputs.run.path,
    config.objective.name,
    dataset,
    name,
  )
  image_fn, preprocessing = build_image_fn(config, dataset)
  train, test = (
    outputs.features(
      dataset, used, image_fn=image_fn, preprocessing=preprocessing
    )
    for used in (name, spec.test_split)
  )
  main_metric = 'top1_accuracy'
  if spec.mean_class_accuracy:
    main_metric = 'mean_class_accuracy'
  records, path, final = fit_and_test(
    train,
    test,
    num_classes=datasets.count_classes(builder),
    main_metric=main_metric,
  )
  if jax.process_index() == 0:
    target = outputs.run.transfer_path(dataset, split)
    _write_results(
      target,
      test,
      final,
      {
        'dataset': dataset,
        'split': spec.test_split,
        'train_split': name,
        'num_seen_by_network': num_seen,
        'main_metric': main_metric,
        'step': outputs.step,
        'checkpoint': outputs.fingerprint,
        'objective': config.objective.name,
        'lossbench_version': lossbench.__version__,
        'metrics': [record.to_json() for record in records],
        'path': path,
      },
    )
    print_table(
      f'{config.objective.name}: transfer to {dataset} from {len(train)} '
      f'examples of {name}, step {outputs.step}',
      records,
      main_metric=main_metric,
    )
    LOGGER.info('Wrote %s', target)
  return records


def define_flags():
  """Not at import, so that binaries can import one another."""
  flags.DEFINE_string('workdir', None, 'Run directory.')
  flags.DEFINE_string('dataset', None, 'Data set to transfer to.')
  flags.DEFINE_string(
    'step',
    'best',
    "'best' by holdout accuracy, 'last', or a step's number.",
  )
  flags.DEFINE_string(
    'split',
    None,
    "Training data: a TFDS split, or 'holdout', what the run kept from its own "
    "training. Default: the data set's.",
  )
  flags.DEFINE_string('data_dir', None, "TFDS directory; default: the run's.")
  flags.DEFINE_integer(
    'batch_size',
    None,
    'Global batch size of the feature pass; changes no number.',
    lower_bound=1,
  )


def main(argv):
  args = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  try:
    cluster.initialize()
    console.configure()
    transfer(
      workdir=args.workdir,
      dataset=args.dataset,
      step=args.step,
      split=args.split,
      data_dir=args.data_dir,
      batch_size=args.batch_size,
    )
  except (ValueError, OSError) as error:
    console.fail(error)


if __name__ == '__main__':
  define_flags()
  cluster.define_flags()
  flags.mark_flags_as_required(['workdir', 'dataset'])
  app.run(main, flags_parser=console.parse_flags)
