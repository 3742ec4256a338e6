"""One model's outputs in a file: checked when it is opened, then read in parts."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Self

import numpy as np

from lossbench.arrays.files import (
  LAYER,
  MAX_LOG_PROB,
  SCORES,
  ArrayFile,
  numbered,
)
from lossbench.arrays.mapping import Rows, to_float
from lossbench.evaluation.collected import Collected
from lossbench.metrics import checks
from lossbench.runs.directory import PLAIN, is_plain

# What layers may not be called: endpoints too, and what `Outputs.read` reads.
_OWN_NAMES = ('features', 'logits', 'scores')


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What a model said of N examples, in the order of their ids or of the file.

  Attributes:
    file: whose arrays they are.
    scores: 'logits' or 'log_probs', whichever it has.
    has_ids: whether ids tell the examples apart, and not their order.
    ids: [N] bytes, ascending; of examples without ids their numbers in the file,
      in its order, which is not that of bytes.
    labels: [N] int32 in [0, K); None if they are of no use here.
    num_classes: K.
    endpoints: name -> channels of the layers, in forward order; 'features' and
      'logits' are the last, as far as they are there.
    kernel: [M, K] of the output layer; None without one.
  """

  file: ArrayFile
  scores: str
  has_ids: bool
  ids: np.ndarray
  labels: np.ndarray | None
  num_classes: int
  endpoints: dict[str, int]
  kernel: np.ndarray | None
  _order: np.ndarray
  _arrays: Mapping[str, np.ndarray]

  def __len__(self):
    return len(self.ids)

  @property
  def path(self) -> str:
    return str(self.file.path)

  @classmethod
  def open(cls, path: str, *, labelled: bool = True) -> Self:
    """Checks a file.

    Args:
      path: of the file (`lossbench.arrays.files` has the schema).
      labelled: whether labels are needed.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not of the schema; names the array.
    """
    file = ArrayFile(path)
    scores = file.one_of(SCORES)
    if scores is None:
      raise ValueError(
        f'{path} has neither logits nor log_probs. It has: '
        f'{", ".join(file.names) or "none"}.'
      )
    mapped = _map_scores(file, scores)
    num_examples, num_classes = mapped.shape
    where = dict(num_examples=num_examples, of=scores)
    ids = file.ids(**where)
    order = np.arange(num_examples)
    if ids is not None:
      order = np.argsort(ids, kind='stable')
    labels = None
    if labelled:
      labels = file.labels(**where, num_classes=num_classes)[order]
    layers = _map_layers(file, **where)
    if scores == 'logits':
      layers['logits'] = mapped
    endpoints = {name: values.shape[-1] for name, values in layers.items()}
    return cls(
      file=file,
      scores=scores,
      has_ids=ids is not None,
      ids=(numbered(num_examples) if ids is None else ids)[order],
      labels=labels,
      num_classes=num_classes,
      endpoints=endpoints,
      kernel=_read_kernel(file, endpoints.get('features'), num_classes),
      _order=order,
      _arrays={**layers, 'scores': mapped},
    )

  def rows(self, name: str, rows: np.ndarray | None = None) -> Rows:
    """An array of which what is indexed is read: 'scores' or an endpoint.

    Args:
      name: of the array.
      rows: of these examples only, by index; None: all.
    """
    order = self._order if rows is None else self._order[rows]
    return Rows(self._arrays[name], order)

  def read(
    self, names: Collection[str], rows: np.ndarray | None = None
  ) -> Collected:
    """Arrays by name, in memory; arguments as of `rows`."""
    labels = np.zeros(len(self), np.int32)
    if self.labels is not None:
      labels = self.labels
    chosen = slice(None) if rows is None else rows
    return Collected(
      ids=self.ids[chosen],
      labels=labels[chosen],
      arrays={name: self.rows(name, rows)[:] for name in names},
    )


