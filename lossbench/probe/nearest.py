"""Classifiers of fixed features by cosine similarity: neighbours, class means.

Exact: every example is compared with every training example, in float32 at full
precision, so that only neighbours whose cosines are equal to six digits may
change places. Training examples are sharded over the devices of all processes; a
device holds its share of their features and the similarities of at most
`_MAX_SIMILARITIES` pairs, whatever the number of examples.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lossbench.runtime import devices

_MAX_SIMILARITIES = 2**25  # on a device at once: 128 MiB
_MAX_QUERIES = 1024
_FARTHEST = -2.0  # below every cosine


def unit_rows(features: np.ndarray) -> np.ndarray:
  """Rows [N, M] divided by their norms, float32; a row of zeros stays."""
  features = np.asarray(features, np.float32)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  return features / np.where(norms > 0, norms, 1)


@functools.lru_cache(maxsize=8)
def _create_search_fn(num_neighbours: int):
  """(training rows, mask, queries) -> nearest on each device."""

  def search(rows, is_real, queries):
    similarities = jax.lax.dot_general(
      queries,
      rows,
      (((1,), (1,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
    )  # [Q, n]
    similarities = jnp.where(is_real[None, :], similarities, _FARTHEST)
    values, indices = jax.lax.top_k(
      similarities, min(num_neighbours, rows.shape[0])
    )
    return values, indices

  return devices.pmap(search, in_axes=(0, 0, None))


def nearest_neighbours(
  train_features: np.ndarray, features: np.ndarray, *, num_neighbours: int
) -> np.ndarray:
  """Rows of the training examples of highest cosine similarity, highest first.

  Of equal ones the first row comes first.

  Args:
    train_features: [N, M].
    features: [Q, M].
    num_neighbours: k, at most N.

  Returns:
    [Q, k] int.

  Raises:
    ValueError: if there are fewer training examples than neighbours.
  """
  num_train = len(train_features)
  if not 0 < num_neighbours <= num_train:
    raise ValueError(
      f'{num_neighbours} neighbours are not among {num_train} training examples.'
    )
  num_devices = devices.count()
  share = -(-num_train // num_devices)
  rows = np.zeros((share * num_devices, train_features.shape[1]), np.float32)
  rows[:num_train] = unit_rows(train_features)
  is_real = np.arange(len(rows)) < num_train
  placed = devices.shard(tuple(_own_share(x) for x in (rows, is_real)))
  search = _create_search_fn(num_neighbours)
  size = max(1, min(_MAX_QUERIES, _MAX_SIMILARITIES // share, len(features)))
  found = []
  for first in range(0, len(features), size):
    queries = np.zeros((size, rows.shape[1]), np.float32)
    real = unit_rows(features[first : first + size])
    queries[: len(real)] = real
    results = devices.gather(search(*placed, queries))
    values, indices = jax.device_get(results)  # [devices, Q, k]
    indices = indices + share * np.arange(num_devices)[:, None, None]
    values, indices = (
      np.concatenate(list(part), axis=1)[: len(real)]
      for part in (values, indices)
    )
    order = np.lexsort((indices, -values), axis=1)[:, :num_neighbours]
    found.append(np.take_along_axis(indices, order, axis=1))
  return np.concatenate(found)


def _own_share(rows: np.ndarray) -> np.ndarray:
  """The rows of this process's devices; every process has all of them."""
  per_process = len(rows) // devices.count() * len(devices.local())
  first = jax.process_index() * per_process
  return rows[first : first + per_process]


def vote(neighbour_labels: np.ndarray, *, num_classes: int) -> np.ndarray:
  """The most frequent label of each row; of equals that of the nearest.

  Args:
    neighbour_labels: [Q, k] int class ids, nearest first.
    num_classes: K.

  Returns:
    [Q] class ids.
  """
  predicted = np.empty(len(neighbour_labels), neighbour_labels.dtype)
  for first in range(0, len(neighbour_labels), _MAX_QUERIES):
    labels = neighbour_labels[first : first + _MAX_QUERIES]
    places = np.arange(len(labels))[:, None]
    counts = np.zeros((len(labels), num_classes), np.int64)
    np.add.at(counts, (places, labels), 1)
    votes = counts[places, labels]  # [q, k]
    nearest = votes.argmax(axis=1)  # the first of the highest
    predicted[first : first + len(labels)] = labels[places[:, 0], nearest]
  return predicted


def nearest_class_means(
  train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray
) -> np.ndarray:
  """The class whose mean unit-norm feature is nearest to each unit-norm one.

  SimpleShot's L2N (Wang et al. 2019, arXiv:1911.04623).

  Args:
    train_features: [N, M].
    train_labels: [N] class ids, of every class some.
    features: [Q, M].

  Returns:
    [Q] class ids.
  """
  rows = unit_rows(train_features).astype(np.float64)
  classes = np.unique(train_labels)
  means = np.stack([rows[train_labels == k].mean(axis=0) for k in classes])
  # Squared distance, less the norm of the feature itself.
  distances = np.sum(means**2, axis=1) - 2 * unit_rows(features) @ means.T
  return classes[distances.argmin(axis=1)]
