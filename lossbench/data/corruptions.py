"""Corruptions of small grey images, with published severities.

Of Hendrycks & Dietterich 2019 (arXiv:1903.12261), with the five severities that
the authors use for CIFAR-10-C. Of their nineteen corruptions these seven make
sense on 8 x 8 pixels: the other blurs, weathers and warps have radii of several
pixels, fog needs a map of 32 x 32, saturation a colour.
"""

import numpy as np
from scipy import ndimage

# name -> parameter at severity 1..5
SEVERITIES = {
  'gaussian_noise': (0.04, 0.06, 0.08, 0.09, 0.10),
  'shot_noise': (500, 250, 100, 75, 50),
  'impulse_noise': (0.01, 0.02, 0.03, 0.05, 0.07),
  'speckle_noise': (0.06, 0.10, 0.12, 0.16, 0.20),
  'gaussian_blur': (0.4, 0.6, 0.7, 0.8, 1.0),
  'brightness': (0.05, 0.10, 0.15, 0.20, 0.30),
  'contrast': (0.75, 0.50, 0.40, 0.30, 0.15),
}
NUM_SEVERITIES = 5


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
  return ndimage.gaussian_filter(x, c, mode='nearest')


def _brightness(x, rng, c):
  del rng
  return x + c  # of a grey pixel HSV's value is its level


def _contrast(x, rng, c):
  del rng
  return (x - x.mean()) * c + x.mean()


_FUNCTIONS = {
  'gaussian_noise': _gaussian_noise,
  'shot_noise': _shot_noise,
  'impulse_noise': _impulse_noise,
  'speckle_noise': _speckle_noise,
  'gaussian_blur': _gaussian_blur,
  'brightness': _brightness,
  'contrast': _contrast,
}


def corrupt(
  image: np.ndarray, corruption: str, *, severity: int, seed: tuple[int, ...]
) -> np.ndarray:
  """A corrupted copy of a grey image; a function of its arguments alone.

  Args:
    image: uint8 [H, W].
    corruption: a key of `SEVERITIES`.
    severity: 1 to 5.
    seed: of the noise, e.g. (number of the image,).

  Returns:
    uint8 [H, W].

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
