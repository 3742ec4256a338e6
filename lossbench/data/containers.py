"""Image files that decoding would not do justice to."""

import tensorflow as tf

_SIGNATURE = 8  # bytes of a PNG before its first chunk
_WITH_ALPHA = (b'\x04', b'\x06')  # colour types of PNG
_BIG_ENDIAN = (2**24, 2**16, 2**8, 1)


def _chunks_before_pixels(png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Whether a PNG has chunks tRNS and acTL, which must come before its pixels.

  From chunk to chunk, by their lengths: metadata of any size may precede them, and
  spell any name.

  Args:
    png: scalar string; has neither if it is shorter than a chunk.
  """
  size = tf.cast(tf.strings.length(png), tf.int64)
  padded = tf.strings.join([png, b'\0' * 8])  # so that substr is in range

  def kind_at(first):
    return tf.strings.substr(padded, tf.minimum(first, size) + 4, 4)

  def goes_on(first, transparent, animated):
    del transparent, animated
    return (first < size) & (kind_at(first) != b'IDAT')

  def step(first, transparent, animated):
    length = tf.io.decode_raw(tf.strings.substr(padded, first, 4), tf.uint8)
    length = tf.reduce_sum(tf.cast(length, tf.int64) * _BIG_ENDIAN)
    kind = kind_at(first)
    return (
      first + length + 12,  # length, name and checksum of a chunk have 4 each
      transparent | (kind == b'tRNS'),
      animated | (kind == b'acTL'),
    )

  start = (
    tf.constant(_SIGNATURE, tf.int64),
    tf.constant(False),
    tf.constant(False),
  )
  _, transparent, animated = tf.while_loop(goes_on, step, start)
  return transparent, animated


def check_container(image_bytes: tf.Tensor) -> tf.Tensor:
  """The encoded image, unless decoding it to RGB would lose something.

  A file is what its first bytes say, whatever it is called. Grey, palette and
  CMYK images become RGB without loss; transparency and further frames do not.

  Args:
    image_bytes: scalar string.

  Raises:
    tf.errors.InvalidArgumentError: if it is neither JPEG nor PNG, or a PNG with
      an alpha channel or with frames; says which.
  """
  # Longer than a header, so that there is a colour type.
  head = tf.strings.join([tf.strings.substr(image_bytes, 0, 32), b'\0' * 32])
  is_png = tf.strings.substr(head, 0, 4) == b'\x89PNG'
  has_alpha, is_animated = _chunks_before_pixels(
    tf.where(is_png, image_bytes, b'')
  )
  colour_type = tf.strings.substr(head, 25, 1)
  for alpha in _WITH_ALPHA:
    has_alpha |= is_png & (colour_type == alpha)
  checks = (
    (~(is_png | tf.io.is_jpeg(image_bytes)), 'it is neither JPEG nor PNG.'),
    (
      has_alpha,
      'it has an alpha channel or transparent colours, which would be lost.',
    ),
    (
      is_animated,
      'it is animated: keep one frame of it.',
    ),
  )
  with tf.control_dependencies(
    [
      tf.debugging.assert_equal(is_bad, False, message=message)
      for is_bad, message in checks
    ]
  ):
    return tf.identity(image_bytes)
