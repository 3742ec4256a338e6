"""Opening data sets: never a download, and errors that say what to do."""

import ast
import pathlib
import re
import shutil

import pytest
import tensorflow_datasets as tfds

from lossbench.data import catalogue, datasets, digits


@pytest.fixture
def builder(digits_dir):
  return datasets.open_dataset('digits', data_dir=digits_dir)


@pytest.fixture
def cifar10_spec(monkeypatch):
  """A data set that TFDS would have to download, whatever is registered."""
  spec = datasets.DatasetSpec('cifar10')
  monkeypatch.setitem(datasets.DATASETS, 'cifar10', spec)


def test_known_datasets_can_be_looked_up():
  names = catalogue.known_datasets()
  assert 'digits' in names
  assert list(names) == sorted(names)
  for name in names:
    spec = catalogue.get_dataset_spec(name)
    assert spec.tfds_name
    assert spec.test_split


def test_unknown_dataset_suggests_a_known_one(tmp_path):
  with pytest.raises(ValueError, match="Unknown dataset 'digit'") as error:
    datasets.open_dataset('digit', data_dir=str(tmp_path))
  assert 'cifar10, ' in str(error.value)
  assert 'imagenet_c_<corruption>_<severity>' in str(error.value)
  assert "Did you mean 'digits'?" in str(error.value)


def test_unknown_dataset_like_no_other_gets_no_suggestion():
  with pytest.raises(ValueError, match="Unknown dataset 'xyz'") as error:
    catalogue.get_dataset_spec('xyz')
  assert 'Did you mean' not in str(error.value)


def test_missing_dataset_is_refused_without_a_download(
  cifar10_spec, tmp_path, monkeypatch
):
  def refuse(*args, **kwargs):
    raise AssertionError('a download was started')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', refuse)
  with pytest.raises(FileNotFoundError) as error:
    datasets.open_dataset('cifar10', data_dir=str(tmp_path))
  text = str(error.value)
  assert f"'cifar10' is not in {tmp_path}/cifar10" in text  # where it looked
  assert '--config.data_dir' in text
  assert 'TFDS_DATA_DIR' in text
  assert not list(tmp_path.iterdir())


def test_missing_dataset_error_ends_with_a_command_that_prepares_it(
  cifar10_spec, tmp_path, monkeypatch
):
  with pytest.raises(FileNotFoundError) as error:
    datasets.open_dataset('cifar10', data_dir=str(tmp_path))
  (program,) = re.findall(r'python -c "(.*)"$', str(error.value))
  ast.parse(program)
  prepared = []
  monkeypatch.setattr(
    tfds.core.DatasetBuilder,
    'download_and_prepare',
    lambda self: prepared.append(str(self.data_dir)),
  )
  exec(program, {})
  (path,) = prepared
  assert path.startswith(str(tmp_path / 'cifar10'))


def test_number_of_classes_is_checked(digits_dir):
  datasets.open_dataset('digits', data_dir=digits_dir, num_classes=10)
  with pytest.raises(ValueError, match=r'has 10 classes.*num_classes=100'):
    datasets.open_dataset('digits', data_dir=digits_dir, num_classes=100)


def test_digits_are_prepared_once(builder, digits_dir):
  def stamps():
    paths = pathlib.Path(digits_dir, 'digits').rglob('*')
    return {path: path.stat().st_mtime_ns for path in paths}

  before = stamps()
  again = datasets.open_dataset('digits', data_dir=digits_dir)
  assert again.info.splits['train'].num_examples == 1442
  assert stamps() == before


def test_unwritable_data_dir_is_named(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='cannot be written') as error:
    datasets.open_dataset('digits', data_dir=str(tmp_path / 'file' / 'data'))
  assert str(tmp_path / 'file' / 'data') in str(error.value)
  assert '--config.data_dir' in str(error.value)


def test_losing_the_race_to_prepare_is_no_error(tmp_path, monkeypatch):
  """As when the processes of a run, or of a study, all start at once."""
  split_generators = digits.Digits._split_generators
  overtaken = []

  def overtake(self, dl_manager):
    if not overtaken:
      overtaken.append(True)
      datasets.open_dataset('digits', data_dir=str(tmp_path))
    return split_generators(self, dl_manager)

  monkeypatch.setattr(digits.Digits, '_split_generators', overtake)
  builder = datasets.open_dataset('digits', data_dir=str(tmp_path))
  assert overtaken
  assert builder.info.splits['test'].num_examples == 355
  assert len(list((tmp_path / 'digits').iterdir())) == 1  # no debris