def _map_scores(file: ArrayFile, name: str) -> np.ndarray:
  """Logits, or log-probabilities whose rows are distributions."""
  are_log_probs = name == 'log_probs'
  mapped = file.mapped(
    name, '[examples, classes]', allow_negative_infinity=are_log_probs
  )
  if mapped.shape[1] < 2:
    raise file.error(
      name, f'must be of two classes or more; got {mapped.shape}.'
    )
  if are_log_probs:
    _check_log_probs(file, name, to_float(mapped))
  return mapped


def _check_log_probs(file: ArrayFile, name: str, scores: np.ndarray):
  if scores.max() > MAX_LOG_PROB:
    row = int(scores.max(axis=1).argmax())
    raise file.error(
      name,
      f'has {scores.max():g} in row {row}, and log-probabilities are at most 0. '
      'Write logits as logits, and the logarithm of probabilities.',
    )
  try:
    checks.check_distributions(scores)
  except ValueError as error:
    sums = np.exp(scores).sum(axis=1)
    row = int(np.abs(sums - 1).argmax())
    raise file.error(
      name,
      f'is no logarithm of distributions: the probabilities of row {row} sum to '
      f'{sums[row]:g}.',
    ) from error


def _map_layers(
  file: ArrayFile, *, num_examples: int, of: str
) -> dict[str, np.ndarray]:
  """Layers and features by name, checked."""
  found = {}
  names = [name for name in file.names if name.startswith(LAYER)]
  for name in [*names, 'features']:
    if name not in file.names:
      continue
    shape = '[examples, ...]' if name in names else '[examples, features]'
    values = file.mapped(name, shape)
    if len(values) != num_examples:
      raise file.error(
        name,
        f'must have {num_examples} rows, as many as {of}; got {values.shape}.',
      )
    layer = name.removeprefix(LAYER)
    if name in names and (layer in _OWN_NAMES or not is_plain(layer)):
      raise file.error(
        name,
        f'is no name of a layer: {PLAIN}, and neither '
        f'{" nor ".join(_OWN_NAMES)}.',
      )
    found[layer] = values
  return found


def _read_kernel(file, num_features, num_classes) -> np.ndarray | None:
  if 'kernel' not in file.names:
    return None
  kernel = file.numbers('kernel', '[features, classes]')
  if num_features is None:
    raise file.error('kernel', 'is of features, which the file lacks.')
  if kernel.shape != (num_features, num_classes):
    raise file.error(
      'kernel',
      f'must be [features = {num_features}, classes = {num_classes}]; got '
      f'{kernel.shape}. (PyTorch keeps it transposed.)',
    )
  return kernel


def check_alike(first: Outputs, other: Outputs, *, same_examples: bool):
  """Refuses outputs that cannot be measured together.

  Args:
    first: outputs.
    other: others.
    same_examples: whether they must be of the same examples; else only of the
      same classes, and of the same kind.

  Raises:
    ValueError: naming the file and the array.
  """
  if other.num_classes != first.num_classes:
    raise other.file.error(
      other.scores,
      f'has {other.num_classes} classes, and {first.scores} of {first.path} '
      f'{first.num_classes}.',
    )
  if not same_examples:
    if other.scores != first.scores:
      raise other.file.error(
        other.scores,
        f'is what {first.path} has as {first.scores}. Write the same of both.',
      )
    return
  if len(other) != len(first):
    raise other.file.error(
      other.scores,
      f'is of {len(other)} examples, and {first.scores} of {first.path} of '
      f'{len(first)}.',
    )
  if other.has_ids != first.has_ids:
    lacking = first if other.has_ids else other
    raise lacking.file.error(
      'ids', 'is missing, and the other files have it: examples have no order.'
    )
  for name, got, expected in (
    ('ids', other.ids, first.ids),
    ('labels', other.labels, first.labels),
  ):
    differ = np.flatnonzero(got != expected)
    if len(differ):
      at = differ[0]
      raise other.file.error(
        name,
        f'differs from that of {first.path} in {len(differ)} of {len(first)} '
        f'examples: {got[at].item()!r} where that has {expected[at].item()!r}.',
      )
