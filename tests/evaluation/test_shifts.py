"""Runs evaluated on folders of images, by names of classes and by class maps."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lossbench.data import datasets, folder_listing, folders
from lossbench.evaluation import printing, shifts
from lossbench.evaluation.checkpoint import evaluate_checkpoint
from lossbench.evaluation.outputs import RunOutputs
from lossbench.runs.directory import safe_name

# Digits by their shapes: one class of the data set is several of the run's.
SHAPES = {'closed': [0, 6, 8, 9], 'open': ['1', 7], 'other': None}


@pytest.fixture(scope='module')
def run(tiny_runs, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('shifts') / 'run'
  shutil.copytree(tiny_runs['sigmoid_0'], workdir)
  return workdir


def _write_digits(digits_dir, root, folder_of) -> pathlib.Path:
  """The test images of the digits, each in the folder of its label."""
  records = datasets.open_dataset('digits', data_dir=digits_dir).as_dataset(
    split='test', decoders={'image': tfds.decode.SkipDecoding()}
  )
  for number, record in enumerate(records.as_numpy_iterator()):
    folder = root / folder_of(record['label'])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{number:04d}.png').write_bytes(record['image'])
  return root


@pytest.fixture(scope='module')
def names(run, digits_dir, tmp_path_factory):
  """Evaluates the run on folders; what -> the name of the data set."""
  root = tmp_path_factory.mktemp('images')
  _write_digits(digits_dir, root / 'digits', str)
  _write_digits(digits_dir, root / 'low', lambda y: str(y % 3))
  shapes = {label: shape for shape in SHAPES for label in SHAPES[shape] or ()}
  _write_digits(digits_dir, root / 'shapes', lambda y: shapes.get(y, 'other'))
  (root / 'map.json').write_text(json.dumps(SHAPES))
  for severity in (1, 2):
    path = root / 'corrupted' / 'fog' / str(severity)
    shutil.copytree(root / 'digits', path)
  shutil.copytree(root / 'shapes', root / 'strange' / 'fog' / '3')
  found = {
    'same': f'folder:{root}/digits',
    'low': f'folder:{root}/low',
    'mapped': f'folder:{root}/shapes#{root}/map.json',
    'family': f'imagenet_c:{root}/corrupted',
  }
  evaluate_checkpoint(str(run), ood=False, ood_sets=list(found.values()))
  return found


def _values(run, directory):
  content = json.loads((run / 'eval' / directory / 'metrics.json').read_text())
  return {
    m['name']: m['value'] for m in content['metrics'] if not m['endpoint']
  }


def test_the_same_images_in_folders_have_the_same_numbers(run, names):
  own = _values(run, 'digits-test')
  directory = f'{safe_name(names["same"])}-test'
  assert directory.startswith('folder-digits-')
  found = _values(run, directory)
  for name in ('top1_accuracy', 'nll', 'ece', 'brier_score', 'temperature'):
    assert found[name] == pytest.approx(own[name], rel=1e-5)
  assert found['max_probability_auroc'] == pytest.approx(0.5)
  assert 'subset_nll' not in found


def test_few_of_the_classes_are_also_scored_among_themselves(run, names):
  directory = f'{safe_name(names["low"])}-test'
  with np.load(run / 'eval' / directory / 'predictions.npz') as stored:
    logits, labels = stored['logits'], stored['label']
  assert set(labels) == {0, 1, 2}
  found = _values(run, directory)
  assert found['top1_accuracy'] == np.mean(logits.argmax(1) == labels)
  assert found['subset_top1_accuracy'] == pytest.approx(
    np.mean(logits[:, :3].argmax(1) == labels)
  )


def test_classes_that_are_several_of_the_runs_are_scored_among_the_mapped(
  run, names
):
  directory = f'{safe_name(names["mapped"])}-test'
  with np.load(run / 'eval' / directory / 'predictions.npz') as stored:
    logits, ids = stored['logits'], stored['id'].astype(str)
  closed, opened = [0, 6, 8, 9], [1, 7]
  logits[:, [2, 3, 4, 5]] = -np.inf
  right = [
    top in (closed if name.startswith('closed/') else opened)
    for top, name in zip(logits.argmax(1), ids, strict=True)
  ]
  assert not any(name.startswith('other/') for name in ids)
  found = _values(run, directory)
  assert found['subset_top1_accuracy'] == pytest.approx(np.mean(right))
  assert 'top1_accuracy' not in found


def test_corruptions_in_folders_are_the_members_of_their_family(run, names):
  own = _values(run, 'digits-test')
  for severity in (1, 2):
    found = _values(run, f'imagenet_c_fog_{severity}-validation')
    assert found['nll'] == pytest.approx(own['nll'], rel=1e-5)
  # Seventy-three are missing, so the family has no mean.
  assert _values(run, 'imagenet_c-validation')['top1_accuracy'] is None
  record = json.loads((run / 'eval' / 'evaluation.json').read_text())
  assert record['ood_sets'] == list(names.values())
  assert len(record['not_available']) == 73
  assert 'there is no folder' in record['not_available']['imagenet_c_snow_5']


def test_a_folder_is_listed_once_in_an_evaluation(run, names, monkeypatch):
  listed = []

  def list_images(root):
    listed.append(root.name)
    return folder_listing.list_images(root)

  monkeypatch.setattr(folders, 'list_images', list_images)
  outputs = RunOutputs(run)
  named = shifts.find_ood_sets(
    outputs, [names['low'], names['mapped']], data_dir=None
  )
  shifts.evaluate_ood(outputs, data_dir=None, named=named, whole_suite=False)
  assert sorted(listed) == ['low', 'shapes']
  # Another evaluation may find it changed.
  RunOutputs(run).open_dataset(names['low'])
  assert len(listed) == 3


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('folder:{root}/none', 'there is no folder .*/none'),
    ('imagenet_c:{root}/none', 'there is no folder .*gaussian_noise/1'),
    (
      'imagenet_c:{root}/strange',
      "--ood_set=imagenet_c:.*fog/3: Folder 'closed' is none of the 10 classes",
    ),
    ('folder:{root}/shapes', "'closed' is none of the 10 classes of the run"),
    ('folder:{root}/shapes#{root}/no.json', 'There is no class map .*no.json'),
    ('folder:{root}/digits#{root}/map.json', "no entry of folder '0'"),
    ('digits_low', "which are not the 10 of 'digits'"),
    ('nothing', "Unknown dataset 'nothing'"),
    ('digits', 'the data set of the run itself'),
    ('digit_pairs', "which are not the 10 of 'digits'"),
  ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything(
  run, names, name, text
):
  root = names['same'].removeprefix('folder:').removesuffix('/digits')
  name = name.format(root=root)
  before = {p: p.stat().st_mtime_ns for p in run.rglob('*')}
  with pytest.raises((ValueError, FileNotFoundError), match=text) as error:
    evaluate_checkpoint(str(run), ood_sets=[name])
  assert '\n' not in str(error.value)
  assert {p: p.stat().st_mtime_ns for p in run.rglob('*')} == before


@pytest.mark.parametrize(
  ('dataset', 'name', 'shifted'),
  [('cifar10', 'svhn_cropped', [False]), ('digits', 'digits_c', [True] * 40)],
)
def test_what_the_suite_says_of_a_set_holds_where_it_is_named(
  run, monkeypatch, dataset, name, shifted
):
  monkeypatch.setattr(datasets, 'not_available', lambda *_: None)
  outputs = RunOutputs(run)
  outputs.config.dataset = dataset
  found = shifts.find_ood_sets(outputs, [name], data_dir=None)
  assert [ood_set.shifted for ood_set in found] == shifted


def test_one_corruption_is_no_mean_of_its_family(run):
  name = 'digits_c_contrast_1'
  evaluate_checkpoint(str(run), ood=False, ood_sets=[name])
  assert _values(run, f'{name}-test')['top1_accuracy'] > 0
  assert not (run / 'eval' / 'digits_c-test').exists()


def test_long_names_are_printed_whole(names, capsys):
  printing.print_ood_table({'folder:' + '/directory' * 20: []}, {})
  assert '…' not in capsys.readouterr().out
