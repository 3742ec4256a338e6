"""The authors' ResNet-50 in plain TensorFlow, and checkpoints in their naming.

Written from the description of the released code (tensorflow.org's ResNet of 2019),
with nothing of lossbench: an oracle of what an import must reproduce.
"""

import math
import pathlib

import numpy as np
import tensorflow as tf

SUFFIX = '/ExponentialMovingAverage'
NUM_OUTPUTS = 1001
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
NUM_FEATURES = 2048

OBJECTIVES = (
  'softmax',
  'label_smoothing',
  'dropout',
  'extra_final_layer_l2',
  'logit_penalty',
  'logit_normalization',
  'cosine_softmax',
  'sigmoid',
  'squared_error',
)


class Network:
  """Computes with the averages, as TensorFlow stored them.

  Variables are taken in the order of creation: conv2d, conv2d_1, ...

  Args:
    arrays: name, without the averages' suffix -> value.
  """

  def __init__(self, arrays):
    self._arrays = arrays
    self._count = 0

  def _convolve(self, x, strides=1):
    suffix = f'_{self._count}' if self._count else ''
    self._count += 1
    kernel = self._arrays[f'conv2d{suffix}/kernel']
    pad = (kernel.shape[0] - 1) // 2
    if strides > 1:  # both sides alike, whatever the size
      x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    padding = 'VALID' if strides > 1 else 'SAME'
    x = tf.nn.conv2d(x, kernel, strides, padding)
    scale, offset, mean, variance = (
      self._arrays[f'batch_normalization{suffix}/{name}']
      for name in ('gamma', 'beta', 'moving_mean', 'moving_variance')
    )
    return (x - mean) / tf.sqrt(variance + 1e-5) * scale + offset

  def _block(self, x, strides, projects):
    shortcut = self._convolve(x, strides) if projects else x
    x = tf.nn.relu(self._convolve(x))
    x = tf.nn.relu(self._convolve(x, strides))
    return tf.nn.relu(self._convolve(x) + shortcut)

  def endpoints(self, images):
    """Every block, and then the averages over space."""
    x = tf.nn.relu(self._convolve(tf.constant(images), 2))
    x = tf.nn.max_pool2d(x, 3, 2, 'SAME')
    found = []
    for stage, (_, num_blocks) in enumerate(STAGES):
      for block in range(num_blocks):
        strides = 2 if stage and not block else 1
        x = self._block(x, strides, projects=not block)
        found.append(x.numpy())
    return [*found, x.numpy().mean((1, 2))]


def outputs(objective, features, arrays):
  """[B, 1000], what the authors' code calls outputs, of float64 features."""
  bias = arrays['dense/bias'].astype(np.float64)
  if objective == 'cosine_softmax':
    kernel = arrays['dense/normalized_kernel'].astype(np.float64)
    kernel = kernel / np.sqrt((kernel**2).sum(0))
    final = (features @ kernel + bias) / 0.05
  else:
    final = features @ arrays['dense/kernel'].astype(np.float64) + bias
  if objective == 'logit_normalization':
    final = final / np.sqrt((final**2).sum(1, keepdims=True)) / 0.04
  if objective == 'sigmoid':
    final = final - math.log(NUM_OUTPUTS)
  return final[:, 1:]


def head_arrays(objective, *, seed=0):
  """The output layer's averages, of sizes that all matter."""
  rng = np.random.default_rng(seed)
  kernel = 'normalized_kernel' if objective == 'cosine_softmax' else 'kernel'
  return {
    f'dense/{kernel}': np.float32(
      rng.normal(scale=0.05, size=(NUM_FEATURES, NUM_OUTPUTS))
    ),
    'dense/bias': np.float32(rng.normal(size=NUM_OUTPUTS)),
  }


def _convolutions():
  """(size, channels in, channels out) in the order of creation."""
  yield 7, 3, 64
  channels = 64
  for width, num_blocks in STAGES:
    for block in range(num_blocks):
      if not block:
        yield 1, channels, 4 * width
      yield 1, channels, width
      yield 3, width, width
      yield 1, width, 4 * width
      channels = 4 * width


def backbone_arrays(*, seed=0):
  """The backbone's averages: activations stay of about one size."""
  rng = np.random.default_rng(seed)
  found = {}
  for number, (size, fan_in, channels) in enumerate(_convolutions()):
    suffix = f'_{number}' if number else ''
    std = math.sqrt(2 / (size * size * fan_in))
    found[f'conv2d{suffix}/kernel'] = np.float32(
      std * rng.standard_normal((size, size, fan_in, channels), np.float32)
    )
    for name, low, high in [
      ('gamma', 0.5, 1.0),
      ('beta', -0.3, 0.3),
      ('moving_mean', -0.3, 0.3),
      ('moving_variance', 0.5, 2.0),
    ]:
      found[f'batch_normalization{suffix}/{name}'] = np.float32(
        rng.uniform(low, high, channels)
      )
  return found


def write(path: pathlib.Path, arrays, *, decoys=True, extra=()):
  """Saves averages as TensorFlow does; returns the prefix.

  Args:
    path: the prefix.
    arrays: name, without suffix -> average.
    decoys: beside them also raw variables, momenta and the step, all of which
      are other numbers.
    extra: more variables, (whole name, array).
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  saved = {name + SUFFIX: array for name, array in arrays.items()}
  if decoys:
    for name, array in arrays.items():
      saved[name] = array + 1
      if not name.endswith(('moving_mean', 'moving_variance')):
        saved[f'{name}/Momentum'] = np.zeros_like(array)
    saved['global_step'] = np.int64(112_600)
  saved |= dict(extra)
  # The operation that TensorFlow 1's Saver runs.
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=list(saved),
    shape_and_slices=[''] * len(saved),
    tensors=list(saved.values()),
  )
  return str(path)
