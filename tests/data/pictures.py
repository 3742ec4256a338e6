"""Tiny images in folders, of which every test of folders is made."""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image


def picture(value: int, *, side: int = 8, mode: str = 'L') -> Image.Image:
  """Noise around a grey level, another for each value; in a mode of Pillow's."""
  rng = np.random.default_rng(value)
  grey = np.clip(rng.normal(value % 256, 20, (side, side)), 0, 255)
  return Image.fromarray(grey.astype(np.uint8)).convert(mode)


def write_folders(
  root: pathlib.Path, counts: Mapping[str, int], *, mode: str = 'L'
) -> pathlib.Path:
  """Writes so many PNG images into each of some folders below `root`."""
  value = 0
  for folder, count in counts.items():
    (root / folder).mkdir(parents=True)
    for number in range(count):
      picture(value, mode=mode).save(root / folder / f'{number:03d}.png')
      value += 1
  return root
