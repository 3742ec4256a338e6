"""The paper's protocol: L2 chosen on a holdout, refitted on all, tested once."""

from collections.abc import Sequence

import numpy as np

from lossbench.evaluation.collected import Collected
from lossbench.probe import logistic_regression as regression
from lossbench.runs.records import Record, create_record
from lossbench.runtime.progress import create_printer

HOLDOUT_FRACTION = 0.2  # of every class
_SEED = 0  # of the holdout
_FINAL_TOLERANCE = 1e-9


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


def best_l2(
  l2_values: Sequence[float],
  accuracies: Sequence[float],
  cross_entropies: Sequence[float],
) -> tuple[float, int]:
  """The L2 value of highest accuracy; of equals that of lowest cross-entropy.

  On a small holdout many values predict the same classes, and which of them is
  taken decides the test accuracy. (If those tie too, the largest, the smoothest.)
  The paper does not say how it breaks ties.

  Returns:
    The value, and how many have its accuracy.
  """
  best = max(accuracies)
  equals = [
    (-cross_entropy, l2)
    for l2, accuracy, cross_entropy in zip(
      l2_values, accuracies, cross_entropies, strict=True
    )
    if accuracy == best
  ]
  return max(equals)[1], len(equals)


def _fit_holdout_path(
  features: np.ndarray,
  labels: np.ndarray,
  held: np.ndarray,
  *,
  num_classes: int,
  l2_values: Sequence[float],
  tolerance: float,
) -> tuple[list[regression.Fit], list[dict[str, float]]]:
  """A fit per L2 value without the held out, ascending, and what it is worth."""
  on_progress = create_printer('L2 values', len(l2_values))
  path = []

  def on_fit(fit: regression.Fit):
    predicted, cross_entropy = regression.score(
      fit, features[held], labels[held]
    )
    path.append(
      {
        'l2': fit.l2,
        'holdout_accuracy': float(np.mean(predicted == labels[held])),
        'holdout_nll': cross_entropy,
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
    features[~held],
    labels[~held],
    num_classes=num_classes,
    l2_values=sorted(l2_values),
    tolerance=tolerance,
    on_fit=on_fit,
  )
  return fits, sorted(path, key=lambda entry: entry['l2'])


def _choice_records(path, l2, num_equal, *, n: int) -> list[Record]:
  """The chosen L2 value and how clear the choice was, on n held-out examples."""
  edge = equal = ''
  if len(path) > 1 and l2 in (path[0]['l2'], path[-1]['l2']):
    edge = 'at the edge of the L2 values: a better one may lie beyond'
  if num_equal > 1:
    equal = (
      f'{num_equal} of {len(path)} L2 values have the highest holdout accuracy; '
      'the one of lowest cross-entropy is taken'
    )
  accuracy = max(entry['holdout_accuracy'] for entry in path)
  return [
    create_record('l2', l2, n=n, note=edge),
    create_record('num_equal_l2', num_equal, n=n, note=equal),
    create_record('holdout_accuracy', accuracy, n=n),
  ]


def test_records(
  predicted: np.ndarray, labels: np.ndarray, *, num_classes: int
) -> list[Record]:
  """Accuracies of predictions [N] of test examples, over all and by class."""
  n, num_missing = len(labels), num_classes - len(np.unique(labels))
  return [
    create_record('top1_accuracy', np.mean(predicted == labels), n=n),
    create_record(
      'mean_class_accuracy',
      mean_class_accuracy(predicted, labels),
      n=n,
      note=f'{num_missing} classes have no test example' if num_missing else '',
    ),
  ]


def fit_and_test(
  train: Collected,
  test: Collected,
  *,
  num_classes: int,
  main_metric: str,
  held: np.ndarray | None = None,
  l2_values: Sequence[float] = regression.L2_VALUES,
  tolerance: float = 1e-6,
) -> tuple[list[Record], list[dict[str, float]], regression.Fit]:
  """Chooses the L2 value on a holdout, refits on all of train, tests once.

  Args:
    train: 'features' of the training data, holdout included.
    test: 'features' of the test data.
    num_classes: K.
    main_metric: 'top1_accuracy' or 'mean_class_accuracy', listed first.
    held: [N] bool, the holdout of the training data; None: `holdout_mask`.
    l2_values: to choose from, by top-1 accuracy on the holdout; see `best_l2`.
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
  held = holdout_mask(train.labels) if held is None else held
  fits, path = _fit_holdout_path(
    train_features,
    train.labels,
    held,
    num_classes=num_classes,
    l2_values=l2_values,
    tolerance=tolerance,
  )
  l2, num_equal = best_l2(
    *(
      [entry[name] for entry in path]
      for name in ('l2', 'holdout_accuracy', 'holdout_nll')
    )
  )
  [final] = regression.fit_path(
    train_features,
    train.labels,
    num_classes=num_classes,
    l2_values=[l2],
    # What is reported can afford more steps than what is only compared.
    tolerance=min(tolerance, _FINAL_TOLERANCE),
    start=next(fit for fit in fits if fit.l2 == l2),
  )
  measured = test_records(
    regression.predict(final, test_features),
    test.labels,
    num_classes=num_classes,
  )
  measured.sort(key=lambda record: record.name != main_metric)
  fitted = regression.predict(final, train_features)
  n = len(train)
  records = [
    *measured,
    *_choice_records(path, l2, num_equal, n=int(held.sum())),
    create_record('train_accuracy', np.mean(fitted == train.labels), n=n),
    create_record('train_objective', final.objective, n=n),
    create_record('gradient_norm', final.gradient_norm, n=n),
    create_record('relative_gap_bound', final.relative_gap_bound, n=n),
  ]
  return records, path, final
