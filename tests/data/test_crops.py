"""Crops on the host against NumPy, Pillow and a whole decode."""

import collections
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from lossbench.data import crops


def _smooth(height, width, seed=0):
  generator = np.random.default_rng(seed)
  coarse = generator.integers(0, 256, (5, 6, 3), np.uint8)
  resized = Image.fromarray(coarse).resize(
    (width, height), Image.Resampling.BICUBIC
  )
  return np.asarray(resized)


def _encode(array, *, mode='RGB', **kwargs):
  buffer = io.BytesIO()
  Image.fromarray(array).convert(mode).save(buffer, **kwargs)
  return tf.constant(buffer.getvalue())


def _jpeg(height, width, **kwargs):
  # Subsampled chroma is interpolated without neighbours at the left and right
  # edges of a window, so that a window differs there from a whole decode.
  return _encode(
    _smooth(height, width),
    format='JPEG',
    quality=95,
    subsampling='4:4:4',
    **kwargs,
  )


def _cubic(distance, a):
  """Keys' kernel (IEEE ASSP 29, 1981), of [..] distances in pixels."""
  x = np.abs(distance)
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _axis_weights(length, size, method):
  """What each of `size` output pixels takes of `length`, float64."""
  scale = length / size
  if method == 'bicubic_tf1':
    centre = np.arange(size) * scale
  else:
    centre = (np.arange(size) + 0.5) * scale - 0.5
  low = np.floor(centre)
  fraction = centre - low
  weights = np.zeros((size, length))
  if method == 'bilinear':
    taps = [(0, 1 - fraction), (1, fraction)]
  else:
    # TensorFlow looks the kernel up at multiples of 1 / 1024.
    fraction = np.rint(fraction * 1024) / 1024
    a = -0.75 if method == 'bicubic_tf1' else -0.5
    taps = [(tap, _cubic(fraction - tap, a)) for tap in (-1, 0, 1, 2)]
  for tap, weight in taps:
    index = low + tap
    if method == 'bicubic':  # what lies outside does not count
      weight = np.where((index >= 0) & (index < length), weight, 0)
    column = np.clip(index, 0, length - 1).astype(int)
    np.add.at(weights, (np.arange(size), column), weight)
  return weights / weights.sum(axis=1, keepdims=True)


def _resized(image, size, method='bilinear'):
  """An independent resize, float64 [height, width, C]."""
  height, width = size
  rows = _axis_weights(image.shape[0], height, method)
  columns = _axis_weights(image.shape[1], width, method)
  return np.einsum('yh,hwc,xw->yxc', rows, image.astype(np.float64), columns)


def _bilinear(image, size):
  return _resized(image, (size, size))


def _assert_rounded(actual, exact):
  """uint8 `actual` is `exact` rounded, up to float32's error at the halves."""
  assert actual.dtype == np.uint8
  assert np.abs(np.asarray(actual, np.float64) - exact).max() <= 0.5 + 1e-3


def _cut(image, window):
  top, left, height, width = np.asarray(window)
  return image[top : top + height, left : left + width]


def _windows(height, width, num, **kwargs):
  dataset = tf.data.Dataset.range(num).map(
    lambda i: crops.sample_window(
      tf.constant(height),
      tf.constant(width),
      tf.stack([tf.constant(5, tf.int64), i]),
      **kwargs,
    )
  )
  return next(dataset.batch(num).as_numpy_iterator())


@pytest.mark.parametrize(
  ('height', 'width', 'area_range', 'aspect_range'),
  [
    (375, 500, (0.1, 1.0), (3 / 4, 4 / 3)),
    (500, 200, (0.08, 0.5), (0.5, 2.0)),
  ],
)
def test_windows_are_in_range(height, width, area_range, aspect_range):
  windows = _windows(
    height, width, 2000, area_range=area_range, aspect_range=aspect_range
  )
  top, left, tall, wide = windows.T
  assert windows.dtype == np.int32
  assert (windows >= 0).all()
  assert (top + tall <= height).all()
  assert (left + wide <= width).all()
  area = tall * wide / (height * width)
  # One pixel of rounding on either side.
  slack = 1 + 2 / np.minimum(tall, wide)
  assert (area * slack >= area_range[0]).all()
  assert (area / slack <= area_range[1]).all()
  assert (wide / tall * slack >= aspect_range[0]).all()
  assert (wide / tall / slack <= aspect_range[1]).all()
  # They use all of the ranges and of the image.
  assert area.min() < 1.2 * area_range[0]
  assert area.max() > 0.6 * area_range[1]
  assert (wide / tall).min() < 1.1 * aspect_range[0]
  assert (wide / tall).max() > aspect_range[1] / 1.1
  assert top.min() == left.min() == 0
  assert abs((left + wide / 2).mean() / width - 0.5) < 0.02
  assert len(np.unique(windows, axis=0)) > 1900


