"""Corruptions of CIFAR-10 that are made of the data set itself."""

import pathlib

import numpy as np
import pytest

from lossbench.data import catalogue, cifar10_c8, corruptions, datasets


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, request):
  """CIFAR-10 in a directory that may be written to."""
  source = (
    request.config.rootpath.parent / 'shared' / 'data' / 'tfds' / 'cifar10'
  )
  if not source.is_dir():
    pytest.skip(f'needs CIFAR-10, prepared by TFDS in {source}')
  path = tmp_path_factory.mktemp('tfds')
  (path / 'cifar10').symlink_to(source)
  return str(path)


def test_it_has_the_first_test_images_corrupted(data_dir, monkeypatch):
  monkeypatch.setattr(cifar10_c8, 'NUM_IMAGES', 20)
  name = 'cifar10_c8_contrast_3'
  assert 'lossbench.prepare --dataset=cifar10_c8' in datasets.not_available(
    name, data_dir
  )
  datasets.prepare(name, data_dir=data_dir)
  assert datasets.not_available(name, data_dir) is None

  def read(dataset, split):
    builder = datasets.open_dataset(dataset, data_dir=data_dir, num_classes=10)
    return list(builder.as_dataset(split=split).as_numpy_iterator())

  clean = read('cifar10', 'test[:20]')
  corrupted = {record['id']: record for record in read(name, 'test')}
  assert len(corrupted) == 20
  for index, record in enumerate(clean):
    other = corrupted[record['id']]
    assert other['label'] == record['label']
    np.testing.assert_array_equal(
      other['image'],
      corruptions.corrupt_as('contrast_3', record['image'], index),
    )


def test_a_second_time_nothing_is_made(data_dir, monkeypatch):
  monkeypatch.setattr(cifar10_c8, 'NUM_IMAGES', 2)
  name = 'cifar10_c8_brightness_1'
  datasets.prepare(name, data_dir=data_dir)
  [info] = pathlib.Path(data_dir).glob(
    'cifar10_c8/brightness_1/*/dataset_info.json'
  )
  before = info.stat().st_mtime_ns
  datasets.prepare(name, data_dir=data_dir)
  assert info.stat().st_mtime_ns == before


def test_what_cannot_be_made_is_refused(tmp_path):
  with pytest.raises(ValueError, match="'cifar100' is for TFDS to prepare"):
    datasets.prepare('cifar100', data_dir=str(tmp_path))
  with pytest.raises(FileNotFoundError, match="'cifar10' is not in"):
    datasets.prepare('cifar10_c8_contrast_1', data_dir=str(tmp_path))
  with pytest.raises(ValueError, match="Unknown dataset 'cifar_c'"):
    catalogue.members_of('cifar_c')
  assert not list(tmp_path.iterdir())


def test_a_family_is_all_corruptions_and_severities():
  assert len(catalogue.members_of('cifar10_c8')) == 8 * 5
  assert catalogue.members_of('cifar10') == ('cifar10',)
