"""Which decoding and augmentation a configuration asks of the host."""

import ml_collections
import tensorflow as tf

from lossbench.data import autoaugment, crops

_EVAL_CROPS = {
  'crop_then_resize': crops.center_crop,
  'resize_then_crop': crops.resize_then_crop,
}


def build_eval_image_fn(config: ml_collections.ConfigDict):
  """Encoded bytes -> [image_size, image_size, C], nothing random.

  Of type uint8; of images that are resized it is `eval_pixels`.
  """
  side, channels = config.image_size, len(config.pixel_mean)

  def centre_crop_fn(image_bytes: tf.Tensor) -> tf.Tensor:
    return _EVAL_CROPS[config.eval_crop](
      image_bytes,
      size=side,
      resize_ratio=config.resize_ratio,
      method=config.resize_method,
      antialias=config.resize_antialias,
      rounded=config.eval_pixels == 'uint8',
    )

  def decode_fn(image_bytes: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(
      image_bytes,
      channels=0 if channels == 1 else channels,
      expand_animations=False,
    )
    if channels == 1:
      tf.debugging.assert_equal(
        tf.shape(image)[2],
        1,
        message='it is not grey, as the one value of pixel_mean says.',
      )
    # A record of another size would otherwise fail when it is batched.
    tf.debugging.assert_equal(
      tf.shape(image)[:2],
      [side, side],
      message=f'it does not measure {side} x {side} pixels (image_size).',
    )
    return tf.ensure_shape(image, (side, side, channels))

  return centre_crop_fn if config.resize_images else decode_fn


def build_train_image_fn(config: ml_collections.ConfigDict):
  """(encoded bytes, stateless seed [2]) -> augmented uint8 [H, W, C]."""
  decode_fn = build_eval_image_fn(config)

  def train_image_fn(image_bytes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    crop_seed, flip_seed, policy_seed = tf.unstack(
      tf.random.split(seed, 3), num=3
    )
    if config.resize_images:
      image = crops.random_resized_crop(
        image_bytes,
        crop_seed,
        size=config.image_size,
        method=config.resize_method,
        antialias=config.resize_antialias,
      )
    else:
      image = decode_fn(image_bytes)
      if config.crop_padding:
        image = crops.pad_crop(image, crop_seed, pad=config.crop_padding)
    if config.random_flip:
      image = crops.random_flip(image, flip_seed)
    if config.autoaugment:
      image = autoaugment.autoaugment(
        image, policy_seed, policy=config.autoaugment
      )
    return image

  return train_image_fn
