"""AutoAugment (Cubuk et al. 2019, arXiv:1805.09501) of decoded images.

Policies: the 25 sub-policies of the paper's appendix, found on ImageNet (its
table 'AutoAugment policy found on reduced ImageNet', of which five are
repeats) and on CIFAR-10 ('... reduced CIFAR-10').

Levels: magnitudes 0-10 become arguments, integers rounded down, as in
  imagenet: the paper's table of operations and their ranges (Posterize: "Reduce
    the number of bits for each pixel to magnitude bits", 4-8; Solarize: "Invert
    all pixels above a threshold value of magnitude", 0-256), which timm's
    `auto_augment_policy_original` takes for the same sub-policies
  cifar: tensorflow/models, research/autoaugment/augmentation_transforms.py, the
    code that was released for this policy
The two differ in Posterize and Solarize, which grow weaker with the magnitude
on ImageNet and stronger on CIFAR, whose code keeps 4-0 bits. (So does, rising,
tensorflow/tpu's EfficientNet; but that is the code of another policy, 'v0'.)

Operations give the very pixels of Pillow's (`ImageOps`, `ImageEnhance`,
`Image.transform` and `Image.rotate` with nearest neighbours); what comes from
outside of the image is grey, 128, as in the ImageNet code. (The CIFAR code
fills in the mean of the data set after normalisation.)
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf

_FILL = 128

# (operation, probability, magnitude), twice
_SubPolicy = tuple[tuple[str, float, int], tuple[str, float, int]]

_IMAGENET: tuple[_SubPolicy, ...] = (
  (('Posterize', 0.4, 8), ('Rotate', 0.6, 9)),
  (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
  (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
  (('Posterize', 0.6, 7), ('Posterize', 0.6, 6)),
  (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
  (('Equalize', 0.4, 4), ('Rotate', 0.8, 8)),
  (('Solarize', 0.6, 3), ('Equalize', 0.6, 7)),
  (('Posterize', 0.8, 5), ('Equalize', 1.0, 2)),
  (('Rotate', 0.2, 3), ('Solarize', 0.6, 8)),
  (('Equalize', 0.6, 8), ('Posterize', 0.4, 6)),
  (('Rotate', 0.8, 8), ('Color', 0.4, 0)),
  (('Rotate', 0.4, 9), ('Equalize', 0.6, 2)),
  (('Equalize', 0.0, 7), ('Equalize', 0.8, 8)),
  (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
  (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
  (('Rotate', 0.8, 8), ('Color', 1.0, 2)),
  (('Color', 0.8, 8), ('Solarize', 0.8, 7)),
  (('Sharpness', 0.4, 7), ('Invert', 0.6, 8)),
  (('ShearX', 0.6, 5), ('Equalize', 1.0, 9)),
  (('Color', 0.4, 0), ('Equalize', 0.6, 3)),
  (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
  (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
  (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
  (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
  (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
)

_CIFAR: tuple[_SubPolicy, ...] = (
  (('Invert', 0.1, 7), ('Contrast', 0.2, 6)),
  (('Rotate', 0.7, 2), ('TranslateX', 0.3, 9)),
  (('Sharpness', 0.8, 1), ('Sharpness', 0.9, 3)),
  (('ShearY', 0.5, 8), ('TranslateY', 0.7, 9)),
  (('AutoContrast', 0.5, 8), ('Equalize', 0.9, 2)),
  (('ShearY', 0.2, 7), ('Posterize', 0.3, 7)),
  (('Color', 0.4, 3), ('Brightness', 0.6, 7)),
  (('Sharpness', 0.3, 9), ('Brightness', 0.7, 9)),
  (('Equalize', 0.6, 5), ('Equalize', 0.5, 1)),
  (('Contrast', 0.6, 7), ('Sharpness', 0.6, 5)),
  (('Color', 0.7, 7), ('TranslateX', 0.5, 8)),
  (('Equalize', 0.3, 7), ('AutoContrast', 0.4, 8)),
  (('TranslateY', 0.4, 3), ('Sharpness', 0.2, 6)),
  (('Brightness', 0.9, 6), ('Color', 0.2, 8)),
  (('Solarize', 0.5, 2), ('Invert', 0.0, 3)),
  (('Equalize', 0.2, 0), ('AutoContrast', 0.6, 0)),
  (('Equalize', 0.2, 8), ('Equalize', 0.6, 4)),
  (('Color', 0.9, 9), ('Equalize', 0.6, 6)),
  (('AutoContrast', 0.8, 4), ('Solarize', 0.2, 8)),
  (('Brightness', 0.1, 3), ('Color', 0.7, 0)),
  (('Solarize', 0.4, 5), ('AutoContrast', 0.9, 3)),
  (('TranslateY', 0.9, 9), ('TranslateY', 0.7, 9)),
  (('AutoContrast', 0.9, 2), ('Solarize', 0.8, 3)),
  (('Equalize', 0.8, 8), ('Invert', 0.1, 3)),
  (('TranslateY', 0.7, 9), ('AutoContrast', 0.9, 1)),
)

POLICIES: dict[str, tuple[_SubPolicy, ...]] = {
  'imagenet': _IMAGENET,
  'cifar': _CIFAR,
}


def _enhance_factor(magnitude: int) -> float:
  return magnitude / 10 * 1.8 + 0.1


_COMMON_LEVELS: dict[str, Callable[[int], float]] = {
  'ShearX': lambda magnitude: magnitude / 10 * 0.3,
  'ShearY': lambda magnitude: magnitude / 10 * 0.3,
  'Rotate': lambda magnitude: magnitude / 10 * 30,  # degrees
  'Color': _enhance_factor,
  'Contrast': _enhance_factor,
  'Brightness': _enhance_factor,
  'Sharpness': _enhance_factor,
  'AutoContrast': lambda magnitude: 0.0,
  'Equalize': lambda magnitude: 0.0,
  'Invert': lambda magnitude: 0.0,
}
# Posterize: bits kept. Solarize: values from here on are inverted.
_LEVELS: dict[str, dict[str, Callable[[int], float]]] = {
  'imagenet': {
    **_COMMON_LEVELS,
    'Posterize': lambda magnitude: 4 + magnitude * 4 // 10,
    'Solarize': lambda magnitude: magnitude * 256 // 10,
  },
  'cifar': {
    **_COMMON_LEVELS,
    'Posterize': lambda magnitude: 4 - magnitude * 4 // 10,
    'Solarize': lambda magnitude: 256 - magnitude * 256 // 10,
    'TranslateX': float,  # pixels, of 32
    'TranslateY': float,
  },
}
# Their level is negated with probability 1/2.
_SIGNED = ('ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate')


def level_of(operation: str, magnitude: int, *, policy: str) -> float:
  """The argument that a policy's code gives an operation at a magnitude.

  Args:
    operation: a key of `OPERATIONS`.
    magnitude: 0-10.
    policy: a key of `POLICIES`.

  Returns:
    Before the random sign: of ShearX, ShearY a slope; of TranslateX,
    TranslateY pixels; of Rotate degrees; of Posterize bits kept; of Solarize
    a threshold; of Color, Contrast, Brightness, Sharpness the factor of
    Pillow's `ImageEnhance`; of others 0, which they ignore.

  Raises:
    ValueError: if the policy's code has no such operation or policy.
  """
  levels = _LEVELS[_known_policy(policy)]
  if operation not in levels:
    raise ValueError(
      f'Policy {policy!r} has no level of {operation!r}. Known: '
      f'{", ".join(sorted(levels))}.'
    )
  return float(levels[operation](magnitude))


def autoaugment(image: tf.Tensor, seed: tf.Tensor, *, policy: str) -> tf.Tensor:
  """Applies a random one of a policy's sub-policies.

  Args:
    image: uint8 [H, W, 3]; H and W below 32768.
    seed: [2] int32 or int64, for `tf.random.stateless_*`; the result is a
      function of the image and the seed.
    policy: 'imagenet' or 'cifar'.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: if the policy is unknown.
  """
  operations, levels = sample_operations(seed, policy=policy)
  result = image
  for position in range(2):
    result = apply_operation(result, operations[position], levels[position])
  return tf.ensure_shape(result, image.shape)


def sample_operations(
  seed: tf.Tensor, *, policy: str
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws what `autoaugment` does: sub-policy, which operations, signs.

  Args:
    seed: [2] int32 or int64, for `tf.random.stateless_*`.
    policy: 'imagenet' or 'cifar'.

  Returns:
    The two operations, int32 [2], as positions in `OPERATIONS`, 0 (identity)
    for one that is not applied; and their signed levels, float64 [2].

  Raises:
    ValueError: if the policy is unknown.
  """
  rows = POLICIES[_known_policy(policy)]
  names = list(OPERATIONS)
  operations = [[names.index(name) for name, _, _ in row] for row in rows]
  probabilities = [[probability for _, probability, _ in row] for row in rows]
  levels = [
    [level_of(name, magnitude, policy=policy) for name, _, magnitude in row]
    for row in rows
  ]
  signed = [[name in _SIGNED for name, _, _ in row] for row in rows]

  uniform = tf.random.stateless_uniform([5], seed)  # in [0, 1)
  chosen = tf.cast(uniform[0] * len(rows), tf.int32)
  applied = uniform[1:3] < tf.gather(
    tf.constant(probabilities, tf.float32), chosen
  )
  negated = (uniform[3:5] < 0.5) & tf.gather(tf.constant(signed), chosen)
  level = tf.gather(tf.constant(levels, tf.float64), chosen)
  return (
    tf.where(applied, tf.gather(tf.constant(operations), chosen), 0),
    tf.where(negated, -level, level),
  )


