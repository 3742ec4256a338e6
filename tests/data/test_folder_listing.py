"""What lies in a folder of images, and what is refused by name."""

import pytest

from lossbench.data.folder_listing import list_classes, list_images
from tests.data.pictures import write_folders

TWO = {'train/cat': 3, 'train/dog': 2, 'val/cat': 1, 'val/dog': 1}


def test_splits_classes_and_files_are_listed_in_order(tmp_path):
  root = write_folders(tmp_path, TWO)
  listing = list_images(root)
  assert list_classes(root) == ['cat', 'dog']
  assert listing.classes == ('cat', 'dog')
  # What is reported on is called 'test'.
  assert list(listing.files) == ['test', 'train']
  assert listing.files['train'] == [
    ('train/cat/000.png', 'cat'),
    ('train/cat/001.png', 'cat'),
    ('train/cat/002.png', 'cat'),
    ('train/dog/000.png', 'dog'),
    ('train/dog/001.png', 'dog'),
  ]
  assert listing.files['test'][0] == ('val/cat/000.png', 'cat')


def test_validation_keeps_its_name_beside_a_test_split(tmp_path):
  root = write_folders(
    tmp_path, {f'{s}/cat': 1 for s in ('train', 'validation', 'test')}
  )
  assert set(list_images(root).files) == {'train', 'validation', 'test'}


def test_folders_without_splits_are_a_test_split(tmp_path):
  # 'train' is a class here, as of a data set of vehicles.
  root = write_folders(tmp_path, {'bus': 1, 'train': 2})
  listing = list_images(root)
  assert listing.classes == ('bus', 'train')
  assert list_classes(root) == ['bus', 'train']
  assert listing.files['test'][1] == ('train/000.png', 'train')


def test_hidden_files_and_files_beside_splits_are_nobodys(tmp_path):
  root = write_folders(tmp_path, TWO)
  (root / 'README.txt').touch()
  (root / 'train' / 'labels.csv').touch()
  (root / 'train' / 'cat' / '.DS_Store').touch()
  assert len(list_images(root).files['train']) == 5


def _empty(root):
  (root / 'train' / 'cow').mkdir()


def _text_file(root):
  (root / 'train' / 'cat' / 'notes.txt').touch()


def _gif(root):
  (root / 'val' / 'cat' / 'moving.gif').touch()


def _nested(root):
  (root / 'train' / 'cat' / 'kittens').mkdir()


def _stray(root):
  (root / 'train' / 'stray.png').touch()


def _another_class(root):
  write_folders(root, {'train/cow': 1})


def _both_names(root):
  write_folders(root, {'validation/cat': 1})


@pytest.mark.parametrize(
  ('damage', 'text'),
  [
    (_empty, r'Class folder .*train/cow has no images'),
    (
      _text_file,
      r"train/cat holds 1 file\(s\) that are no images.*'notes.txt'",
    ),
    (_gif, r"val/cat holds 1 file\(s\) that are no images.*'moving.gif'"),
    (_nested, r"train/cat holds another folder, 'kittens'"),
    (_stray, r"train holds images outside class folders, such as 'stray.png'"),
    (
      _another_class,
      r"differ between splits: 1 do, such as 'cow', which 'train' has and 'val'",
    ),
    (_both_names, r"has both 'val' and 'validation'"),
  ],
)
def test_what_is_not_as_it_should_be_is_named(tmp_path, damage, text):
  root = write_folders(tmp_path, TWO)
  damage(root)
  with pytest.raises(ValueError, match=text) as error:
    list_images(root)
  assert '\n' not in str(error.value)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'There is no folder .*/none'):
    list_images(tmp_path / 'none')
  with pytest.raises(ValueError, match='has no class folders'):
    list_images(tmp_path)
