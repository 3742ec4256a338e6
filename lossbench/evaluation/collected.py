"""What a pass over a split keeps of its examples, joined over processes."""

import dataclasses
import zlib
from typing import Self

import numpy as np

from lossbench.runtime import devices
from lossbench.runtime.processes import concatenate_rows

# Examples of which features are kept for measures of pairs of examples, and
# layers for CKA: as many as the paper's cosine distances.
NUM_SAMPLED = 10_000
_ID_BYTES = 128  # TFDS ids are file names and numbers, far shorter


@dataclasses.dataclass(frozen=True)
class Collect:
  """What a pass keeps of examples; this alone grows with the split.

  Attributes:
    logits: [N, K] float32, raw outputs of the output layer.
    features: [N, M] float32, the penultimate layer.
    pooled: `spatial_mean` of every endpoint, 'pooled/<endpoint>' [N, C].
    gram_size: G > 0 keeps of every endpoint 'gram/<endpoint>' [N, G], each
      example's row of the U-centred Gram matrix of its minibatch of G
      consecutive examples, all that unbiased CKA of whole feature maps needs.
    num_sampled: > 0 keeps 'features' and 'logits' of at most so many examples,
      apart from the rest: those whose ids have the smallest CRC-32, the same
      ones in every run and whatever the order and the batches.
  """

  logits: bool = False
  features: bool = False
  pooled: bool = False
  gram_size: int = 0
  num_sampled: int = 0


NOTHING = Collect()


@dataclasses.dataclass(frozen=True)
class Collected:
  """What was kept of real examples.

  Attributes:
    ids: [N] bytes, TFDS's example ids.
    labels: [N] int32.
    arrays: name -> [N, ...] float32.
  """

  ids: np.ndarray
  labels: np.ndarray
  arrays: dict[str, np.ndarray]

  def __len__(self):
    return len(self.ids)

  def take(self, rows: np.ndarray) -> Self:
    """Some of the examples, by index or mask."""
    return Collected(
      ids=self.ids[rows],
      labels=self.labels[rows],
      arrays={name: values[rows] for name, values in self.arrays.items()},
    )

  def sorted_by_id(self) -> Self:
    """The same in ascending order of the ids, whatever order files came in."""
    return self.take(np.argsort(self.ids, kind='stable'))


class Keeper:
  """Puts the fetched rows of one pass where they belong."""

  def __init__(self, collect: Collect, num_examples: int, *, gathered: bool):
    self._collect = collect
    self._gathered = gathered
    self._kept: list[Collected] = []
    self._sampled: list[Collected] = []
    # A fifth more than is wanted, for the hashes are only nearly uniform.
    share = 1.2 * collect.num_sampled / num_examples
    self._threshold = int(min(1.0, share) * 2**32)

  def keep(self, rows: Collected):
    if self._collect.num_sampled:
      chosen = _hashes(rows.ids) < self._threshold
      wanted = {name: rows.arrays[name] for name in ('features', 'logits')}
      self._sampled.append(
        dataclasses.replace(rows, arrays=wanted).take(chosen)
      )
    arrays = {
      name: values
      for name, values in rows.arrays.items()
      if (name != 'logits' or self._collect.logits)
      and (name != 'features' or self._collect.features)
    }
    if arrays:
      self._kept.append(dataclasses.replace(rows, arrays=arrays))

  def finish(self) -> tuple[Collected | None, Collected | None]:
    sample = join(self._sampled, gathered=self._gathered)
    if sample is not None:
      sample = choose_sample(sample, self._collect.num_sampled)
    return join(self._kept, gathered=self._gathered), sample


def choose_sample(examples: Collected, num_sampled: int) -> Collected:
  """The examples whose ids have the smallest CRC-32, so many at most, by id."""
  return examples.take(random_order(examples.ids)[:num_sampled]).sorted_by_id()


def random_order(ids: np.ndarray) -> np.ndarray:
  """Rows [N] in an order that only the ids decide: that of their CRC-32."""
  return np.lexsort((ids, _hashes(ids)))


def _hashes(ids: np.ndarray) -> np.ndarray:
  return np.array([zlib.crc32(name) for name in ids], np.int64)


def fetch_batch(ids, batch, rows) -> Collected:
  """This process's real rows of a batch."""
  if max(len(name) for name in ids) > _ID_BYTES:
    raise ValueError(f'An example id is longer than {_ID_BYTES} bytes.')
  return Collected(
    ids=np.array(list(ids), dtype=f'S{_ID_BYTES}'),
    labels=batch['label'],
    arrays={
      name: value.reshape(len(ids), *value.shape[2:])
      for name, value in devices.fetch(rows).items()
    },
  ).take(batch['mask'] > 0)


def _concatenate(parts: list[Collected], name: str) -> np.ndarray:
  """All rows of an array, which the parts give up: memory for one copy."""
  first = parts[0].arrays[name]
  whole = np.empty((sum(map(len, parts)), *first.shape[1:]), first.dtype)
  start = 0
  for part in parts:
    rows = part.arrays.pop(name)
    whole[start : start + len(rows)] = rows
    start += len(rows)
  return whole


def join(parts: list[Collected], *, gathered: bool) -> Collected | None:
  """The rows of all batches, gathered from all processes or this one's."""
  if not parts:
    return None
  whole = {name: _concatenate(parts, name) for name in list(parts[0].arrays)}
  ids = np.concatenate([part.ids for part in parts])
  # As numbers, which processes can exchange.
  whole['id'] = ids.view(np.uint8).reshape(len(ids), _ID_BYTES)
  whole['label'] = np.concatenate([part.labels for part in parts])
  if gathered:
    whole = concatenate_rows(whole)
  ids = np.ascontiguousarray(whole.pop('id')).view(f'S{_ID_BYTES}')[:, 0]
  return Collected(ids=ids, labels=whole.pop('label'), arrays=whole)
