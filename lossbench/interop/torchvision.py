"""Networks of torchvision: a state dictionary, .pth or .safetensors.

The file does not say how its images were prepared, so --weights does, by
torchvision's own name: the shorter side becomes 256 (of IMAGENET1K_V2 232, of
Inception v3 342), bilinear with antialiasing, and the centre of 224 (299) is
kept. Inception's `transform_input` takes an input in ImageNet's mean and standard
deviation to one in 0.5 and 0.5; here pixels are put there at once.
"""

from typing import Any

from lossbench.interop import imagenet
from lossbench.interop.formats import Source
from lossbench.interop.recognising import ARCHITECTURES
from lossbench.interop.tensor_files import find_file
from lossbench.interop.torch_source import open_torch_source

# Weights, the choices of `formats` -> architecture -> (side after the resize, side
# of the crop).
_SIDES = {
  'IMAGENET1K_V1': {
    name: (342, 299) if name == 'inception_v3' else (256, 224)
    for name in ARCHITECTURES
  },
  'IMAGENET1K_V2': {
    name: (232, 224) for name in ('resnet50', 'resnet101', 'resnet152')
  },
}


def open_source(
  path: str, *, weights: str, dataset: str | None = None
) -> Source:
  """Opens a checkpoint; see `lossbench.interop.formats.Format.open_source`.

  Args:
    path: a file.
    weights: which of torchvision's, for how its images are prepared.
    dataset: whose classes the network's are; None for ImageNet's.
  """
  image_fields = {
    architecture: _image_fields(architecture, *sides)
    for architecture, sides in _SIDES[weights].items()
  }
  return open_torch_source(find_file(path), image_fields, dataset=dataset)


def _image_fields(architecture: str, resized: int, side: int) -> dict[str, Any]:
  transforms_input = architecture == 'inception_v3'
  return {
    'image_size': side,
    'resize_ratio': resized / side,
    'eval_crop': 'resize_then_crop',
    'resize_method': 'bilinear',
    'resize_antialias': True,
    'eval_pixels': 'uint8',
    'pixel_mean': (0.5,) * 3 if transforms_input else imagenet.MEAN,
    'pixel_std': (0.5,) * 3 if transforms_input else imagenet.STD,
  }