def apply_operation(
  image: tf.Tensor, operation: tf.Tensor, level: tf.Tensor
) -> tf.Tensor:
  """Applies one operation; on a graph only that one is executed.

  Args:
    image: uint8 [H, W, 3].
    operation: scalar int32, a position in `OPERATIONS`.
    level: scalar float64, as `level_of` says.

  Returns:
    uint8 [H, W, 3].
  """
  return tf.switch_case(
    operation,
    [functools.partial(fn, image, level) for fn in OPERATIONS.values()],
  )


def _known_policy(policy: str) -> str:
  if policy not in POLICIES:
    raise ValueError(
      f'Unknown AutoAugment policy {policy!r}. Known: '
      f'{", ".join(sorted(POLICIES))}.'
    )
  return policy


def _affine(image, matrix):
  """Pillow's transform(AFFINE, NEAREST): output (x, y) -> input, row by row.

  Pillow steps in fixed point with 16 binary places, which decides every tie;
  TensorFlow's ImageProjectiveTransformV3 computes in float32 and would
  differ there.

  Args:
    image: uint8 [H, W, 3].
    matrix: six float64 scalars a, b, c, d, e, f:
      x' = a x + b y + c, y' = d x + e y + f at pixel centres.

  Returns:
    uint8 [H, W, 3].
  """

  def source(along_x, along_y, constant):  # int32 [H, W]
    start = constant + 0.5 * along_x + 0.5 * along_y
    along_x, along_y, start = (
      tf.cast(tf.floor(value * 65536.0 + 0.5), tf.int32)
      for value in (along_x, along_y, start)
    )
    return tf.bitwise.right_shift(
      tf.range(width) * along_x
      + (tf.range(height) * along_y + start)[:, tf.newaxis],
      16,
    )

  height, width = tf.shape(image)[0], tf.shape(image)[1]
  a, b, c, d, e, f = (tf.cast(value, tf.float64) for value in matrix)
  x, y = source(a, b, c), source(d, e, f)
  inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  pixels = tf.concat(
    [tf.reshape(image, [-1, 3]), tf.fill([1, 3], tf.constant(_FILL, tf.uint8))],
    axis=0,
  )
  return tf.gather(pixels, tf.where(inside, y * width + x, height * width))