def test_hopeless_shape_gets_the_central_square():
  # 21 = 224/256 of 24; (600 - 21 + 1) // 2 = 290.
  np.testing.assert_array_equal(_windows(24, 600, 3), [[2, 290, 21, 21]] * 3)


@pytest.mark.parametrize('method', crops.RESIZE_METHODS)
@pytest.mark.parametrize('size', [(37, 51), (224, 224), (20, 90)])
def test_resize_is_numpys(method, size):
  image = np.random.default_rng(3).integers(0, 256, (61, 80, 3), np.uint8)
  np.testing.assert_allclose(
    crops.resize(image, size, method=method),
    _resized(image, size, method),
    rtol=0,
    # Of grey levels, in float32: without a table, places are of float32 too.
    atol=2e-3 if method == 'bilinear' else 2e-4,
  )


@pytest.mark.parametrize('size', [(24, 24), (61, 80), (224, 224)])
def test_bicubic_tf1_is_the_kernel_of_tensorflow_1(size):
  image = np.random.default_rng(4).integers(0, 256, (61, 80, 3), np.uint8)
  expected = tf.raw_ops.ResizeBicubic(
    images=image[np.newaxis].astype(np.float32),
    size=size,
    align_corners=False,
    half_pixel_centers=False,
  )[0]
  np.testing.assert_allclose(
    crops.resize(image, size, method='bicubic_tf1'), expected, atol=1e-4
  )


@pytest.mark.parametrize(
  ('method', 'pillow'),
  [
    ('bilinear', Image.Resampling.BILINEAR),
    ('bicubic', Image.Resampling.BICUBIC),
  ],
)
@pytest.mark.parametrize('size', [(20, 27), (90, 100)])
def test_antialiased_resize_is_pillows(method, pillow, size):
  image = np.random.default_rng(5).integers(0, 256, (61, 80), np.uint8)
  expected = Image.fromarray(image.astype(np.float32)).resize(
    size[::-1], pillow
  )
  resized = crops.resize(
    image[..., np.newaxis], size, method=method, antialias=True
  )
  np.testing.assert_allclose(resized[..., 0], expected, rtol=0, atol=2e-3)
  if size < image.shape:
    plain = crops.resize(image[..., np.newaxis], size, method=method)
    assert np.abs(resized - plain).mean() > 10


def test_what_bicubic_overshoots_is_clipped():
  """Not wrapped round, as a plain cast to uint8 would do."""
  edge = np.zeros((40, 40, 3), np.uint8)
  edge[:, 20:] = 255
  exact = crops.resize(edge, (64, 64), method='bicubic_tf1').numpy()
  assert exact.min() < -5
  assert exact.max() > 260
  image = crops.center_crop(
    _encode(edge, format='PNG'), size=64, resize_ratio=1, method='bicubic_tf1'
  )
  _assert_rounded(image.numpy(), exact.clip(0, 255))


def test_unknown_resizes_are_refused():
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match=r"'lanczos'\. Known: bilinear, bi"):
    crops.resize(image, (2, 2), method='lanczos')
  with pytest.raises(ValueError, match="'bicubic_tf1' cannot antialias"):
    crops.resize(image, (2, 2), method='bicubic_tf1', antialias=True)


@pytest.mark.parametrize(
  ('height', 'width', 'square'),
  # The released code: side rint(0.875 * shorter), offsets rounded up.
  [(375, 500, (24, 86, 328)), (333, 500, (21, 105, 291)), (20, 36, (1, 9, 18))],
)
def test_center_crop_is_the_square_of_the_released_code(height, width, square):
  array = _smooth(height, width)
  top, left, side = square
  crop = array[top : top + side, left : left + side]
  image = crops.center_crop(
    _encode(array, format='PNG'), size=32, method='bicubic_tf1'
  )
  expected = _resized(crop, (32, 32), 'bicubic_tf1').clip(0, 255)
  _assert_rounded(image.numpy(), expected)


