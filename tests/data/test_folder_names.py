"""Names of folders of images, in configurations and on command lines."""

import pytest

from lossbench.data import catalogue
from lossbench.data.folder_names import (
  FolderName,
  parse_folder,
  split_target,
)


def test_names_are_a_kind_a_path_and_perhaps_a_class_map():
  assert parse_folder('folder:/a b/c') == FolderName('folder', '/a b/c', '')
  assert parse_folder('folder:gs://x/y').path == 'gs://x/y'
  assert parse_folder('folder:/x#/m.json').class_map == '/m.json'
  assert parse_folder('objectnet:/x').kind == 'objectnet'
  for other in ('folder', 'folder:', 'folders:/x', 'cifar10', ''):
    assert parse_folder(other) is None


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('cifar10', ('cifar10', '')),
    ('digits:holdout', ('digits', 'holdout')),
    ('folder:/x', ('folder:/x', '')),
    ('folder:x:holdout', ('folder:x', 'holdout')),
    ('folder:/x:holdout', ('folder:/x', 'holdout')),
    ('folder:gs://x/y', ('folder:gs://x/y', '')),
    ('folder:gs://x/y:train[:10]', ('folder:gs://x/y', 'train[:10]')),
  ],
)
def test_a_target_is_a_data_set_and_perhaps_a_split(text, expected):
  assert split_target(text) == expected


def test_the_catalogue_knows_folders():
  assert catalogue.get_dataset_spec('folder:/x').test_split == 'test'
  with pytest.raises(ValueError, match='is a family of 75 data sets'):
    catalogue.get_dataset_spec('imagenet_c:/x')


def test_imagenet_c_in_folders_has_the_members_of_the_catalogue():
  members = catalogue.named_ood_sets('imagenet_c:/data/c')
  known = {s.name for s in catalogue.ood_suite('imagenet2012')}
  assert len({s.name for s in members} & known) == len(members) == 75
  [fog] = [s for s in members if s.name == 'imagenet_c_fog_3']
  assert fog.folder == 'folder:/data/c/fog/3'
  assert fog.family == 'imagenet_c'