def _shear_x(image, level):
  return _affine(image, (1, level, 0, 0, 1, 0))


def _shear_y(image, level):
  return _affine(image, (1, 0, 0, level, 1, 0))


def _translate_x(image, level):
  return _affine(image, (1, 0, level, 0, 1, 0))


def _translate_y(image, level):
  return _affine(image, (1, 0, 0, 0, 1, level))


def _rotate(image, level):
  """Anticlockwise by `level` degrees about the centre."""
  angle = -level * (math.pi / 180)
  cos, sin = tf.cos(angle), tf.sin(angle)
  centre_x = tf.cast(tf.shape(image)[1], tf.float64) / 2
  centre_y = tf.cast(tf.shape(image)[0], tf.float64) / 2
  return _affine(
    image,
    (
      cos,
      sin,
      centre_x - cos * centre_x - sin * centre_y,
      -sin,
      cos,
      centre_y + sin * centre_x - cos * centre_y,
    ),
  )


def _channel_bins(image):
  """int32 [H, W * 3]: 256 * channel + value."""
  height, width = tf.shape(image)[0], tf.shape(image)[1]
  # Adding [3] to [H, W, 3] would take three times as long.
  offsets = tf.tile(tf.constant([0, 256, 512]), [width])
  return tf.cast(tf.reshape(image, [height, width * 3]), tf.int32) + offsets


