"""Augmentation and normalisation of images on the devices, in JAX alone.

What happens to an example is a function of the key and of the example's own
id, so that it does not depend on how a batch is split over devices.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, Real, UInt8


def pad_crop_flip(
  images: UInt8[Array, 'b h w c'],
  key: Key[Array, ''],
  example_ids: Int[Array, ' b'],
  *,
  pad: int = 4,
  flip: bool = True,
) -> UInt8[Array, 'b h w c']:
  """Random crops of images padded with zeros, then random mirror images.

  The padding is black, before normalisation; all (2 * pad + 1)^2 crops are
  equally likely. pad=4 with flips is the usual augmentation of CIFAR; pad=1,
  flip=False shifts 8x8 digits by at most one pixel.

  Args:
    images: [B, H, W, C], any dtype.
    key: of the step, the same on every device.
    example_ids: [B], what tells the examples of a step apart, such as their
      positions in the global batch. Example i draws from
      `jax.random.fold_in(key, example_ids[i])`.
    pad: pixels on each side, static; 0 crops nothing.
    flip: mirror left to right with probability 1/2, static.

  Returns:
    [B, H, W, C], of the dtype of `images`.

  Raises:
    ValueError: if pad is negative or there is not one id per image.
  """
  if pad < 0:
    raise ValueError(f'pad must not be negative, got {pad}.')
  if example_ids.shape != images.shape[:1]:
    raise ValueError(
      f'example_ids must have shape {images.shape[:1]}, one id per image, got '
      f'{example_ids.shape}.'
    )

  def augment(image, example_id):
    crop_key, flip_key = jax.random.split(jax.random.fold_in(key, example_id))
    if pad:
      padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
      top, left = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
      image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
    if flip:
      image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    return image

  return jax.vmap(augment)(images, example_ids)


def normalize(
  images: Real[Array, '*b h w c'],
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  downscale: int = 1,
  dtype: DTypeLike = jnp.float32,
) -> Float[Array, '*b h2 w2 c']:
  """(images / 255 - mean) / std, and means of squares, computed in float32.

  Args:
    images: [..., H, W, C], grey levels from 0 to 255.
    mean: per channel, of pixels in [0, 1].
    std: per channel, of pixels in [0, 1]; positive.
    downscale: side of the squares of pixels of which means are taken.
    dtype: of the result.

  Returns:
    [..., H / downscale, W / downscale, C] of `dtype`.

  Raises:
    ValueError: if mean or std has not one entry per channel, or downscale does
      not divide H and W.
  """
  num_channels = images.shape[-1]
  if len(mean) != num_channels or len(std) != num_channels:
    raise ValueError(
      f'mean and std need one entry for each of {num_channels} channels, got '
      f'{len(mean)} and {len(std)}.'
    )
  # Spelt out in full rank, as rank promotion raises in tests.
  shape = (1,) * (images.ndim - 1) + (num_channels,)
  mean = jnp.asarray(mean, jnp.float32).reshape(shape)
  std = jnp.asarray(std, jnp.float32).reshape(shape)
  values = (images.astype(jnp.float32) / 255 - mean) / std
  if downscale > 1:
    *batch, height, width, _ = images.shape
    if height % downscale or width % downscale:
      raise ValueError(
        f'downscale must divide {height} and {width}, got {downscale}.'
      )
    sides = (height // downscale, downscale, width // downscale, downscale)
    squares = values.reshape(*batch, *sides, num_channels)
    values = squares.mean(axis=(-4, -2))
  return values.astype(dtype)
