"""Crops of images on the host, in TensorFlow, from encoded bytes to pixels.

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

RESIZE_METHODS = ('bilinear', 'bicubic', 'bicubic_tf1')


def resize(
  image: tf.Tensor,
  size: tuple[int, int] | tf.Tensor,
  *,
  method: str = 'bilinear',
  antialias: bool = False,
) -> tf.Tensor:
  """An image resized by one of `RESIZE_METHODS`.

  'bilinear' and 'bicubic' (Keys 1981, a = -1/2, weights renormalised at the
  edges) sample at pixel centres, as `tf.image.resize` of TensorFlow 2 does.
  'bicubic_tf1' is `tf.image.resize_bicubic` of TensorFlow 1, with which the
  networks of the study were trained: a = -3/4, edges repeated, and output pixel
  i is read at i * scale, so that the image moves by up to half a pixel.

  Args:
    image: [H, W, C], uint8 or float32.
    size: (height, width) of the result.
    method: one of `RESIZE_METHODS`.
    antialias: widen the kernel where the image shrinks, as Pillow does; no
      option of 'bicubic_tf1'.

  Returns:
    float32 [height, width, C]; bicubic results may overshoot the range of the
    pixels.

  Raises:
    ValueError: if the method is unknown or has no antialiasing.
  """
  if method not in RESIZE_METHODS:
    raise ValueError(
      f'Unknown resize method {method!r}. Known: {", ".join(RESIZE_METHODS)}.'
    )
  if antialias and method == 'bicubic_tf1':
    raise ValueError("Resize method 'bicubic_tf1' cannot antialias.")
  # The kernels would convert a pixel as often as they read it.
  image = tf.cast(image, tf.float32)
  if method == 'bicubic_tf1':
    return tf.raw_ops.ResizeBicubic(
      images=image[tf.newaxis],
      size=size,
      align_corners=False,
      half_pixel_centers=False,
    )[0]
  return tf.image.resize(image, size, method=method, antialias=antialias)


def _to_uint8(image: tf.Tensor) -> tf.Tensor:
  """Rounds to whole grey levels; what bicubic overshoots is clipped."""
  return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


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
  method: str = 'bilinear',
  antialias: bool = False,
) -> tf.Tensor:
  """A random window of an encoded image, resized to a square.

  The window is `sample_window`'s, and only it is decoded.

  Args:
    image_bytes: scalar string, JPEG (RGB, grey or CMYK), PNG, BMP or GIF.
    seed: [2] int32 or int64, for `tf.random.stateless_*`.
    size: side of the result in pixels.
    area_range: of the window, as a fraction of the image's area.
    aspect_range: of the window, width / height.
    method: of `resize`.
    antialias: of `resize`.

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

  image = _decode_window(image_bytes, window_fn)
  return _to_uint8(
    resize(image, (size, size), method=method, antialias=antialias)
  )


def center_crop(
  image_bytes: tf.Tensor,
  *,
  size: int,
  resize_ratio: float = 256 / 224,
  method: str = 'bilinear',
  antialias: bool = False,
  rounded: bool = True,
) -> tf.Tensor:
  """The central square of an encoded image, resized, for evaluation.

  The square has 1 / resize_ratio of the shorter side, rounded to whole pixels
  of the original (half to even), and an odd pixel that is left over lies below
  and to the right of it. So does the released code of the study, with 0.875 of
  the shorter side; Inception keeps the same share at 299. Only the square is
  decoded.

  Args:
    image_bytes: scalar string, JPEG (RGB, grey or CMYK), PNG, BMP or GIF.
    size: side of the result in pixels.
    resize_ratio: shorter side of the image / side of the square, at least 1; 1
      keeps the whole shorter side.
    method: of `resize`.
    antialias: of `resize`.
    rounded: to whole grey levels.

  Returns:
    [size, size, 3]: uint8, or of `rounded` False what `resize` returns.

  Raises:
    ValueError: if resize_ratio < 1.
  """
  _check_resize_ratio(resize_ratio)

  def window_fn(height, width):
    return _central_square(height, width, 1 / resize_ratio)

  image = _decode_window(image_bytes, window_fn)
  resized = resize(image, (size, size), method=method, antialias=antialias)
  return _to_uint8(resized) if rounded else resized


def resize_then_crop(
  image_bytes: tf.Tensor,
  *,
  size: int,
  resize_ratio: float = 256 / 224,
  method: str = 'bilinear',
  antialias: bool = False,
  rounded: bool = True,
) -> tf.Tensor:
  """The centre of an encoded image after its resize, for evaluation.

  torchvision's `Resize` and `CenterCrop`, and timm's: the shorter side becomes
  round(size * resize_ratio), the longer one follows, rounded down, and the
  central size x size is kept. `center_crop` sees the same part of the image,
  in other whole pixels, and decodes less.

  Args:
    image_bytes: scalar string, JPEG (RGB, grey or CMYK), PNG, BMP or GIF.
    size: side of the result in pixels.
    resize_ratio: shorter side of the resized image / `size`, at least 1.
    method: of `resize`.
    antialias: of `resize`.
    rounded: to whole grey levels.

  Returns:
    [size, size, 3]: uint8, or of `rounded` False what `resize` returns.

  Raises:
    ValueError: if resize_ratio < 1.
  """
  _check_resize_ratio(resize_ratio)
  shorter = round(size * resize_ratio)
  image = _decode_window(
    image_bytes, lambda height, width: tf.stack([0, 0, height, width])
  )
  sides = tf.shape(image)[:2]
  target = shorter * sides // tf.reduce_min(sides)
  resized = resize(image, target, method=method, antialias=antialias)
  # Halves to even, as Python and so torchvision rounds them.
  top, left = tf.unstack(tf.cast(tf.round((target - size) / 2), tf.int32))
  crop = resized[top : top + size, left : left + size]
  return tf.ensure_shape(_to_uint8(crop) if rounded else crop, (size, size, 3))


def _check_resize_ratio(resize_ratio):
  if resize_ratio < 1:
    raise ValueError(
      f'resize_ratio must be at least 1, got {resize_ratio}: the crop would '
      'be larger than the image.'
    )


def _central_square(height, width, fraction):
  """Window [4] of `fraction` of the shorter side."""
  shorter = tf.cast(tf.minimum(height, width), tf.float32)
  side = tf.maximum(1, tf.cast(tf.round(shorter * fraction), tf.int32))
  return tf.stack(
    [(height - side + 1) // 2, (width - side + 1) // 2, side, side]
  )


def _decode_window(image_bytes: tf.Tensor, window_fn: _WindowFn) -> tf.Tensor:
  """Decodes a window of an image, uint8 [height, width, 3].

  Decoding at 1/2 of the side in the DCT, where the window allows it, was tried:
  no faster at 224 (Huffman decoding dominates), and further from an antialiased
  resize than a plain one is (5.4 grey levels against 4.0).

  Args:
    image_bytes: scalar string.
    window_fn: chooses the window.
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
  return tf.ensure_shape(image, (None, None, 3))


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
