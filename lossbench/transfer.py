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
from lossbench import cluster, console
from lossbench import logistic_regression as regression
from lossbench.console import LOGGER
from lossbench.data import catalogue
from lossbench.evaluation import Collected
from lossbench.metrics.records import Record, create_record
from lossbench.outputs import RunOutputs, write_arrays
from lossbench.run_directory import write_json
from lossbench.train.progress import create_printer

HOLDOUT_FRACTION = 0.2  # of every class
_SEED = 0  # of the holdout
_FINAL_TOLERANCE = 1e-9


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


def holdout_mask(
  labels: np.ndarray, *, fraction: float = HOLDOUT_FRACTION, seed: int = _SEED
) -> np.ndarray:
  """Which examples [N] to hold out: the same share of every class.

  A function of labels, order and seed. A class keeps at least one example.

  Raises:
    ValueError: if no class can spare an example.
  """
  held = np.zeros(len(labels), bool)
  rng = np.random.default_rng(seed)
  for label in np.unique(labels):
    rows = rng.permutation(np.flatnonzero(labels == label))
    count = min(round(fraction * len(rows)), len(rows) - 1)
    held[rows[:count]] = True
  if not held.any():
    raise ValueError(
      f'{len(labels)} training examples of {len(np.unique(labels))} classes '
      'leave none for a holdout to choose the L2 value on. Use a larger '
      '--split.'
    )
  return held


def mean_class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Mean over the classes in `labels` [N] of the share predicted right."""
  return float(
    np.mean([np.mean(predicted[labels == k] == k) for k in np.unique(labels)])
  )


def best_l2(l2_values: Sequence[float], accuracies: Sequence[float]) -> float:
  """The L2 value of highest accuracy; of equals the largest, the smoothest."""
  return max(zip(accuracies, l2_values, strict=True))[1]


def fit_and_test(
  train: Collected,
  test: Collected,
  *,
  num_classes: int,
  main_metric: str,
  l2_values: Sequence[float] = regression.L2_VALUES,
  tolerance: float = 1e-6,
) -> tuple[list[Record], list[dict[str, float]], regression.Fit]:
  """Chooses the L2 value on a holdout, refits on all of train, tests once.

  Args:
    train: 'features' of the training data, holdout included.
    test: 'features' of the test data.
    num_classes: K.
    main_metric: 'top1_accuracy' or 'mean_class_accuracy', listed first.
    l2_values: to choose from, by top-1 accuracy on the holdout; of equals the
      largest.
    tolerance: certified relative suboptimality of every fit; of the final one
      at most 1e-9.

  Returns:
    Records, the path (one dictionary per L2 value) and the final fit.

  Raises:
    ValueError: if the features or labels are refused (see
      `logistic_regression.check_examples`).
  """
  train_features, test_features = (
    part.arrays['features'] for part in (train, test)
  )
  regression.check_examples(
    train_features, train.labels, num_classes=num_classes
  )
  regression.check_examples(
    test_features, test.labels, num_classes=num_classes, all_classes=False
  )
  held = holdout_mask(train.labels)
  num_held = int(held.sum())
  on_progress = create_printer('L2 values', len(l2_values))
  path = []

  def on_fit(fit: regression.Fit):
    predicted = regression.predict(fit, train_features[held])
    path.append(
      {
        'l2': fit.l2,
        'holdout_accuracy': float(np.mean(predicted == train.labels[held])),
        'objective': fit.objective,
        'gradient_norm': fit.gradient_norm,
        'gap_bound': fit.gap_bound,
        'relative_gap_bound': fit.relative_gap_bound,
        'newton_steps': fit.num_steps,
        'hessian_products': fit.num_products,
      }
    )
    on_progress(len(path))

  fits = regression.fit_path(
    train_features[~held],
    train.labels[~held],
    num_classes=num_classes,
    l2_values=l2_values,
    tolerance=tolerance,
    on_fit=on_fit,
  )
  path.sort(key=lambda entry: entry['l2'])
  accuracies = [entry['holdout_accuracy'] for entry in path]
  l2 = best_l2([entry['l2'] for entry in path], accuracies)
  note = ''
  if len(l2_values) > 1 and l2 in (min(l2_values), max(l2_values)):
    note = 'at the edge of the L2 values: a better one may lie beyond'
  [final] = regression.fit_path(
    train_features,
    train.labels,
    num_classes=num_classes,
    l2_values=[l2],
    # What is reported can afford more steps than what is only compared.
    tolerance=min(tolerance, _FINAL_TOLERANCE),
    start=next(fit for fit in fits if fit.l2 == l2),
  )
  predicted = regression.predict(final, test_features)
  fitted = regression.predict(final, train_features)
  accuracy = create_record(
    'top1_accuracy', np.mean(predicted == test.labels), n=len(test)
  )
  num_missing = num_classes - len(np.unique(test.labels))
  mean = create_record(
    'mean_class_accuracy',
    mean_class_accuracy(predicted, test.labels),
    n=len(test),
    note=f'{num_missing} classes have no test example' if num_missing else '',
  )
  measured = [accuracy, mean]
  measured.sort(key=lambda record: record.name != main_metric)
  n = len(train)
  records = [
    *measured,
    create_record('l2', l2, n=num_held, note=note),
    create_record('holdout_accuracy', max(accuracies), n=num_held),
    create_record('train_accuracy', np.mean(fitted == train.labels), n=n),
    create_record('train_objective', final.objective, n=n),
    create_record('gradient_norm', final.gradient_norm, n=n),
    create_record('relative_gap_bound', final.relative_gap_bound, n=n),
  ]
  return records, path, final


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
    target = outputs.run.path / 'eval' / f'transfer-{dataset}'
    if split is not None:
      target = outputs.eval_path(f'transfer-{dataset}', split)
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
