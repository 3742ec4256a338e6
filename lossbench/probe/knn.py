"""k nearest neighbours and few examples a class, of fixed features.

What the later edition of the paper adds to the linear probe (arXiv:2010.16402,
by k nearest neighbours), and what a few labels are worth. The protocols are
ours: k is chosen on the holdout that chooses the probe's L2 value.
"""

import dataclasses

import numpy as np

from lossbench.evaluation.collected import Collected
from lossbench.probe import nearest
from lossbench.probe.protocol import holdout_mask, mean_class_accuracy
from lossbench.runs.records import FEW_SHOTS, Record, create_record

NUM_NEIGHBOURS = (1, 2, 3, 5, 10, 20, 50, 100, 200)
NUM_DRAWS = 10  # of few examples
_SEED = 0  # of these


@dataclasses.dataclass(frozen=True)
class Scores:
  """What a protocol is worth on the test data.

  Attributes:
    records: numbers.
    correct: prefix of the metrics -> [N] whether, or how often, each test
      example is predicted right.
  """

  records: list[Record]
  correct: dict[str, np.ndarray]


def choose_num_neighbours(
  train: Collected, *, num_classes: int
) -> tuple[int, float, int]:
  """The k of highest holdout accuracy, of equals the smallest.

  Args:
    train: 'features' of the training data, holdout included.
    num_classes: K.

  Returns:
    k, its holdout accuracy, and the number of held-out examples.
  """
  features, labels = train.arrays['features'], train.labels
  held = holdout_mask(labels)
  known = labels[~held]
  values = [k for k in NUM_NEIGHBOURS if k <= len(known)]
  found = nearest.nearest_neighbours(
    features[~held], features[held], num_neighbours=values[-1]
  )
  accuracies = [
    np.mean(
      nearest.vote(known[found[:, :k]], num_classes=num_classes) == labels[held]
    )
    for k in values
  ]
  best = int(np.argmax(accuracies))
  return values[best], float(accuracies[best]), int(held.sum())


def score_neighbours(
  train: Collected, test: Collected, *, num_classes: int
) -> Scores:
  """k nearest neighbours by cosine: k chosen on a holdout, tested once.

  Args:
    train: 'features' of the training data, holdout included.
    test: 'features' of the test data.
    num_classes: K.
  """
  k, accuracy, num_held = choose_num_neighbours(train, num_classes=num_classes)
  found = nearest.nearest_neighbours(
    train.arrays['features'],
    test.arrays['features'],
    # One program for all k.
    num_neighbours=min(NUM_NEIGHBOURS[-1], len(train)),
  )
  predicted = nearest.vote(train.labels[found[:, :k]], num_classes=num_classes)
  n = len(test)
  edge = ''
  if k == NUM_NEIGHBOURS[-1]:
    edge = 'the largest of the numbers that are tried'
  return Scores(
    [
      create_record(
        'knn_top1_accuracy', np.mean(predicted == test.labels), n=n
      ),
      create_record(
        'knn_mean_class_accuracy',
        mean_class_accuracy(predicted, test.labels),
        n=n,
      ),
      create_record('num_neighbours', k, n=num_held, note=edge),
      create_record('knn_holdout_accuracy', accuracy, n=num_held),
    ],
    {'knn_': predicted == test.labels},
  )


def draw_few(labels: np.ndarray, *, shots: int, draw: int) -> np.ndarray:
  """Rows of so many examples of every class, a function of labels and draw.

  Args:
    labels: [N], in the order of the examples' ids.
    shots: examples a class.
    draw: number of the draw.

  Returns:
    [classes * shots] rows; of a class that has fewer examples all.
  """
  rng = np.random.default_rng((_SEED, shots, draw))
  rows = [
    rng.permutation(np.flatnonzero(labels == k))[:shots]
    for k in np.unique(labels)
  ]
  return np.concatenate(rows)


def score_few_shots(train: Collected, test: Collected) -> Scores:
  """Nearest class means of 1, 5 and 10 examples a class, over fixed draws.

  Args:
    train: 'features' of the training data, by id.
    test: 'features' of the test data.
  """
  features, labels = train.arrays['features'], train.labels
  fewest = int(np.unique(labels, return_counts=True)[1].min())
  records, correct = [], {}
  for shots in FEW_SHOTS:
    prefix = f'few_shot_{shots}_'
    names = [
      f'{prefix}{metric}'
      for metric in ('top1_accuracy', 'mean_class_accuracy', 'standard_error')
    ]
    if fewest < shots:
      note = f'not available: a class has {fewest} training examples'
      records += [create_record(n, None, n=0, note=note) for n in names]
      continue
    right, by_class = [], []
    for draw in range(NUM_DRAWS):
      rows = draw_few(labels, shots=shots, draw=draw)
      predicted = nearest.nearest_class_means(
        features[rows], labels[rows], test.arrays['features']
      )
      right.append(predicted == test.labels)
      by_class.append(mean_class_accuracy(predicted, test.labels))
    correct[prefix] = np.mean(right, axis=0)
    accuracies = np.mean(right, axis=1)
    values = (
      np.mean(accuracies),
      np.mean(by_class),
      np.std(accuracies, ddof=1) / np.sqrt(NUM_DRAWS),
    )
    records += [
      create_record(name, value, n=len(test))
      for name, value in zip(names, values, strict=True)
    ]
  return Scores(records, correct)