def test_data_dir_is_argument_then_environment_then_home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/reader')
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  for absent in (None, ''):
    assert (
      datasets.resolve_data_dir(absent) == '/home/reader/tensorflow_datasets'
    )
  monkeypatch.setenv('TFDS_DATA_DIR', '~/environment')
  assert datasets.resolve_data_dir('') == '/home/reader/environment'
  assert datasets.resolve_data_dir('~/mine') == '/home/reader/mine'
  assert datasets.resolve_data_dir('/data') == '/data'


def test_num_examples_of_splits_and_slices(builder):
  sizes = {
    'train': 1442,
    'test': 355,
    'train[:100]': 100,
    'train[-42:]': 42,
    'test[:20%]': 71,
    'train+test': 1797,
  }
  assert {s: datasets.num_examples(builder, s) for s in sizes} == sizes


@pytest.mark.parametrize(
  'split', ['validation', 'holdout', '', 'train[', 'train[:x]', 'train[:9999]']
)
def test_bad_split_lists_the_splits(builder, split):
  with pytest.raises(ValueError, match='has no split') as error:
    datasets.num_examples(builder, split)
  assert repr(split) in str(error.value)
  assert 'It has: test, train' in str(error.value)


@pytest.mark.parametrize('split', ['train[:0]', 'train[10:5]'])
def test_empty_split_is_refused(builder, split):
  with pytest.raises(ValueError, match='has no examples') as error:
    datasets.num_examples(builder, split)
  assert repr(split) in str(error.value)


def test_holdout_and_train_are_disjoint_and_complete(builder):
  def rows(split):
    records = builder.as_dataset(
      split=split, read_config=tfds.ReadConfig(add_tfds_id=True)
    )
    return [record['tfds_id'] for record in records.as_numpy_iterator()]

  train, holdout = datasets.holdout_splits(builder, num_holdout=142)
  assert len(rows(holdout)) == 142
  assert rows(train) + rows(holdout) == rows('train')


def test_no_holdout_trains_on_everything(builder):
  assert datasets.holdout_splits(builder, num_holdout=0) == ('train', '')


@pytest.mark.parametrize('num_holdout', [-1, 1442, 5000])
def test_holdout_must_leave_something_to_train_on(builder, num_holdout):
  with pytest.raises(ValueError, match=r'num_holdout must be in \[0, 1442\)'):
    datasets.holdout_splits(builder, num_holdout=num_holdout)


@pytest.mark.parametrize(
  ('split', 'other'),
  [
    ('train', 'test'),
    ('train[:100]', 'train[60:]'),
    ('train[-50:]+test[:10]', 'test+train[:1400]'),
    ('train[10%:20%]', 'train[15%:50%]+test'),
  ],
)
def test_shared_examples_by_reading_them(builder, split, other):
  def ids(split):
    read_config = tfds.ReadConfig(add_tfds_id=True)
    records = builder.as_dataset(split=split, read_config=read_config)
    return {record['tfds_id'] for record in records.as_numpy_iterator()}

  expected = len(ids(split) & ids(other))
  assert datasets.num_shared_examples(builder, split, other) == expected


def test_a_data_set_is_told_from_one_prepared_anew(digits_dir, tmp_path):
  known = datasets.describe(
    datasets.open_dataset('digits', data_dir=digits_dir)
  )
  assert (known['name'], known['version']) == ('digits', '1.0.0')
  shutil.copytree(f'{digits_dir}/digits', tmp_path / 'copy/digits')
  copy = datasets.open_dataset('digits', data_dir=str(tmp_path / 'copy'))
  assert datasets.describe(copy) == known
  record = sorted((tmp_path / 'copy').rglob('*train.tfrecord*'))[0]
  record.write_bytes(record.read_bytes() + b'x')
  changed = datasets.describe(copy)
  assert changed['num_bytes'] == known['num_bytes'] + 1
  assert changed['fingerprint'] != known['fingerprint']
