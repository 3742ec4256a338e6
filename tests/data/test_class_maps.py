"""Class folders as a run's classes: by name, by a file, as ObjectNet says."""

import json

import pytest

from lossbench.data import class_maps

NAMES = ['ant', 'bee', 'cow']


def test_folders_by_their_names_have_the_runs_labels():
  assert class_maps.by_name(['cow', 'ant'], NAMES) == {'cow': (2,), 'ant': (0,)}
  with pytest.raises(ValueError, match=r"'beee' is none of the 3.*mean 'bee'"):
    class_maps.by_name(['ant', 'beee'], NAMES)


def _written(tmp_path, content) -> str:
  path = tmp_path / 'map.json'
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return str(path)


def test_a_file_maps_folders_to_names_ids_several_or_none(tmp_path):
  path = _written(
    tmp_path, {'w': 'bee', 'x': 2, 'y': ['ant', 1], 'z': None, 'more': 'cow'}
  )
  assert class_maps.read_class_map(path, ['w', 'x', 'y', 'z'], NAMES) == {
    'w': (1,),
    'x': (2,),
    'y': (0, 1),
    'z': (),
  }


@pytest.mark.parametrize(
  ('content', 'text'),
  [
    ({'x': 'bee'}, "has no entry of folder 'w'"),
    ({'w': 'wasp'}, "maps folder 'w' to 'wasp', which is neither"),
    ({'w': 3}, r"maps folder 'w' to 3, .* whole number in \[0, 3\)"),
    ({'w': -1}, "maps folder 'w' to -1"),
    ({'w': True}, "maps folder 'w' to True"),
    (['bee'], 'holds no JSON object of folder -> class, but a list'),
    ('{', 'is not valid JSON'),
  ],
)
def test_an_entry_that_is_wrong_or_missing_is_named(tmp_path, content, text):
  with pytest.raises(ValueError, match=text):
    class_maps.read_class_map(_written(tmp_path, content), ['w'], NAMES)


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'There is no class map .*none'):
    class_maps.read_class_map(str(tmp_path / 'none'), ['w'], NAMES)


def _objectnet_mappings(tmp_path):
  """Files as ObjectNet ships them, of four folders."""
  contents = {
    'folder_to_objectnet_label.json': {
      'alarm_clock': 'Alarm clock',
      'banana': 'Banana',
      'basket': 'Basket',
      'air_freshener': 'Air freshener',
    },
    'objectnet_to_imagenet_1k.json': {
      'Alarm clock': 'analog clock; digital clock',
      'Banana': 'banana',
      'Basket': 'shopping basket; hamper',
    },
    # ImageNet's usual number -> line of the list of names.
    'pytorch_to_imagenet_2012_id.json': {
      '409': 0,
      '530': 1,
      '954': 2,
      '588': 3,
      '790': 4,
    },
  }
  for name, content in contents.items():
    (tmp_path / name).write_text(json.dumps(content))
  names = ['analog clock', 'digital clock', 'banana', 'hamper']
  (tmp_path / 'imagenet_to_label_2012_v2').write_text(
    '\n'.join([*names, 'shopping basket']) + '\n'
  )
  return tmp_path


def test_objectnet_maps_the_classes_it_shares_with_imagenet(tmp_path):
  directory = _objectnet_mappings(tmp_path)
  folders = ['air_freshener', 'alarm_clock', 'banana', 'basket']
  wnids = [f'n{i:08d}' for i in range(1000)]
  found = class_maps.read_objectnet_map(directory, folders, wnids)
  assert found == {
    'air_freshener': (),
    'alarm_clock': (409, 530),
    'banana': (954,),
    'basket': (790, 588),
  }
  with pytest.raises(ValueError, match="lack an entry: 'bench'"):
    class_maps.read_objectnet_map(directory, ['bench'], wnids)
  with pytest.raises(ValueError, match='the run has 3'):
    class_maps.read_objectnet_map(directory, folders, NAMES)
