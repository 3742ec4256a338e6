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

import ml_collections
import numpy as np

from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER

BALANCED = 'balanced'


def balanced(labels: np.ndarray, *, num_classes: int) -> np.ndarray:
  """n / (K n_k), float32 [K].

  Args:
    labels: int [n] in [0, K), of what is trained on.
    num_classes: K.

  Raises:
    ValueError: if a class has no example, or a label is no class.
  """
  if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
    bad = labels[(labels < 0) | (labels >= num_classes)][0]
    raise ValueError(
      f'A training example has label {bad}, outside [0, {num_classes}). Check '
      '--config.num_classes and the data.'
    )
  counts = np.bincount(labels, minlength=num_classes)
  if not counts.all():
    raise ValueError(
      f'--config.class_weights={BALANCED}: class {np.argmin(counts)} has no '
      f'training example ({(counts == 0).sum()} of {num_classes} classes have '
      'none), so that its weight would be infinite. Give weights in a file.'
    )
  return (len(labels) / (num_classes * counts)).astype(np.float32)


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


def build_class_weights(
  config: ml_collections.ConfigDict, examples
) -> np.ndarray | None:
  """The weights of a run, float32 [K]; None where all classes count the same.

  Args:
    config: of the run.
    examples: that it is trained on, `lossbench.data.examples.Examples`.

  Raises:
    ValueError: if there are no such weights; says why.
    OSError: if their file is not there.
  """
  if not config.class_weights:
    return None
  if config.class_weights != BALANCED:
    return read_weights(config.class_weights, num_classes=config.num_classes)
  from lossbench.data import labels

  # All records are read for it, which takes minutes of ImageNet.
  LOGGER.info('Counting the labels of %s.', examples.split)
  return balanced(labels.read_labels(examples), num_classes=config.num_classes)
