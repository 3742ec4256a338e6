"""Classifiers of fixed features by cosine similarity: neighbours, class means.

Exact: every example is compared with every training example, in float32 at full
precision, so that only neighbours whose cosines are equal to six digits may
change places. Training examples are sharded over the devices of a process, the
examples to predict over the processes; a device holds its share of the training
features and similarities of `_MAX_SIMILARITIES` pairs, whatever the number of
either.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lossbench.runtime import devices
from lossbench.runtime.processes import concatenate_rows

_MAX_SIMILARITIES = 2**25  # on a device at once: 128 MiB
_MAX_QUERIES = 1024
_FARTHEST = -2.0  # below every cosine


def unit_rows(features: np.ndarray) -> np.ndarray:
  """Rows [N, M] divided by their norms, float32; a row of zeros stays."""
  features = np.asarray(features, np.float32)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  return features / np.where(norms > 0, norms, 1)


@functools.lru_cache(maxsize=8)
def _create_search_fn(num_neighbours: int, chosen):
  """(training rows, mask, queries) -> nearest on each device."""

  def search(rows, is_real, queries):
    similarities = jax.lax.dot_general(
      queries,
      rows,
      (((1,), (1,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST,
    )  # [Q, n]
    similarities = jnp.where(is_real[None, :], similarities, _FARTHEST)
    return jax.lax.top_k(similarities, min(num_neighbours, rows.shape[0]))

  return jax.pmap(
    search, axis_name=devices.AXIS, devices=chosen, in_axes=(0, 0, None)
  )


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
  local = devices.local()
  share = -(-num_train // len(local))
  rows = np.zeros((share * len(local), train_features.shape[1]), np.float32)
  rows[:num_train] = unit_rows(train_features)
  is_real = np.arange(len(rows)) < num_train
  placed = devices.shard((rows, is_real))
  search = _create_search_fn(num_neighbours, local)
  own = _own_share(unit_rows(features))
  size = max(1, min(_MAX_QUERIES, _MAX_SIMILARITIES // share, len(own)))
  found = [np.zeros((0, num_neighbours), np.int64)]
  for first in range(0, len(own), size):
    queries = np.zeros((size, rows.shape[1]), np.float32)
    real = own[first : first + size]
    queries[: len(real)] = real
    values, indices = jax.device_get(search(*placed, queries))  # [D, Q, k]
    offsets = share * np.arange(len(local))[:, None, None]
    values, indices = (
      np.concatenate(list(part), axis=1)[: len(real)]
      for part in (values, indices + offsets)
    )
    order = np.lexsort((indices, -values), axis=1)[:, :num_neighbours]
    found.append(np.take_along_axis(indices, order, axis=1))
  return concatenate_rows(np.concatenate(found).astype(np.int32))


def _own_share(rows: np.ndarray) -> np.ndarray:
  """The rows of this process; processes have all of them, in order."""
  return np.array_split(rows, jax.process_count())[jax.process_index()]


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