def _look_up(image, table):
  """Maps values of each channel by a table [3, 256]."""
  table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
  return tf.reshape(tf.gather(table, _channel_bins(image)), tf.shape(image))


def _auto_contrast(image, level):
  del level
  low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)[:, tf.newaxis]
  high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)[:, tf.newaxis]
  value = tf.range(256, dtype=tf.float64)
  scale = 255.0 / tf.maximum(high - low, 1.0)
  stretched = tf.clip_by_value(value * scale - low * scale, 0.0, 255.0)
  return _look_up(image, tf.where(high > low, stretched, value))  # [3, 256]


def _equalize(image, level):
  del level
  counts = tf.math.bincount(
    tf.reshape(_channel_bins(image), [-1]), minlength=768, maxlength=768
  )
  counts = tf.reshape(counts, [3, 256])
  value = tf.range(256)
  brightest = tf.reduce_max(tf.where(counts > 0, value, 0), axis=1)
  step = (
    tf.reduce_sum(counts, axis=1)
    - tf.gather(counts, brightest, axis=1, batch_dims=1)
  ) // 255
  step = step[:, tf.newaxis]
  below = tf.cumsum(counts, axis=1, exclusive=True)
  equalized = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
  return _look_up(image, tf.where(step > 0, equalized, value))


def _invert(image, level):
  del level
  return 255 - image


def _solarize(image, level):
  # In int16, as the threshold may be 256. x ^ 255 = 255 - x, and quicker
  # than a selection.
  inverted = tf.cast(image, tf.int16) >= tf.cast(level, tf.int16)
  return tf.bitwise.bitwise_xor(image, tf.cast(inverted, tf.uint8) * 255)


def _posterize(image, level):
  dropped_bits = 8 - tf.cast(level, tf.int32)
  mask = 256 - tf.bitwise.left_shift(1, dropped_bits)
  return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def _blend(degenerate, image, factor):
  """Pillow's Image.blend: float32, towards zero."""
  degenerate = tf.cast(degenerate, tf.float32)
  blended = degenerate + tf.cast(factor, tf.float32) * (
    tf.cast(image, tf.float32) - degenerate
  )
  return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _luma(image):
  """Pillow's convert('L'), int32 [H, W, 1]."""
  red, green, blue = tf.split(tf.cast(image, tf.int32), 3, axis=-1)
  return tf.bitwise.right_shift(
    red * 19595 + green * 38470 + blue * 7471 + 32768, 16
  )


def _color(image, level):
  return _blend(_luma(image), image, level)


def _contrast(image, level):
  luma = tf.cast(_luma(image), tf.int64)  # a sum may pass 2^31
  mean = tf.reduce_sum(luma) / tf.size(luma, out_type=tf.int64)
  return _blend(tf.floor(mean + 0.5), image, level)


def _brightness(image, level):
  return _blend(0.0, image, level)


def _sharpness(image, level):
  """Towards (or away from) the smoothing kernel [1 1 1, 1 5 1, 1 1 1] / 13.

  Pillow leaves the outermost pixels alone.
  """
  # Integers of at most 13 * 255: float32 has them exactly, and is faster.
  values = tf.cast(image, tf.float32)
  rows = values[:-2] + values[1:-1] + values[2:]
  total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
  total += 4 * values[1:-1, 1:-1]
  smooth = tf.floor((2 * total + 13) / 26)
  inner = _blend(smooth, image[1:-1, 1:-1], level)
  middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
  return tf.concat([image[:1], middle, image[-1:]], axis=0)


OPERATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
  'Identity': lambda image, level: tf.identity(image),
  'ShearX': _shear_x,
  'ShearY': _shear_y,
  'TranslateX': _translate_x,
  'TranslateY': _translate_y,
  'Rotate': _rotate,
  'AutoContrast': _auto_contrast,
  'Invert': _invert,
  'Equalize': _equalize,
  'Solarize': _solarize,
  'Posterize': _posterize,
  'Contrast': _contrast,
  'Color': _color,
  'Brightness': _brightness,
  'Sharpness': _sharpness,
}
