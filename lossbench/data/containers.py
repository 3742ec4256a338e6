"""Image files that decoding would not do justice to."""

import tensorflow as tf

HEAD = 65536  # bytes in which what precedes the pixels of a PNG ends
_WITH_ALPHA = (b'\x04', b'\x06')  # colour types of PNG


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
  head = tf.strings.substr(image_bytes, 0, HEAD)
  head = tf.strings.join([head, b'\0' * 32])  # of files shorter than a header
  is_png = tf.strings.substr(head, 0, 4) == b'\x89PNG'
  colour_type = tf.strings.substr(head, 25, 1)
  # The pixels, among which any letters may stand; \C is a byte of any value.
  chunks = tf.strings.regex_replace(head, rb'IDAT\C*', b'')
  has_alpha = tf.strings.regex_full_match(chunks, rb'\C*tRNS\C*')
  for alpha in _WITH_ALPHA:
    has_alpha |= colour_type == alpha
  is_animated = tf.strings.regex_full_match(chunks, rb'\C*acTL\C*')
  checks = (
    (~(is_png | tf.io.is_jpeg(image_bytes)), 'it is neither JPEG nor PNG.'),
    (
      is_png & has_alpha,
      'it has an alpha channel or transparent colours, which would be lost.',
    ),
    (
      is_png & is_animated,
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
