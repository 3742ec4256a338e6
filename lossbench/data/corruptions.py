"""Corruptions of small images, grey or in colour, with published severities.

Of Hendrycks & Dietterich 2019 (arXiv:1903.12261), with the five severities of
CIFAR-10-C: make_cifar_c.py in github.com/hendrycks/robustness. Of its nineteen
corruptions these eight keep their meaning on 8 x 8 grey pixels, and their names on
all images. Left out:

- pixelate: its factors leave 7, 7, 6, 6 and 5 of 8 pixels, not five severities;
- glass, motion and zoom blur, snow, frost, fog, spatter and elastic_transform:
  their radii, textures and anchor points are those of 32 x 32 pixels;
- saturate, which needs colour, and jpeg_compression, which needs an encoder.

Results are rounded to the nearest of the 256 levels, not truncated.
"""

import numpy as np

from lossbench.data.severities import NUM_SEVERITIES, SEVERITIES


def _gaussian_noise(x, rng, c):
  return x + rng.normal(scale=c, size=x.shape)


def _shot_noise(x, rng, c):
  return rng.poisson(x * c) / c


def _impulse_noise(x, rng, c):
  """Salt and pepper in equal parts."""
  struck = rng.random(x.shape) < c
  salt = rng.random(x.shape) < 0.5
  return np.where(struck, salt.astype(np.float64), x)


def _speckle_noise(x, rng, c):
  return x + x * rng.normal(scale=c, size=x.shape)


def _gaussian_blur(x, rng, c):
  del rng
  from scipy import ndimage  # takes long

  return ndimage.gaussian_filter(x, c, mode='nearest', axes=(0, 1))


def _defocus_blur(x, rng, c):
  """A disk of a radius, its edge smoothed by a Gaussian of 3 x 3 pixels."""
  del rng
  from scipy import ndimage  # as above

  radius, edge_stddev = c
  reach = int(radius) + 1  # one pixel more for the edge
  offsets = np.arange(-reach, reach + 1)
  disk = np.add.outer(offsets**2, offsets**2) <= radius**2
  edge = np.exp(-np.array([1, 0, 1]) / (2 * edge_stddev**2))
  edge = np.outer(edge, edge)
  kernel = ndimage.convolve(disk.astype(np.float64), edge, mode='constant')
  kernel = kernel.reshape(kernel.shape + (1,) * (x.ndim - 2))
  # OpenCV, which the authors use, mirrors without repeating the outermost row.
  return ndimage.convolve(x, kernel / kernel.sum(), mode='mirror')


def _brightness(x, rng, c):
  """Raises the value of HSV, the largest channel, to at most 1; keeps the hue."""
  del rng
  if x.ndim == 2:
    return x + c
  value = x.max(axis=-1, keepdims=True)
  raised = np.minimum(value + c, 1)
  black = np.full_like(x, c)
  return np.where(value > 0, x * raised / np.where(value > 0, value, 1), black)


def _contrast(x, rng, c):
  del rng
  means = x.mean(axis=(0, 1))  # of each channel
  return (x - means) * c + means


_FUNCTIONS = {
  'gaussian_noise': _gaussian_noise,
  'shot_noise': _shot_noise,
  'impulse_noise': _impulse_noise,
  'speckle_noise': _speckle_noise,
  'gaussian_blur': _gaussian_blur,
  'defocus_blur': _defocus_blur,
  'brightness': _brightness,
  'contrast': _contrast,
}


def corrupt(
  image: np.ndarray, corruption: str, *, severity: int, seed: tuple[int, ...]
) -> np.ndarray:
  """A corrupted copy of an image; a function of its arguments alone.

  Args:
    image: uint8 [H, W] or [H, W, C].
    corruption: a key of `severities.SEVERITIES`.
    severity: 1 to 5.
    seed: of the noise, e.g. (number of the image,).

  Returns:
    uint8, of the image's shape.

  Raises:
    ValueError: if the corruption or the severity is unknown.
  """
  if corruption not in SEVERITIES:
    raise ValueError(
      f'Unknown corruption {corruption!r}. Known: {", ".join(SEVERITIES)}.'
    )
  if not 1 <= severity <= NUM_SEVERITIES:
    raise ValueError(
      f'severity must be in 1 to {NUM_SEVERITIES}; got {severity}.'
    )
  value = SEVERITIES[corruption][severity - 1]
  number = list(SEVERITIES).index(corruption)
  rng = np.random.default_rng((*seed, number, severity))
  x = _FUNCTIONS[corruption](image / 255.0, rng, value)
  return np.round(np.clip(x, 0.0, 1.0) * 255).astype(np.uint8)


def corrupt_as(config_name: str, image: np.ndarray, index: int) -> np.ndarray:
  """An image under the corruption of the name of a builder's configuration.

  Args:
    config_name: '<corruption>_<severity>'.
    image: uint8 [H, W] or [H, W, C].
    index: number of the image, the seed of the noise.
  """
  name, _, severity = config_name.rpartition('_')
  return corrupt(image, name, severity=int(severity), seed=(index,))