@pytest.mark.parametrize(
  ('height', 'width', 'target', 'corner'),
  # torchvision's Resize(28) and CenterCrop(24), by hand.
  [(60, 80, (28, 37), (2, 6)), (80, 60, (37, 28), (6, 2))],
)
def test_resize_then_crop_is_torchvisions(height, width, target, corner):
  array = _smooth(height, width)
  image = crops.resize_then_crop(
    _encode(array, format='PNG'),
    size=24,
    resize_ratio=28 / 24,
    method='bicubic',
  )
  top, left = corner
  expected = _resized(array, target, 'bicubic')
  _assert_rounded(
    image.numpy(), expected[top : top + 24, left : left + 24].clip(0, 255)
  )


@pytest.mark.parametrize(('height', 'width'), [(375, 500), (90, 60)])
def test_random_resized_crop_is_the_resized_window(height, width):
  jpeg = _jpeg(height, width)
  whole = tf.io.decode_jpeg(jpeg, channels=3).numpy()
  for i in range(4):
    seed = tf.constant([i, 1])
    window = crops.sample_window(tf.constant(height), tf.constant(width), seed)
    _assert_rounded(
      crops.random_resized_crop(jpeg, seed, size=48).numpy(),
      _bilinear(_cut(whole, window), 48),
    )
  bicubic = crops.random_resized_crop(jpeg, seed, size=48, method='bicubic_tf1')
  exact = _resized(_cut(whole, window), (48, 48), 'bicubic_tf1')
  _assert_rounded(bicubic.numpy(), exact.clip(0, 255))


def test_png_is_the_resized_window():
  array = _smooth(60, 80)
  png, seed = _encode(array, format='PNG'), tf.constant([2, 1])
  window = crops.sample_window(tf.constant(60), tf.constant(80), seed)
  _assert_rounded(
    crops.random_resized_crop(png, seed, size=32).numpy(),
    _bilinear(_cut(array, window), 32),
  )
  _assert_rounded(
    crops.center_crop(png, size=32, resize_ratio=1.25).numpy(),
    _bilinear(array[6:54, 16:64], 32),
  )


def test_grey_jpeg_has_three_equal_channels():
  jpeg = _jpeg(64, 64, mode='L')
  for image in (
    crops.center_crop(jpeg, size=32),
    crops.random_resized_crop(jpeg, tf.constant([0, 0]), size=32),
  ):
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[..., :1], image[..., 1:2])
    np.testing.assert_array_equal(image[..., :1], image[..., 2:])
    assert np.ptp(image.numpy()) > 50


def test_cmyk_jpeg_is_converted():
  array = _smooth(64, 64)
  jpeg = _jpeg(64, 64, mode='CMYK')
  image = crops.center_crop(jpeg, size=64, resize_ratio=1.0).numpy()
  # Mean error in grey levels, mostly of the JPEG.
  assert np.abs(image.astype(float) - array).mean() < 3


def test_center_crop_of_256_is_cut_from_the_image():
  jpeg = _jpeg(256, 301)
  whole = tf.io.decode_jpeg(jpeg, channels=3)
  np.testing.assert_array_equal(
    crops.center_crop(jpeg, size=224), whole[16:240, 39:263]
  )


def _resize_then_crop(jpeg, size, shorter):
  whole = tf.io.decode_jpeg(jpeg, channels=3)
  height, width = whole.shape[:2]
  scale = shorter / min(height, width)
  target = (round(height * scale), round(width * scale))
  resized = tf.image.resize(whole, target).numpy()
  # An odd pixel goes before the crop, as in `center_crop`.
  top, left = ((side - size + 1) // 2 for side in target)
  return resized[top : top + size, left : left + size]


# Tolerance: mean difference in grey levels. The window is in whole pixels of
# the original, and the naive crop in whole pixels of the resized image, so
# that they may be shifted by up to a pixel; in a 60x75 image that is a lot.
@pytest.mark.parametrize(
  ('height', 'width', 'tolerance'),
  [(512, 512, 1.5), (375, 500, 1.5), (500, 333, 1.5), (60, 75, 4.0)],
)
@pytest.mark.parametrize(('size', 'shorter'), [(224, 256), (299, 342)])
def test_center_crop_is_resize_then_crop(
  height, width, tolerance, size, shorter
):
  jpeg = _jpeg(height, width)
  image = crops.center_crop(jpeg, size=size).numpy()
  expected = _resize_then_crop(jpeg, size, shorter)
  assert np.abs(image - expected).mean() < tolerance


def test_center_crop_is_resize_then_crop_where_pixels_align():
  jpeg = _jpeg(512, 768)
  _assert_rounded(
    crops.center_crop(jpeg, size=224).numpy(), _resize_then_crop(jpeg, 224, 256)
  )


def test_center_crop_of_real_images_is_resize_then_crop(imagenet_jpegs):
  differences = [
    np.abs(
      crops.center_crop(jpeg, size=224).numpy()
      - _resize_then_crop(jpeg, 224, 256)
    ).mean()
    for jpeg in imagenet_jpegs
  ]
  # Grey levels: shifts by up to a pixel, across sharp edges and texture.
  assert np.mean(differences) < 6


@pytest.fixture(scope='module')
def imagenet_jpegs(request):
  tfds = pytest.importorskip('tensorflow_datasets')
  data_dir = request.config.rootpath.parent / 'shared' / 'data' / 'tfds'
  if not (data_dir / 'imagenet2012').exists():
    pytest.skip(f'no ImageNet sample in {data_dir}')
  dataset = tfds.builder('imagenet2012', data_dir=data_dir).as_dataset(
    split='validation[:12]', decoders={'image': tfds.decode.SkipDecoding()}
  )
  return [record['image'] for record in dataset]


def test_a_resize_ratio_below_one_is_refused():
  with pytest.raises(ValueError, match=r'at least 1, got 0\.5'):
    crops.center_crop(_jpeg(8, 8), size=4, resize_ratio=0.5)


def _pad_crop_flip(image, seed, *, pad):
  # The CPU has no kernel for the other algorithm, 'threefry'.
  crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2, alg='philox'))
  return crops.random_flip(crops.pad_crop(image, crop_seed, pad=pad), flip_seed)


