"""What a report is made of: the records that a study's runs have left."""

import dataclasses
import functools
import json
import pathlib
import shlex
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lossbench.report import display
from lossbench.runs.directory import RunDirectory

_COLUMNS = ('dataset', 'split', 'metric', 'endpoint', 'value', 'unit', 'n')
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class NotRun(Exception):
  """What a table or figure needs was not run; the text says how to run it."""


@dataclasses.dataclass(frozen=True)
class RunRecords:
  """One run of a study.

  Attributes:
    name: 'group/objective[,variant]/seedN'.
    recipe: the group's name.
    recipe_file: of its configuration.
    objective: with augmentations, e.g. 'softmax+mixup'.
    variant: e.g. 'temperature=0.05', or ''.
    seed: of the run.
    dataset: its own.
    test_split: of it.
    transfer: 'dataset' or 'dataset:split' of each transfer that is planned.
    commands: stage -> command.
    path: the run directory.
    config: as JSON, {} before the run has begun.
    metrics: one row a metric: dataset ('transfer-<name>' for transfers), split,
      metric, endpoint ('' = none), value (NaN = could not be measured), unit, n.
    history: evaluations on the holdout.
    curves: of curves.npz on the own test split.
    error: of the last attempt if it failed and something is missing, or ''.
  """

  name: str
  recipe: str
  recipe_file: str
  objective: str
  variant: str
  seed: int
  dataset: str
  test_split: str
  transfer: tuple[str, ...]
  commands: dict[str, str]
  path: pathlib.Path
  config: dict[str, Any]
  metrics: pd.DataFrame
  history: list[dict[str, float]]
  curves: dict[str, np.ndarray]
  error: str

  @property
  def key(self) -> tuple[str, str]:
    """What seeds of one configuration share within a recipe."""
    return self.objective, self.variant

  def value(
    self, metric: str, *, dataset: str | None = None, endpoint: str = ''
  ) -> float | None:
    """A measured number; None if it was not, or could not be, measured.

    Args:
      metric: its name.
      dataset: None for the run's own test split.
      endpoint: of a layer's metric.
    """
    rows = self.metrics
    if dataset is None:
      rows = rows[
        (rows.dataset == self.dataset) & (rows.split == self.test_split)
      ]
    else:
      rows = rows[rows.dataset == dataset]
    rows = rows[(rows.metric == metric) & (rows.endpoint == endpoint)]
    if rows.empty or np.isnan(rows.value.iloc[0]):
      return None
    return float(rows.value.iloc[0])

  @property
  def holdout_accuracy(self) -> float | None:
    """The maximum over training, as in Table C.1; None before the first."""
    values = [r['top1_accuracy'] for r in self.history if 'top1_accuracy' in r]
    return max(values, default=None)

  @property
  def is_evaluated(self) -> bool:
    """Whether everything that was to be measured is there."""
    return self.value('top1_accuracy') is not None and all(
      self.transfer_value(target) is not None for target in self.transfer
    )

  def endpoints(self, metric: str) -> tuple[str, ...]:
    """The layers that a metric was measured at, in forward order."""
    rows = self.metrics[
      (self.metrics.dataset == self.dataset)
      & (self.metrics.split == self.test_split)
      & (self.metrics.metric == metric)
    ]
    return tuple(rows.endpoint)

  def transfer_value(self, target: str) -> float | None:
    """The main metric of a transfer, or None."""
    return self.value('main', dataset=f'transfer-{target}')

  @functools.cached_property
  def correct(self) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids [N] and whether top-1 was right [N] on the own test split, or None."""
    path = RunDirectory(self.path).eval_path(self.dataset, self.test_split)
    try:
      with np.load(path / 'predictions.npz') as stored:
        right = stored['logits'].argmax(axis=1) == stored['label']
        return stored['id'], right
    except _UNREADABLE:
      return None


@dataclasses.dataclass(frozen=True)
class StudyRecords:
  """All of a study.

  Attributes:
    name: of the study.
    title: of the report.
    path: the study's directory.
    config: file of its configuration.
    overrides: flags that changed it.
    runs: in the study's order.
    comparisons: name -> comparison.json, {} where it is not there.
    comparison_commands: name -> command.
    problems: one line for every damaged file, which was left out.
  """

  name: str
  title: str
  path: pathlib.Path
  config: str
  overrides: tuple[str, ...]
  runs: tuple[RunRecords, ...]
  comparisons: dict[str, dict[str, Any]]
  comparison_commands: dict[str, str]
  problems: tuple[str, ...]

  def recipes(self) -> tuple[str, ...]:
    """Names of the groups, in the order of all tables and figures."""
    names = dict.fromkeys(run.recipe for run in self.runs)
    return tuple(sorted(names, key=display.recipe_order))

  def keys(self, recipe: str) -> tuple[tuple[str, str], ...]:
    """(objective, variant) of a group, in the order of all tables."""
    keys = {run.key for run in self.runs if run.recipe == recipe}
    return tuple(sorted(keys, key=display.order))

  def runs_of(
    self, recipe: str, key: tuple[str, str] | None = None
  ) -> tuple[RunRecords, ...]:
    """The runs of a group, or only the seeds of one (objective, variant)."""
    return tuple(
      run
      for run in self.runs
      if run.recipe == recipe and key in (None, run.key)
    )

  def comparison(self, recipe: str) -> dict[str, Any]:
    """The comparison of a group's runs.

    Raises:
      NotRun: if it is not there.
    """
    found = self.comparisons.get(recipe)
    if found:
      return found
    if recipe not in self.comparison_commands:
      raise NotRun('not run: this study does not compare these runs')
    raise NotRun(f'not run: {self.rerun_command}')

  @property
  def rerun_command(self) -> str:
    """The command that does everything that is missing."""
    words = ['python', '-m', 'lossbench.study', f'--config={self.config}']
    return shlex.join([*words, *self.overrides, f'--workdir={self.path}'])


class _Reader:
  """Reads what is there and names what is damaged."""

  def __init__(self):
    self.problems: list[str] = []

  def json(self, path: pathlib.Path, kind: type = dict) -> Any:
    """The content; an empty one if the file is missing or damaged."""
    try:
      value = json.loads(path.read_text())
      if not isinstance(value, kind):
        raise ValueError(f'it is not a {kind.__name__}')
      return value
    except FileNotFoundError:
      return kind()
    except (OSError, ValueError) as error:
      self._damaged(path, error)
      return kind()

  def arrays(self, path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
      with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
      return {}
    except _UNREADABLE as error:
      self._damaged(path, error)
      return {}

  def comparison(self, path: pathlib.Path) -> dict[str, Any]:
    found = self.json(path)
    lacking = {'runs', 'agreement', 'clustering', 'ensembles'} - found.keys()
    if found and lacking:
      self._damaged(path, f'it has no {", ".join(sorted(lacking))}')
      return {}
    return found

  def archive(self, path: pathlib.Path):
    """Names a damaged .npz that is read later, if it is needed at all."""
    if path.exists() and not zipfile.is_zipfile(path):
      self._damaged(path, 'it is not a whole .npz')

  def _damaged(self, path: pathlib.Path, why):
    remedy = ''
    if path.parent.parent.name == 'eval':
      record = path.parent.parent / 'evaluation.json'
      if path.parent.name.startswith('transfer-'):
        record = path
      remedy = f'. Delete {record} and run the study again to measure it anew'
    self.problems.append(f'{path} is damaged and left out: {why}{remedy}')

  def metrics(self, path: pathlib.Path) -> list[tuple]:
    """Rows of one metrics.json."""
    record = self.json(path)
    folder, transfer = path.parent.name, path.parent.name.startswith('transfer')
    try:
      dataset, split = record.get('dataset'), record.get('split')
      if transfer:
        trained_on = record.get('train_split', '')
        # The folder has the split in its name only if it was asked for.
        named = folder != f'transfer-{dataset}'
        dataset = f'transfer-{dataset}' + (f':{trained_on}' if named else '')
      rows = [
        (
          dataset,
          split,
          metric['name'],
          metric['endpoint'] or '',
          np.nan if metric['value'] is None else float(metric['value']),
          metric['unit'],
          metric['n'],
        )
        for metric in record.get('metrics', [])
      ]
      main = record.get('main_metric')
      return rows + [
        (row[0], row[1], 'main', *row[3:]) for row in rows if row[2] == main
      ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      self._damaged(path, repr(error))
      return []


def _read_run(
  reader: _Reader, study: pathlib.Path, record: Mapping[str, Any]
) -> RunRecords:
  path = study / 'runs' / record['name']
  rows = []
  for metrics_path in sorted((path / 'eval').glob('*/metrics.json')):
    rows += reader.metrics(metrics_path)
  error = reader.json(path / 'error.json')
  own = RunDirectory(path).eval_path(record['dataset'], record['test_split'])
  reader.archive(own / 'predictions.npz')
  fields = {
    name: record[name]
    for name in (
      'name',
      'recipe',
      'recipe_file',
      'objective',
      'variant',
      'seed',
      'dataset',
      'test_split',
      'commands',
    )
  }
  run = RunRecords(
    **fields,
    transfer=tuple(record['transfer']),
    path=path,
    config=reader.json(path / 'config.json'),
    metrics=pd.DataFrame(rows, columns=_COLUMNS),
    history=reader.json(path / 'history.json', list),
    curves=reader.arrays(own / 'curves.npz'),
    error=f'{error["stage"]}: {error["error"]}' if len(error) == 2 else '',
  )
  # Another attempt, by hand, may have done it all since.
  return dataclasses.replace(run, error='') if run.is_evaluated else run


def load_study(path: str | pathlib.Path) -> StudyRecords:
  """Reads the records of a study.

  Args:
    path: the --workdir of `lossbench.study`.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its study.json is damaged, or no run has left any record.
  """
  if '://' in str(path):
    raise ValueError(
      f'{path} lies in a bucket, and reports read a disk. Copy it first, without '
      'the checkpoints: gcloud storage rsync --recursive --exclude='
      f"'.*/checkpoints/.*' {path} STUDY"
    )
  path = pathlib.Path(path).expanduser()
  study_path = path / 'study.json'
  if not study_path.exists():
    raise FileNotFoundError(
      f'{path} is not a study: it has no study.json. Give the --workdir of '
      'python -m lossbench.study.'
    )
  reader = _Reader()
  try:
    study = json.loads(study_path.read_text())
    runs = tuple(_read_run(reader, path, record) for record in study['runs'])
    comparisons = {
      comparison['name']: reader.comparison(
        path / 'comparisons' / comparison['name'] / 'comparison.json'
      )
      for comparison in study['comparisons']
    }
    commands = {c['name']: c['command'] for c in study['comparisons']}
    name, title, config = (study[k] for k in ('name', 'title', 'config'))
    overrides = tuple(study['overrides'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{study_path} is damaged: {error!r}. Delete it, and run the study again, '
      'which writes it anew.'
    ) from error
  records = StudyRecords(
    name=name,
    title=title,
    path=path,
    config=config,
    overrides=overrides,
    runs=runs,
    comparisons=comparisons,
    comparison_commands=commands,
    problems=tuple(reader.problems),
  )
  if all(run.metrics.empty and not run.history for run in runs):
    raise ValueError(
      f'No run of the study in {path} has left a result. Run it first: '
      f'{records.rerun_command}'
    )
  return records
