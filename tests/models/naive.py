"""Convolutions in float64 NumPy, and variables that keep activations near 1."""

import jax
import numpy as np


def conv(x, kernel, *, stride=1, pad=0):
  """Cross-correlation of x [B, H, W, C] with kernel [h, w, C, D], float64."""
  x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  patches = np.lib.stride_tricks.sliding_window_view(
    x, kernel.shape[:2], axis=(1, 2)
  )[:, ::stride, ::stride]  # [B, H, W, C, h, w]
  return np.tensordot(
    patches, kernel.astype(np.float64), axes=((4, 5, 3), (0, 1, 2))
  )


def batch_norm(x, affine, moments):
  """(x - mean) / sqrt(var + 1e-5) * scale + bias over the last axis."""
  normalised = (x - moments['mean']) / np.sqrt(moments['var'] + 1e-5)
  return normalised * affine['scale'] + affine['bias']


def batch_moments(x):
  """Mean and biased variance of each channel."""
  return {'mean': x.mean((0, 1, 2)), 'var': x.var((0, 1, 2))}


def random_variable(path, leaf, rng):
  """A variable of a model, random: He's kernels, no scale near 0.

  So activations neither grow nor shrink with depth, and what float32 rounds
  stays in proportion to them on every machine.
  """
  match path[-1].key:
    case 'kernel':
      stddev = np.sqrt(2 / np.prod(leaf.shape[:3]))
      value = stddev * rng.standard_normal(leaf.shape)
    case 'scale' | 'var':
      value = rng.uniform(0.5, 1.5, leaf.shape)
    case 'bias' | 'mean':
      value = 0.1 * rng.standard_normal(leaf.shape)
  return value.astype(np.float32)


def random_variables(shapes, rng):
  """Variables like `shapes`, each a `random_variable`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: random_variable(path, leaf, rng), shapes
  )


def relative_error(found, expected):
  """||found - expected|| / ||expected||."""
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)
