"""What the loss of every class counts for: --config.class_weights.

The loss of an example is multiplied by the weight of its class, of soft targets
(mixup) by the mean of the weights under them; penalties on logits and kernels
are nobody's class and are not. The mean over a batch stays one over its
examples, as in Keras and scikit-learn; PyTorch divides by the sum of weights,
which differs from batch to batch. 'balanced' is n / (K n_k) (King & Zeng 2001,
scikit-learn's compute_class_weight), whose mean over the training examples is 1.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from lossbench.runs.directory import RunDirectory
from lossbench.runtime import storage
from lossbench.train import label_counts

BALANCED = 'balanced'


def balanced(counts: np.ndarray) -> np.ndarray:
  """n / (K n_k), float32 [K].

  Args:
    counts: n_k [K], how many training examples each class has.

  Raises:
    ValueError: if a class has no example.
  """
  if not counts.all():
    raise ValueError(
      f'--config.class_weights={BALANCED}: class {np.argmin(counts)} has no '
      f'training example ({(counts == 0).sum()} of {len(counts)} classes have '
      'none), so that its weight would be infinite. Give weights in a file.'
    )
  return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def _read(path: storage.Path):
  if path.suffix == '.json':
    return json.loads(path.read_text())
  with path.open('rb') as file:
    return np.load(file, allow_pickle=False)


def read_weights(name: str, *, num_classes: int) -> np.ndarray:
  """The weights in a file, float32 [K].

  Args:
    name: of a JSON list or an .npy array.
    num_classes: K.

  Raises:
    ValueError: if these are not K numbers from 0, one of them above it.
    OSError: if there is no such file.
  """
  flag = f'--config.class_weights={name}'
  path = storage.as_path(name)
  try:
    content = np.asarray(_read(path))
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{flag}: there is no such file.') from error
  except (ValueError, EOFError) as error:
    raise ValueError(
      f'{flag} is neither a JSON list nor an .npy array of numbers: '
      f'{str(error).splitlines()[0]}'
    ) from error
  if content.dtype.kind not in 'fiu' or content.shape != (num_classes,):
    raise ValueError(
      f'{flag} holds {content.dtype} {list(content.shape)}; expected '
      f'{num_classes} numbers, one a class (--config.num_classes).'
    )
  weights = content.astype(np.float32)
  bad = ~(np.isfinite(weights) & (weights >= 0))
  if bad.any():
    raise ValueError(
      f'{flag} has {content[bad][0]} for class {np.argmax(bad)}; expected finite '
      'numbers from 0.'
    )
  if not weights.any():
    raise ValueError(f'{flag} has no weight above 0: nothing would be learnt.')
  return weights


def describe_file(name: str, *, num_classes: int) -> dict[str, str]:
  """What tells weights in a file, which may change, from others; {} of none.

  Args:
    name: the value of --config.class_weights.
    num_classes: K.

  Raises:
    ValueError: as of `read_weights`.
    OSError: likewise.
  """
  if name in ('', BALANCED):
    return {}
  weights = read_weights(name, num_classes=num_classes)
  return {'class_weights': f'{zlib.crc32(weights.tobytes()):08x}'}


def build_label_counts(
  config: ml_collections.ConfigDict,
  examples,
  *,
  directory: RunDirectory,
  dataset: Mapping[str, Any],
) -> dict[str, Any] | None:
  """The record of how often each class occurs; None where nobody asks.

  Args:
    config: of the run.
    examples: that it is trained on, `lossbench.data.examples.Examples`.
    directory: of the run, in which the record may lie.
    dataset: of `lossbench.data.datasets.describe`.

  Raises:
    ValueError: as of `label_counts.find_label_counts`.
  """
  if config.class_weights != BALANCED:
    return None
  return label_counts.find_label_counts(
    examples,
    num_classes=config.num_classes,
    directory=directory,
    dataset=dataset,
  )


def build_class_weights(
  config: ml_collections.ConfigDict, counts: Mapping[str, Any] | None
) -> np.ndarray | None:
  """The weights of a run, float32 [K]; None where all classes count the same.

  Args:
    config: of the run.
    counts: of `build_label_counts`.

  Raises:
    ValueError: if there are no such weights; says why.
    OSError: if their file is not there.
  """
  if not config.class_weights:
    return None
  if counts is None:
    return read_weights(config.class_weights, num_classes=config.num_classes)
  return balanced(np.array(counts['counts']))
