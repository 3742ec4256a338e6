"""Crops of images on the host, in TensorFlow, from encoded bytes to uint8.

Randomness is stateless: a crop is a function of (image, seed). Nothing is
normalised here; uint8 is a quarter of the traffic of float32 and the devices
scale it for free.
"""

from collections.abc import Callable

import tensorflow as tf

_SAMPLING_ATTEMPTS = 10
# Of the shorter side, where no window of the wanted shape was found.
_FALLBACK_FRACTION = 224 / 256

# (height, width) int32 -> window int32 [4]: top, left, height, width
_WindowFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def sample_window(
  height: tf.Tensor,
  width: tf.Tensor,
  seed: tf.Tensor,
  *,
  area_range: tuple[float, float] = (0.1, 1.0),
  aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
  """A random window of an image, as `random_resized_crop` draws it.

  From `tf.image.stateless_sample_distorted_bounding_box`: aspect uniform in
  its range, then the HEIGHT uniform among those that keep the area in its
  range (Szegedy et al. 2015, Inception; torchvision draws the area uniformly
  instead). Where ten attempts find none, as in an image 14 times longer than
  wide, it is the central square of 224/256 of the shorter side.

  Args:
    height: of the image, scalar int32.
    width: of the image, scalar int32.
    seed: [2] int32 or int64, for `tf.random.stateless_*`.
    area_range: of the window, as a fraction of the image's area.
    aspect_range: of the window, width / height.

  Returns:
    int32 [4]: top, left, height, width.
  """
  begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
    tf.stack([height, width, 3]),
    bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    seed=seed,
    # The box is the whole image: area_range alone says how much of it.
    min_object_covered=0.0,
    aspect_ratio_range=aspect_range,
    area_range=area_range,
    max_attempts=_SAMPLING_ATTEMPTS,
  )
  window = tf.concat([begin[:2], extent[:2]], axis=0)
  # The op answers a failed search with the whole image.
  aspect = tf.cast(width, tf.float32) / tf.cast(height, tf.float32)
  failed = tf.reduce_all(window[2:] == [height, width]) & (
    (aspect < aspect_range[0]) | (aspect > aspect_range[1])
  )
  return tf.where(
    failed, _central_square(height, width, _FALLBACK_FRACTION), window
  )


