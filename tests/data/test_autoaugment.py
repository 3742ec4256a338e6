"""AutoAugment against Pillow, its policies' frequencies, its determinism."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from lossbench.data import autoaugment

_NAMES = list(autoaugment.OPERATIONS)
_GREY = (128, 128, 128)


def _affine(matrix_fn):
  def transform(image, level):
    return image.transform(
      image.size,
      Image.Transform.AFFINE,
      matrix_fn(level),
      resample=Image.Resampling.NEAREST,
      fillcolor=_GREY,
    )

  return transform


def _posterize(image, level):
  # Pillow used to take 0 bits, which is black, and now refuses them.
  return ImageOps.posterize(image, int(level)) if level else _black(image)


def _black(image):
  return Image.new('RGB', image.size)


_PILLOW = {
  'Identity': lambda image, level: image,
  'ShearX': _affine(lambda level: (1, level, 0, 0, 1, 0)),
  'ShearY': _affine(lambda level: (1, 0, 0, level, 1, 0)),
  'TranslateX': _affine(lambda level: (1, 0, level, 0, 1, 0)),
  'TranslateY': _affine(lambda level: (1, 0, 0, 0, 1, level)),
  'Rotate': lambda image, level: image.rotate(level, fillcolor=_GREY),
  'AutoContrast': lambda image, level: ImageOps.autocontrast(image),
  'Invert': lambda image, level: ImageOps.invert(image),
  'Equalize': lambda image, level: ImageOps.equalize(image),
  'Solarize': lambda image, level: ImageOps.solarize(image, int(level)),
  'Posterize': _posterize,
  'Contrast': lambda image, level: ImageEnhance.Contrast(image).enhance(level),
  'Color': lambda image, level: ImageEnhance.Color(image).enhance(level),
  'Brightness': lambda image, level: ImageEnhance.Brightness(image).enhance(
    level
  ),
  'Sharpness': lambda image, level: ImageEnhance.Sharpness(image).enhance(
    level
  ),
}
_SIGNED = ('ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate')


def _smooth(generator, height, width):
  coarse = generator.integers(0, 256, (6, 7, 3), np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((width, height)))


def _images():
  generator = np.random.default_rng(0)
  return {
    'noise': generator.integers(0, 256, (32, 32, 3), np.uint8),
    'smooth': _smooth(generator, 75, 110),
    'odd': _smooth(generator, 61, 37),
    'low contrast': generator.integers(90, 130, (40, 50, 3)).astype(np.uint8),
    'constant': np.full((33, 32, 3), 77, np.uint8),
  }


def _levels(name):
  levels = set()
  for policy in autoaugment.POLICIES:
    for magnitude in range(11):
      try:
        level = autoaugment.level_of(name, magnitude, policy=policy)
      except ValueError:  # this policy's code has no such level
        continue
      levels |= {level, -level} if name in _SIGNED else {level}
  return sorted(levels) or [0.0]


def test_every_operation_has_a_reference():
  assert set(_PILLOW) == set(autoaugment.OPERATIONS)


@pytest.mark.parametrize('name', _NAMES)
def test_operation_is_pillows(name):
  apply = tf.function(
    autoaugment.OPERATIONS[name],
    input_signature=[
      tf.TensorSpec([None, None, 3], tf.uint8),
      tf.TensorSpec([], tf.float64),
    ],
  )
  for kind, image in _images().items():
    for level in _levels(name):
      np.testing.assert_array_equal(
        apply(image, level),
        np.asarray(_PILLOW[name](Image.fromarray(image), level)),
        err_msg=f'{kind} image, level {level}',
      )


@pytest.mark.parametrize('policy', autoaugment.POLICIES)
def test_policy_has_25_sub_policies_of_known_operations(policy):
  rows = autoaugment.POLICIES[policy]
  assert len(rows) == 25
  for row in rows:
    assert len(row) == 2
    for name, probability, magnitude in row:
      autoaugment.level_of(name, magnitude, policy=policy)
      assert 0 <= probability <= 1
      assert 0 <= magnitude <= 9


# From the appendix of arXiv:1805.09501.
@pytest.mark.parametrize(
  ('policy', 'index', 'row'),
  [
    ('imagenet', 0, (('Posterize', 0.4, 8), ('Rotate', 0.6, 9))),
    ('imagenet', 12, (('Equalize', 0.0, 7), ('Equalize', 0.8, 8))),
    ('imagenet', 18, (('ShearX', 0.6, 5), ('Equalize', 1.0, 9))),
    ('imagenet', 24, (('Equalize', 0.8, 8), ('Equalize', 0.6, 3))),
    ('cifar', 0, (('Invert', 0.1, 7), ('Contrast', 0.2, 6))),
    ('cifar', 13, (('Brightness', 0.9, 6), ('Color', 0.2, 8))),
    ('cifar', 21, (('TranslateY', 0.9, 9), ('TranslateY', 0.7, 9))),
    ('cifar', 24, (('TranslateY', 0.7, 9), ('AutoContrast', 0.9, 1))),
  ],
)
def test_published_sub_policies(policy, index, row):
  assert autoaugment.POLICIES[policy][index] == row


# Worked out by hand from the sources named in the module's docstring.
@pytest.mark.parametrize(
  ('policy', 'name', 'magnitude', 'level'),
  [
    ('imagenet', 'Solarize', 8, 204),
    ('imagenet', 'Solarize', 10, 256),
    ('imagenet', 'ShearX', 5, 0.15),
    ('imagenet', 'Rotate', 9, 27),
    ('imagenet', 'Color', 0, 0.1),
    ('imagenet', 'Contrast', 5, 1),
    ('cifar', 'Posterize', 7, 2),
    ('cifar', 'Solarize', 8, 52),
    ('cifar', 'Solarize', 0, 256),
    ('cifar', 'TranslateY', 9, 9),
    ('cifar', 'Rotate', 2, 6),
    ('cifar', 'Sharpness', 10, 1.9),
  ],
)
def test_levels(policy, name, magnitude, level):
  assert autoaugment.level_of(name, magnitude, policy=policy) == pytest.approx(
    level, abs=1e-12
  )


# Bits kept at magnitudes 0, 1, ..., 10. Paper, table of operations: [4, 8]
# "magnitude bits"; released code of the CIFAR policy: 4 - int(4 m / 10).
@pytest.mark.parametrize(
  ('policy', 'bits'),
  [
    ('imagenet', [4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8]),
    ('cifar', [4, 4, 4, 3, 3, 2, 2, 2, 1, 1, 0]),
  ],
)
def test_bits_that_posterize_keeps(policy, bits):
  levels = [
    autoaugment.level_of('Posterize', magnitude, policy=policy)
    for magnitude in range(11)
  ]
  assert levels == bits


def test_the_imagenet_policy_never_drops_the_upper_half_of_the_bits():
  """As drawn, whatever rule joined magnitudes to the sub-policies."""
  operations, levels = _draws('imagenet', 2000)
  kept = levels[operations == _NAMES.index('Posterize')]
  assert len(kept) > 50
  assert kept.min() >= 4


def _draws(policy, num):
  """Operations [num, 2] and levels [num, 2] of seeds (7, 0 .. num - 1)."""
  dataset = tf.data.Dataset.range(num).map(
    lambda i: autoaugment.sample_operations(
      tf.stack([tf.constant(7, tf.int64), i]), policy=policy
    )
  )
  return next(dataset.batch(num).as_numpy_iterator())


@pytest.mark.parametrize('policy', autoaugment.POLICIES)
def test_operations_come_as_often_as_published(policy):
  num = 8000
  operations, levels = _draws(policy, num)
  expected = collections.Counter()
  for first, second in autoaugment.POLICIES[policy]:
    for left in (True, False):
      for right in (True, False):
        pair = (
          (first[0] if left else 'Identity'),
          (second[0] if right else 'Identity'),
        )
        expected[pair] += (
          (first[1] if left else 1 - first[1])
          * (second[1] if right else 1 - second[1])
          / 25
        )
  counts = collections.Counter(
    (_NAMES[left], _NAMES[right]) for left, right in operations
  )
  assert set(counts) <= {pair for pair, share in expected.items() if share}
  for pair, share in expected.items():
    spread = (num * share * (1 - share)) ** 0.5
    assert abs(counts[pair] - num * share) <= 5 * spread, pair

  signed = np.isin(operations, [_NAMES.index(name) for name in _SIGNED])
  negative = levels[signed] < 0
  assert abs(negative.mean() - 0.5) < 5 * 0.5 / negative.size**0.5
  unsigned = ~signed & (operations != 0)
  assert (levels[unsigned] >= 0).all()


@pytest.mark.parametrize('policy', autoaugment.POLICIES)
def test_applies_what_it_draws_in_a_parallel_map(policy):
  image, num = _images()['smooth'], 60
  augmented = tf.data.Dataset.range(num).map(
    lambda i: autoaugment.autoaugment(
      tf.constant(image),
      tf.stack([tf.constant(7, tf.int64), i]),
      policy=policy,
    ),
    num_parallel_calls=4,
  )
  assert augmented.element_spec.shape == image.shape
  operations, levels = _draws(policy, num)
  for i, result in enumerate(augmented.as_numpy_iterator()):
    expected = Image.fromarray(image)
    for operation, level in zip(operations[i], levels[i], strict=True):
      expected = _PILLOW[_NAMES[operation]](expected, level)
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_eager_is_the_same_as_on_a_graph_and_seeds_matter():
  image = tf.constant(_images()['noise'])
  on_graph = tf.function(
    lambda seed: autoaugment.autoaugment(image, seed, policy='cifar')
  )
  results = set()
  for i in range(12):
    seed = tf.constant([i, 3])
    eager = autoaugment.autoaugment(image, seed, policy='cifar')
    np.testing.assert_array_equal(eager, on_graph(seed))
    results.add(eager.numpy().tobytes())
  assert len(results) > 5


def test_unknown_names_are_refused():
  image, seed = tf.zeros([4, 4, 3], tf.uint8), tf.constant([0, 0])
  with pytest.raises(ValueError, match='Known: cifar, imagenet'):
    autoaugment.autoaugment(image, seed, policy='svhn')
  with pytest.raises(ValueError, match="no level of 'TranslateX'"):
    autoaugment.level_of('TranslateX', 3, policy='imagenet')