def test_parallel_map_equals_eager_and_seeds_matter():
  jpeg = _jpeg(90, 120)

  def augment(i):
    seed = tf.stack([tf.constant(3, tf.int64), i])
    image = crops.random_resized_crop(jpeg, seed, size=24)
    return _pad_crop_flip(image, seed, pad=2)

  dataset = tf.data.Dataset.range(24).map(augment, num_parallel_calls=4)
  assert dataset.element_spec == tf.TensorSpec([24, 24, 3], tf.uint8)
  results = list(dataset.as_numpy_iterator())
  for i in range(0, 24, 4):
    np.testing.assert_array_equal(results[i], augment(tf.constant(i, tf.int64)))
  assert len({result.tobytes() for result in results}) == 24


@pytest.mark.parametrize(('pad', 'flip'), [(1, False), (1, True), (2, True)])
def test_every_crop_and_mirror_image_is_equally_likely(pad, flip):
  # No zeros, so that padding can be told from pixels. The same set and shares
  # as test_device_augment.py demands of the devices.
  image = np.random.default_rng(0).integers(1, 256, (4, 4, 3), np.uint8)
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  offsets = range(2 * pad + 1)
  possible = [padded[y : y + 4, x : x + 4] for y in offsets for x in offsets]
  if flip:
    possible += [result[:, ::-1] for result in possible]

  def augment(i):
    seed = tf.stack([tf.constant(11, tf.int64), i])
    augment_fn = _pad_crop_flip if flip else crops.pad_crop
    return augment_fn(tf.constant(image), seed, pad=pad)

  num = 100 * len(possible)
  dataset = tf.data.Dataset.range(num).map(augment).batch(num)
  results = next(dataset.as_numpy_iterator())
  counts = collections.Counter(result.tobytes() for result in results)
  assert set(counts) == {result.tobytes() for result in possible}
  # 100 expected each; six standard deviations.
  assert all(abs(count - 100) < 60 for count in counts.values())


def test_random_flip_keeps_type_and_mirrors_half():
  image = tf.reshape(tf.range(12, dtype=tf.float32), [2, 3, 2])
  dataset = tf.data.Dataset.range(1000).map(
    lambda i: crops.random_flip(image, tf.stack([i, i]))
  )
  results = next(dataset.batch(1000).as_numpy_iterator())
  assert results.dtype == np.float32
  flipped = (results == image[:, ::-1].numpy()).all(axis=(1, 2, 3))
  kept = (results == image.numpy()).all(axis=(1, 2, 3))
  assert (flipped ^ kept).all()
  assert 400 < flipped.sum() < 600


def test_images_stored_as_crops_stay_as_they_are():
  """ImageNet-C is stored so: nothing is left to resize or to crop."""
  image = _smooth(64, 64)
  png = _encode(image, format='PNG')
  kept = crops.center_crop(png, size=64, resize_ratio=1.0)
  np.testing.assert_array_equal(kept, image)
  assert not np.array_equal(crops.center_crop(png, size=64), image)
