"""torchvision's names: all of them, each once, for arrays of the same shapes."""

import numpy as np
import pytest

from lossbench.interop.formats import Origin
from lossbench.interop.recognising import (
  ARCHITECTURES,
  find_architecture,
  recognise,
)
from lossbench.interop.torch_names import is_ignored, torch_names

torch = pytest.importorskip('torch', reason='torch is not there: .[torch]')
networks = pytest.importorskip('tests.interop.torch_networks')

ORIGINS = {
  name: {
    path: Origin(theirs.name, theirs.to_ours)
    for path, theirs in torch_names(name).items()
  }
  for name in ARCHITECTURES
}


def _shapes(architecture, **fields):
  with torch.device('meta'):
    state = networks.create(architecture, **fields).state_dict()
  return {
    name: tuple(tensor.shape)
    for name, tensor in state.items()
    if not is_ignored(name)
  }


# The numbers of entries of torchvision's state dictionaries without counters.
@pytest.mark.parametrize(
  ('architecture', 'count'),
  [
    ('resnet18', 102),
    ('resnet34', 182),
    ('resnet50', 267),
    ('resnet101', 522),
    ('resnet152', 777),
    ('inception_v3', 472),
  ],
)
def test_every_name_of_a_state_dictionary_is_one_array_of_ours(
  architecture, count
):
  shapes = _shapes(architecture, num_classes=7)
  names = [theirs.name for theirs in torch_names(architecture).values()]
  assert len(names) == len(set(names)) == count
  assert set(names) == set(shapes)
  # All shapes are those of our model, too, or it would be refused.
  assert recognise(shapes, ORIGINS, where='it') == (architecture, 7)


def test_layouts_come_back():
  rng = np.random.default_rng(0)
  for path, theirs in torch_names('resnet18').items():
    if path.startswith('params/backbone/stage1_block1') or 'output' in path:
      array = rng.normal(size=range(2, 2 + len(theirs.axes)))
      there = theirs.to_theirs(array)
      assert there.flags.c_contiguous
      np.testing.assert_array_equal(theirs.to_ours(there), array)
  conv = torch_names('resnet18')['params/backbone/conv_stem/kernel']
  # [h, w, C, C'] -> [C', C, h, w].
  assert conv.to_theirs(np.zeros((7, 6, 3, 64))).shape == (64, 3, 7, 6)


@pytest.mark.parametrize(
  ('called', 'words'),
  [
    ('', 'x is not our resnet50'),
    ('wide_resnet50_2', 'x is a wide_resnet50_2, not our resnet50'),
  ],
)
def test_a_network_of_the_same_names_is_refused_by_its_first_shape(
  called, words
):
  shapes = _shapes('resnet50', inner=2)
  assert shapes.keys() == _shapes('resnet50').keys()
  with pytest.raises(ValueError) as error:
    recognise(shapes, ORIGINS, where='x', called=called)
  assert str(error.value).startswith(
    f'{words}: its layer1.0.conv1.weight of shape [128, 64, 1, 1] is no '
    'params/backbone/stage1_block1/conv1/kernel of [1, 1, 64, 64]. Known: '
    'resnet18, '
  )


def test_a_network_that_only_looks_alike_is_refused_by_its_first_name():
  """resnet50d: three convolutions as stem, an average pool in the shortcuts."""
  shapes = _shapes('resnet50')
  stem = {'conv1.0.weight': (32, 3, 3, 3), 'conv1.3.weight': (32, 32, 3, 3)}
  del shapes['conv1.weight']
  with pytest.raises(ValueError) as error:
    recognise(stem | shapes, ORIGINS, where='x', called='resnet50d')
  assert str(error.value).startswith(
    'x is a resnet50d, not our resnet50: it lacks conv1.weight but has '
    'conv1.0.weight (and 1 more). Known: '
  )


def test_another_network_of_the_same_names_and_shapes_is_refused():
  with pytest.raises(
    ValueError, match=r'is a resnet50c, whose names and shape'
  ):
    recognise(_shapes('resnet50'), ORIGINS, where='x', called='resnet50c')


@pytest.mark.parametrize(
  ('model', 'architecture'),
  [
    ({'name': 'resnet', 'depth': 34, 'width': 64}, 'resnet34'),
    ({'name': 'resnet', 'depth': 34, 'width': 32}, None),
    ({'name': 'inception_v3', 'count_include_pad': False}, 'inception_v3'),
    ({'name': 'wide_resnet', 'depth': 16, 'width': 8}, None),
  ],
)
def test_models_that_torchvision_has(model, architecture):
  assert find_architecture(model) == architecture
