"""timm's config.json says what the network is and sees."""

import json

import pytest

from lossbench.interop import formats
from lossbench.interop.timm import open_source

IMAGENET = {
  'mean': [0.485, 0.456, 0.406],
  'std': [0.229, 0.224, 0.225],
}


def write_config(path, *, architecture='resnet18', more=None, **cfg):
  """A config.json as timm writes it."""
  cfg = {
    'input_size': [3, 224, 224],
    'interpolation': 'bicubic',
    'crop_pct': 0.95,
    **IMAGENET,
    **cfg,
  }
  content = {
    'architecture': architecture,
    'pretrained_cfg': cfg,
    **(more or {}),
  }
  (path / 'config.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
  ('function', 'images', 'field'),
  [
    ('normalized_sigmoid_log_probs', {}, 'log_probs'),
    ('log_softmax', {'eval_crop': 'crop_then_resize'}, 'eval_crop'),
  ],
)
def test_exports_that_timm_cannot_describe_are_refused(
  function, images, field, directory
):
  own = {'log_probs': [{'function': function}], 'preprocessing': images}
  write_config(directory, more={'lossbench': own})
  with pytest.raises(ValueError, match=f'whose {field} timm') as error:
    open_source(str(directory))
  assert '\n' not in str(error.value)


@pytest.fixture
def directory(tmp_path):
  """Of a file of arrays that nobody gets to read."""
  (tmp_path / 'model.safetensors').write_bytes(b'')
  return tmp_path


@pytest.mark.parametrize(
  ('cfg', 'more', 'words'),
  [
    ({'crop_pct': None}, {}, 'crop_pct is \\[None\\], not 1 numbers'),
    ({'crop_pct': 1.5}, {}, 'crop_pct is 1.5, not in'),
    ({'crop_mode': 'squash'}, {}, "crop_mode is 'squash'; only center"),
    ({'interpolation': 'lanczos'}, {}, "interpolation is 'lanczos'; only"),
    ({'input_size': [1, 28, 28]}, {}, 'only square images of 3 channels'),
    ({'input_size': [3, 224, 256]}, {}, 'only square images of 3 channels'),
    ({'mean': [0.5]}, {}, r'mean is \[0.5\], not 3 numbers'),
    ({}, {'pretrained_cfg': 3}, 'pretrained_cfg is no object'),
    ({}, {'model_args': {'act_layer': 'silu'}}, "made with act_layer='silu'"),
    ({}, {'global_pool': 'max'}, "made with global_pool='max'"),
    ({}, {'architecture': None}, 'names no architecture'),
  ],
)
def test_what_is_not_computed_here_is_refused(directory, cfg, more, words):
  write_config(directory, more=more, **cfg)
  with pytest.raises(ValueError, match=words) as error:
    open_source(str(directory))
  assert str(error.value).startswith(str(directory / 'config.json'))


def test_a_file_without_its_description_is_refused(directory):
  with pytest.raises(FileNotFoundError, match='Put it beside the arrays'):
    open_source(str(directory))
  (directory / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='is no JSON'):
    open_source(str(directory))


@pytest.mark.parametrize(
  ('cfg', 'side', 'resized'),
  [
    ({}, 224, 235),  # 224 / 0.95 = 235.8
    ({'crop_pct': 0.875}, 224, 256),
    ({'input_size': [3, 299, 299], 'crop_pct': 0.875}, 299, 341),
    ({'test_input_size': [3, 288, 288], 'test_crop_pct': 1.0}, 288, 288),
    # Before 0.9, beside the architecture.
    (None, 224, 256),
  ],
)
def test_images_are_prepared_as_timm_says(tmp_path, cfg, side, resized):
  torch = pytest.importorskip('torch', reason='torch is not there: .[torch]')
  networks = pytest.importorskip('tests.interop.torch_networks')
  from safetensors.torch import save_file

  if cfg is None:
    flat = {
      'architecture': 'resnet18',
      'input_size': [3, 224, 224],
      'interpolation': 'bicubic',
      'crop_pct': 0.875,
      **IMAGENET,
    }
    (tmp_path / 'config.json').write_text(json.dumps(flat))
  else:
    write_config(tmp_path, architecture='resnet18.a1_in1k', **cfg)
  save_file(
    networks.create('resnet18').state_dict(), tmp_path / 'model.safetensors'
  )
  del torch
  fields = formats.get_format('timm').open_source(str(tmp_path)).fields
  assert fields['image_size'] == side
  assert round(side * fields['resize_ratio']) == resized
  assert fields['resize_method'] == 'bicubic'
  assert fields['resize_antialias'] is True
  assert fields['pixel_mean'] == (0.485, 0.456, 0.406)
  assert fields['model.max_pool_padding'] == 'symmetric'
