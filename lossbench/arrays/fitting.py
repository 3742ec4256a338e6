"""The linear probe of features that anybody computed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import lossbench
from lossbench.arrays.files import (
  ArrayFile,
  check_other_content,
  read_features,
)
from lossbench.evaluation.collected import Collected
from lossbench.probe import logistic_regression as regression
from lossbench.probe.l2_values import check_l2_values
from lossbench.probe.protocol import fit_and_test
from lossbench.probe.results import write_results
from lossbench.runs.records import Record
from lossbench.runtime import storage


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A linear classifier chosen, fitted and tested.

  Attributes:
    records: the main metric first.
    path: one dictionary per L2 value, ascending: what it is worth on the
      holdout, and its certificate.
    fit: the final one, to all of the training data.
    num_train: examples of it, with a holdout that was given.
    num_classes: K.
  """

  records: list[Record]
  path: list[dict[str, float]]
  fit: regression.Fit
  num_train: int
  num_classes: int


def _check_alike(train: Collected, path: str, other: Collected, other_path):
  """Refuses features, or labels, that the training data do not have."""
  num_features, num_others = (
    part.arrays['features'].shape[1] for part in (train, other)
  )
  if num_features != num_others:
    raise ValueError(
      f'{other_path}: features must have the {num_features} columns of {path}; '
      f'got {num_others}.'
    )
  unknown = np.setdiff1d(other.labels, train.labels)
  if len(unknown):
    raise ValueError(
      f'{other_path}: labels has class {unknown[0]}, of which {path} has no '
      'example.'
    )


def _joined(train: Collected, holdout: Collected) -> Collected:
  """The training data, and behind them their holdout."""
  features = [part.arrays['features'] for part in (train, holdout)]
  return Collected(
    ids=np.concatenate([train.ids, holdout.ids]),
    labels=np.concatenate([train.labels, holdout.labels]),
    arrays={'features': np.concatenate(features)},
  )


def _check_train(train: Collected, path: str) -> int:
  """The number of classes; raises ValueError, with the path, as the fit does."""
  num_classes = int(train.labels.max()) + 1
  try:
    regression.check_examples(
      train.arrays['features'], train.labels, num_classes=num_classes
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return num_classes


def fit_arrays(
  train_path: str,
  test_path: str,
  *,
  holdout_path: str | None = None,
  output: str,
  main_metric: str = 'top1_accuracy',
  l2_values: Sequence[float] = regression.L2_VALUES,
  tolerance: float = 1e-6,
) -> Fitted:
  """Fits the L2 path on files of features; writes the chosen classifier.

  Args:
    train_path: an .npz with `features` and `labels` (`lossbench.arrays.files`).
    test_path: likewise, tested on once.
    holdout_path: likewise, the L2 value is chosen on and trained on at last;
      None holds out a fifth of every class of the training data.
    output: directory for metrics.json, classifier.npz and predictions.npz.
    main_metric: 'top1_accuracy' or 'mean_class_accuracy'.
    l2_values: on the sum of losses.
    tolerance: certified relative suboptimality of every fit.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file or an argument is refused.
    OSError: if the results cannot be written.
  """
  check_l2_values(list(l2_values))
  files = {'train': train_path, 'test': test_path}
  if holdout_path is not None:
    files['holdout'] = holdout_path
  check_other_content(
    files, why='what was trained or chosen on is no test of a classifier'
  )
  train, test = read_features(train_path), read_features(test_path)
  num_classes = _check_train(train, train_path)
  _check_alike(train, train_path, test, test_path)
  held = None
  if holdout_path is not None:
    holdout = read_features(holdout_path)
    _check_alike(train, train_path, holdout, holdout_path)
    held = np.arange(len(train) + len(holdout)) >= len(train)
    train = _joined(train, holdout)
  target = storage.as_path(output)
  storage.make_directory(target, flag='--output')  # before hours of work
  records, path, fit = fit_and_test(
    train,
    test,
    num_classes=num_classes,
    main_metric=main_metric,
    held=held,
    l2_values=l2_values,
    tolerance=tolerance,
  )
  metrics: dict[str, Any] = {
    'main_metric': main_metric,
    'files': {
      name: {'path': str(path), 'content': ArrayFile(path).fingerprint}
      for name, path in files.items()
    },
    'lossbench_version': lossbench.__version__,
    'metrics': [record.to_json() for record in records],
    'path': path,
  }
  write_results(target, test, fit, metrics, {})
  return Fitted(records, path, fit, len(train), num_classes)