def random_resized_crop(
  image_bytes: tf.Tensor,
  seed: tf.Tensor,
  *,
  size: int,
  area_range: tuple[float, float] = (0.1, 1.0),
  aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
  """A random window of an encoded image, resized to a square.

  The window is `sample_window`'s, and only it is decoded.

  Args:
    image_bytes: scalar string, JPEG (RGB, grey or CMYK), PNG, BMP or GIF.
    seed: [2] int32 or int64, for `tf.random.stateless_*`.
    size: side of the result in pixels.
    area_range: of the window, as a fraction of the image's area.
    aspect_range: of the window, width / height.

  Returns:
    uint8 [size, size, 3].
  """

  def window_fn(height, width):
    return sample_window(
      height,
      width,
      seed,
      area_range=area_range,
      aspect_range=aspect_range,
    )

  return _decode_and_resize(image_bytes, window_fn, size=size)


def center_crop(
  image_bytes: tf.Tensor,
  *,
  size: int,
  resize_ratio: float = 256 / 224,
) -> tf.Tensor:
  """The central square of an encoded image, for evaluation.

  The same as resizing the shorter side to size * resize_ratio and cropping
  the central size x size, except that only the window is decoded and that it
  is rounded to whole pixels of the original, which shifts the result by at
  most one of them. 224 with the default ratio is the usual "256, then 224";
  299 keeps the same 0.875 of the shorter side, as Inception does.

  Args:
    image_bytes: scalar string, JPEG (RGB, grey or CMYK), PNG, BMP or GIF.
    size: side of the result in pixels.
    resize_ratio: shorter side of the resized image / `size`, at least 1; 1
      keeps the whole shorter side.

  Returns:
    uint8 [size, size, 3].

  Raises:
    ValueError: if resize_ratio < 1.
  """
  if resize_ratio < 1:
    raise ValueError(
      f'resize_ratio must be at least 1, got {resize_ratio}: the crop would '
      'be larger than the image.'
    )

  def window_fn(height, width):
    return _central_square(height, width, 1 / resize_ratio)

  return _decode_and_resize(image_bytes, window_fn, size=size)


def _central_square(height, width, fraction):
  """Window [4] of `fraction` of the shorter side."""
  shorter = tf.cast(tf.minimum(height, width), tf.float32)
  side = tf.maximum(1, tf.cast(tf.round(shorter * fraction), tf.int32))
  return tf.stack([(height - side) // 2, (width - side) // 2, side, side])


def _decode_and_resize(
  image_bytes: tf.Tensor, window_fn: _WindowFn, *, size: int
) -> tf.Tensor:
  """Decodes a window and resizes it to a square.

  The resize is bilinear at pixel centres without antialiasing: what most
  ImageNet pipelines in TensorFlow do, and the quickest of TensorFlow's by far.
  Its values lie between those of the pixels, so that rounding is all that
  uint8 needs. Decoding at 1/2 of the side in the DCT, where the window allows
  it, was tried: no faster at 224 (Huffman decoding dominates), and further
  from an antialiased resize than this is (5.4 grey levels against 4.0).

  Args:
    image_bytes: scalar string.
    window_fn: chooses the window.
    size: side of the result in pixels.

  Returns:
    uint8 [size, size, 3].
  """

  def decode_jpeg_window():
    shape = tf.io.extract_jpeg_shape(image_bytes)
    return tf.io.decode_and_crop_jpeg(
      image_bytes, window_fn(shape[0], shape[1]), channels=3
    )

  def decode_other_window():
    image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    top, left, height, width = tf.unstack(
      window_fn(tf.shape(image)[0], tf.shape(image)[1])
    )
    return image[top : top + height, left : left + width]

  # ImageNet's training set holds one PNG among its JPEGs.
  image = tf.cond(
    tf.io.is_jpeg(image_bytes), decode_jpeg_window, decode_other_window
  )
  image = tf.ensure_shape(image, (None, None, 3))
  image = tf.image.resize(image, (size, size), method='bilinear')
  return tf.cast(tf.round(image), tf.uint8)


def pad_crop(image: tf.Tensor, seed: tf.Tensor, *, pad: int) -> tf.Tensor:
  """A random crop, of the image's own size, of the image padded with zeros.

  The padding is black, before any normalisation, and all (2 * pad + 1)^2
  crops are equally likely: the usual augmentation of CIFAR with pad = 4.

  Args:
    image: uint8 [H, W, C].
    seed: [2] int32 or int64, for `tf.random.stateless_*`.
    pad: pixels on each side.

  Returns:
    uint8 [H, W, C].
  """
  offset = tf.random.stateless_uniform(
    [2], seed, minval=0, maxval=2 * pad + 1, dtype=tf.int32
  )
  padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
  crop = tf.slice(padded, tf.concat([offset, [0]], axis=0), tf.shape(image))
  return tf.ensure_shape(crop, image.shape)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Mirrors an image left to right with probability 1/2.

  Args:
    image: [H, W, C] of any type.
    seed: [2] int32 or int64, for `tf.random.stateless_*`.

  Returns:
    [H, W, C] of the same type.
  """
  flip = tf.random.stateless_uniform([], seed) < 0.5
  flipped = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
  return tf.ensure_shape(flipped, image.shape)


def pad_crop_flip(
  image: tf.Tensor, seed: tf.Tensor, *, pad: int = 4
) -> tf.Tensor:
  """`pad_crop`, then `random_flip`, with independent draws.

  Args:
    image: uint8 [H, W, C].
    seed: [2] int32 or int64, for `tf.random.stateless_*`.
    pad: pixels of zeros on each side.

  Returns:
    uint8 [H, W, C].
  """
  # The CPU has no kernel for the other algorithm, 'threefry'.
  crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2, alg='philox'))
  return random_flip(pad_crop(image, crop_seed, pad=pad), flip_seed)
