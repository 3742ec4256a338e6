"""Copies on a disk of what studies in buckets have recorded.

Tables and claims ask for arrays time and again, and a bucket that does not answer
must not pass for a damaged record.
"""

import concurrent.futures
import contextlib
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

from lossbench.report.reading import PLANS
from lossbench.runs.directory import RunDirectory, parse_json
from lossbench.runtime import storage

_OF_RUN = 'config.json', 'error.json', 'history.json', 'run.json'
_OF_SPLIT = 'metrics.json', 'curves.npz', 'per_example.npz', 'predictions.npz'


@contextlib.contextmanager
def on_disk(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A study's directory; of one in a bucket a copy, while the context lasts.

  Checkpoints are not copied, nor predictions whose values per example are there.

  Args:
    path: of the study.

  Raises:
    OSError: if it lies in a bucket that cannot be reached.
  """
  source = storage.as_path(path)
  if not storage.is_remote(source):
    yield source
    return
  with tempfile.TemporaryDirectory() as directory:
    target = pathlib.Path(directory)
    _copy_study(source, target)
    yield target


def _copy_study(source: storage.Path, target: pathlib.Path):
  _copy_files(source, target, PLANS)
  try:
    name = next((n for n in PLANS if (target / n).exists()), PLANS[0])
    study = parse_json((target / name).read_bytes())
    runs = [f'runs/{run["name"]}' for run in study['runs']]
    comparisons = [f'comparisons/{c["name"]}' for c in study['comparisons']]
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return  # which who reads the copy will say

  def copy(name: str):
    if name in runs:
      _copy_run(RunDirectory(source / name), target / name)
    else:
      _copy_files(source / name, target / name, ['comparison.json'])

  # One after another they would take minutes.
  with concurrent.futures.ThreadPoolExecutor(max_workers=32) as executor:
    list(executor.map(copy, runs + comparisons))


def _copy_run(run: RunDirectory, target: pathlib.Path):
  _copy_files(run.path, target, _OF_RUN)
  results = run.evaluation_path.parent
  _copy_files(results, target / results.name, [run.evaluation_path.name])
  for split in _children(results):
    names = set(_OF_SPLIT)
    if split / 'per_example.npz' in _children(split):
      names.remove('predictions.npz')
    _copy_files(split, target / results.name / split.name, names)


def _copy_files(
  source: storage.Path, target: pathlib.Path, names: Iterable[str]
):
  """Copies those of the files that are there."""
  for path in _children(source):
    if path.name in names:
      target.mkdir(parents=True, exist_ok=True)
      (target / path.name).write_bytes(path.read_bytes())


def _children(directory: storage.Path) -> list[storage.Path]:
  return list(directory.iterdir()) if directory.is_dir() else []
