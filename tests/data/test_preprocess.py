"""Each field of augmentation does its own work to the images of training."""

import numpy as np
import pytest
import tensorflow as tf

from configs import cifar10_all_cnn, imagenet_resnet50
from lossbench import build
from lossbench.data import autoaugment, crops, preprocess

SIDE, NUM_DRAWS = 32, 24


@pytest.fixture(scope='module')
def image():
  """Noise, so that no two crops of it are equal."""
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def config():
  """Of 32 x 32 colour images without any augmentation."""
  config = cifar10_all_cnn.get_config()
  config.crop_padding = 0
  config.random_flip = False
  assert not config.autoaugment
  assert not config.resize_images
  return config


def _draws(config, image):
  """[NUM_DRAWS, H, W, C]: what training makes of one image."""
  image_fn = preprocess.build_train_image_fn(config)
  encoded = tf.io.encode_png(image)
  seeds = tf.stack(
    [tf.range(NUM_DRAWS, dtype=tf.int64), 5 * tf.ones(NUM_DRAWS, tf.int64)], 1
  )
  return tf.map_fn(
    lambda seed: image_fn(encoded, seed), seeds, fn_output_signature=tf.uint8
  ).numpy()


def test_nothing_is_done_unless_asked(config, image):
  assert (_draws(config, image) == image).all()


def test_flips_are_mirror_images_half_of_the_time(config, image):
  config.random_flip = True
  draws = _draws(config, image)
  mirrored = (draws == image[:, ::-1]).all((1, 2, 3))
  assert (mirrored | (draws == image).all((1, 2, 3))).all()
  assert 5 <= mirrored.sum() <= NUM_DRAWS - 5


def test_crops_are_windows_of_the_padded_image(config, image):
  config.crop_padding = 3
  padded = np.pad(image, [(3, 3), (3, 3), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(padded, image.shape)
  windows = windows.reshape(-1, *image.shape)
  found = [
    np.flatnonzero((windows == draw).all((1, 2, 3)))
    for draw in _draws(config, image)
  ]
  assert all(len(places) == 1 for places in found)
  assert len({int(places[0]) for places in found}) > NUM_DRAWS // 2


@pytest.fixture
def resizing(config):
  """As `config`, of images of any size."""
  config.resize_images = True
  config.image_size = 20
  return config


@pytest.mark.parametrize(
  ('field', 'value'),
  [('resize_method', 'bicubic_tf1'), ('resize_antialias', True)],
)
def test_the_filter_serves_training_and_evaluation(
  resizing, image, field, value
):
  plain = _draws(resizing, image), _evaluated(resizing, image)
  resizing[field] = value
  for before, after in zip(
    plain, (_draws(resizing, image), _evaluated(resizing, image)), strict=True
  ):
    assert (before != after).mean() > 0.5


def test_the_style_of_the_crop_is_that_of_the_configuration(resizing, image):
  encoded = tf.io.encode_png(image)
  for style, crop_fn in [
    ('crop_then_resize', crops.center_crop),
    ('resize_then_crop', crops.resize_then_crop),
  ]:
    resizing.eval_crop, resizing.resize_ratio = style, 1.5
    np.testing.assert_array_equal(
      _evaluated(resizing, image), crop_fn(encoded, size=20, resize_ratio=1.5)
    )


def test_the_recipes_of_imagenet_evaluate_as_the_released_code_does(image):
  """0.875 of the shorter side, by TensorFlow 1's bicubic."""
  config = imagenet_resnet50.get_config()
  exact = _released(image)
  expected = np.clip(exact, 0, 255)
  assert np.abs(_evaluated(config, image) - expected).max() <= 0.5 + 1e-3


def test_pixels_of_float32_are_the_released_codes(image):
  """What the network sees, in standard deviations; overshoot is kept."""
  config = imagenet_resnet50.get_config()
  config.eval_pixels = 'float32'
  config.compute_dtype = 'float32'
  image = np.where(image > 127, 255, 0).astype(np.uint8)
  exact = _released(np.float32(image) / 255)
  assert exact.min() < -0.1
  mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
  evaluated = _evaluated(config, image)
  assert evaluated.dtype == np.float32
  np.testing.assert_allclose(
    build.build_normalize_fn(config)(evaluated), (exact - mean) / std, atol=1e-4
  )
  config.eval_crop = 'resize_then_crop'
  assert _evaluated(config, image).dtype == np.float32


def _released(image):
  """The central 28 of 32 pixels, as the released code resizes them."""
  return tf.raw_ops.ResizeBicubic(
    images=image[np.newaxis, 2:30, 2:30].astype(np.float32),
    size=(224, 224),
    align_corners=False,
    half_pixel_centers=False,
  )[0].numpy()


def _evaluated(config, image):
  image_fn = preprocess.build_eval_image_fn(config)
  return image_fn(tf.io.encode_png(image)).numpy()


@pytest.mark.parametrize('policy', autoaugment.POLICIES)
def test_autoaugment_applies_the_policy_that_is_named(config, image, policy):
  """Most images change, and another policy makes others of the same seeds."""
  config.autoaugment = policy
  draws = _draws(config, image)
  changed = (draws != image).any((1, 2, 3))
  assert changed.sum() > NUM_DRAWS // 2
  config.autoaugment = next(p for p in autoaugment.POLICIES if p != policy)
  assert not np.array_equal(draws, _draws(config, image))


def test_autoaugment_comes_after_the_same_crop_and_flip(config, image):
  """Where the policy's operations are not drawn, the two are seen alone."""
  config.crop_padding = 4
  config.random_flip = True
  plain = _draws(config, image)
  config.autoaugment = 'cifar'
  augmented = _draws(config, image)
  same = (augmented == plain).all((1, 2, 3))
  assert 0 < same.sum() < NUM_DRAWS


@pytest.mark.parametrize('autoaugment_policy', [None, 'imagenet'])
def test_resized_crops_are_of_the_wanted_size(
  config, image, autoaugment_policy
):
  config.resize_images = True
  config.image_size = 20
  config.autoaugment = autoaugment_policy
  draws = _draws(config, image)
  assert draws.shape == (NUM_DRAWS, 20, 20, 3)
  assert len({draw.tobytes() for draw in draws}) == NUM_DRAWS
  evaluated = preprocess.build_eval_image_fn(config)(tf.io.encode_png(image))
  assert evaluated.shape == (20, 20, 3)


def test_evaluation_sees_the_image_itself(config, image):
  config.crop_padding, config.random_flip = 4, True
  config.autoaugment = 'cifar'
  evaluated = preprocess.build_eval_image_fn(config)(tf.io.encode_png(image))
  np.testing.assert_array_equal(evaluated, image)


def test_records_of_another_size_are_named(config, image):
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r'not measure 32 x 32 pixels'
  ):
    preprocess.build_eval_image_fn(config)(tf.io.encode_png(image[:-1]))
