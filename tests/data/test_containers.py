"""Image files that decoding to RGB would not do justice to."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from lossbench.data.containers import check_container
from tests.data.pictures import picture


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  ('mode', 'kind'),
  [
    ('L', 'PNG'),
    ('1', 'PNG'),
    ('P', 'PNG'),
    ('RGB', 'PNG'),
    ('L', 'JPEG'),
    ('RGB', 'JPEG'),
    ('CMYK', 'JPEG'),
  ],
)
def test_what_becomes_rgb_without_loss_is_passed(mode, kind):
  image = picture(7, mode=mode)
  content = _encoded(image, kind)
  assert check_container(tf.constant(content)).numpy() == content
  if kind == 'PNG':
    decoded = tf.io.decode_image(content, channels=3)
    np.testing.assert_array_equal(decoded, image.convert('RGB'))


def _metadata(text='x' * 70_000):
  """More than 64 KiB by default, before what says how pixels are meant."""
  info = PngImagePlugin.PngInfo()
  info.add_text('comment', text)
  return {'pnginfo': info}


def _animated(kind, **options):
  frames = [picture(i, mode='RGB') for i in range(3)]
  return _encoded(
    frames[0], kind, save_all=True, append_images=frames[1:], **options
  )


@pytest.mark.parametrize(
  ('content', 'text'),
  [
    (
      _encoded(picture(0, mode='RGBA'), 'PNG'),
      'an alpha channel or transparent colours',
    ),
    (
      _encoded(picture(0, mode='LA'), 'PNG'),
      'an alpha channel or transparent colours',
    ),
    (
      _encoded(picture(0, mode='P'), 'PNG', transparency=0),
      'an alpha channel or transparent colours',
    ),
    (_animated('PNG'), 'animated'),
    (
      _encoded(picture(0, mode='P'), 'PNG', transparency=0, **_metadata()),
      'an alpha channel or transparent colours',
    ),
    (
      _encoded(
        picture(0, mode='P'), 'PNG', transparency=0, **_metadata('IDAT')
      ),
      'an alpha channel or transparent colours',
    ),
    (_animated('PNG', **_metadata()), 'animated'),
    (_animated('GIF'), 'neither JPEG nor PNG'),
    (_encoded(picture(0), 'BMP'), 'neither JPEG nor PNG'),
    (b'<html>', 'neither JPEG nor PNG'),
    (b'', 'neither JPEG nor PNG'),
  ],
)
def test_what_would_lose_something_is_refused(content, text):
  with pytest.raises(tf.errors.InvalidArgumentError, match=text):
    check_container(tf.constant(content))


def test_letters_in_metadata_are_no_chunks():
  content = _encoded(picture(0), 'PNG', **_metadata('tRNS acTL'))
  assert b'tRNS' in content
  check = tf.function(check_container)  # as in pipelines
  assert check(tf.constant(content)).numpy() == content
  cut_off = content[:50]  # which decoding will find
  assert check_container(tf.constant(cut_off)).numpy() == cut_off


def test_letters_among_the_pixels_are_no_chunks():
  """A PNG that is not compressed, whose pixels spell names of chunks."""
  letters = np.frombuffer(b'tRNSacTL' * 8, np.uint8).reshape(8, 8)
  # Of palette images the pixels are stored as they are.
  image = Image.fromarray(letters).convert('P')
  content = _encoded(image, 'PNG', compress_level=0)
  assert b'tRNS' in content
  assert check_container(tf.constant(content)).numpy() == content
