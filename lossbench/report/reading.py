"""Reads the records of a study; names what is damaged or of other networks."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lossbench.report import version_0_1
from lossbench.report.looks import Key
from lossbench.report.records import (
  FEW,
  PROTOCOLS,
  UNREADABLE,
  Comparison,
  Measured,
  RunRecords,
  StudyRecords,
  Target,
  TransferRecord,
)
from lossbench.runs.directory import (
  TRAINING,
  RunDirectory,
  flatten,
  parse_json,
)
from lossbench.runtime import storage

# What lists the runs of a study, and the models of scored files.
PLANS = ('study.json', 'score.json')
_COMPARED = ('runs', 'num_examples', 'agreement', 'clustering', 'ensembles')


class _Reader:
  """Reads what is there and collects a line for everything left out."""

  def __init__(self):
    self.problems: list[str] = []

  def json(
    self, path: pathlib.Path, kind: type = dict, *, remedy: str = ''
  ) -> Any:
    """The content; an empty one if the file is missing or damaged."""
    try:
      value = parse_json(path.read_bytes())
      if not isinstance(value, kind):
        raise ValueError(f'it is not a {kind.__name__}')
      return value
    except FileNotFoundError:
      return kind()
    except (OSError, ValueError) as error:
      self.damaged(path, error, remedy)
      return kind()

  def arrays(self, path: pathlib.Path, *, remedy: str) -> dict[str, np.ndarray]:
    try:
      with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
      return {}
    except UNREADABLE as error:
      self.damaged(path, error, remedy)
      return {}

  def archive(self, path: pathlib.Path, *, remedy: str):
    """Names a damaged .npz that is read later, if it is needed at all."""
    if path.exists() and not zipfile.is_zipfile(path):
      self.damaged(path, 'it is not a whole .npz', remedy)

  def damaged(self, path: pathlib.Path, why, remedy: str = ''):
    self.problems.append(f'{path} is damaged and left out: {why}{remedy}')


@dataclasses.dataclass(frozen=True)
class _Wanted:
  """The checkpoint that a study wants to know of; None where that is unknown."""

  step: int | None
  checkpoint: str | None
  compute_dtype: str | None = None

  def difference(self, record: Mapping[str, Any]) -> str:
    """What tells a record from the one that is wanted, or ''."""
    step, checkpoint = record.get('step'), record.get('checkpoint')
    if None not in (step, self.step) and step != self.step:
      return f'of step {step}, and the study wants step {self.step}'
    # Records of version 0.1 have no fingerprint.
    if None not in (checkpoint, self.checkpoint) and (
      checkpoint != self.checkpoint
    ):
      return (
        f'of checkpoint {checkpoint} at step {step}, and the study wants '
        f'{self.checkpoint}'
      )
    dtype = record.get('compute_dtype')
    if None not in (dtype, self.compute_dtype) and dtype != self.compute_dtype:
      return f'computed in {dtype}, and the study wants {self.compute_dtype}'
    return ''


def _wanted(run: Mapping[str, Any], evaluation: Mapping[str, Any]) -> _Wanted:
  """Checkpoints that are wanted; what was evaluated last, if not known yet."""
  found = run.get('wanted') or evaluation
  return _Wanted(
    found.get('step'), found.get('checkpoint'), found.get('compute_dtype')
  )


def _measured(
  metric: Mapping[str, Any], directory: pathlib.Path | None = None
) -> Measured:
  metric = version_0_1.upgrade_metric(metric)
  value, endpoint = metric['value'], metric['endpoint']
  return Measured(
    None if value is None else float(value),
    metric['n'],
    metric['note'],
    name=f'{metric["name"]}/{endpoint}' if endpoint else metric['name'],
    directory=directory,
  )


class _RunReader:
  """Reads the records of one run.

  Args:
    reader: of the study.
    path: the run directory.
    record: of the run in study.json.
    config: the content of its config.json.
    rerun: the command that measures anew what is missing.
  """

  def __init__(
    self,
    reader: _Reader,
    path: pathlib.Path,
    record: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    rerun: str,
  ):
    self._config = flatten(config)
    self._reader = reader
    self._directory = RunDirectory(path)
    self._record = record
    self._rerun = rerun
    self._wanted = _wanted(
      record,
      reader.json(
        self._directory.evaluation_path,
        remedy=f'. Measure it again: {rerun}',
      ),
    )
    self.left_out: list[str] = []

  def read(self) -> RunRecords:
    record, directory = self._record, self._directory
    targets = tuple(Target(**target) for target in record['transfer'])
    own = directory.eval_path(record['dataset'], record['test_split'])
    metrics = self._evaluations(own, targets)
    remedy = self._remedy(directory.evaluation_path)
    for name in ('predictions.npz', 'per_example.npz'):
      self._reader.archive(own / name, remedy=remedy)
    curves = self._reader.arrays(own / 'curves.npz', remedy=remedy)
    if all(dataset != record['dataset'] for dataset, *_ in metrics):
      curves = {}  # beside numbers of another network lie its curves
    training, training_curves = self._training()
    error = self._reader.json(directory.path / 'error.json')
    settings = record['settings']
    run = RunRecords(
      name=record['name'],
      group=record['group'],
      recipe=record['recipe'],
      model=record['model'],
      key=Key(
        record['objective'],
        tuple(
          (field.rpartition('.')[2], settings[field])
          for field in record['varied']
        ),
      ),
      settings=settings,
      seed=record['seed'],
      dataset=record['dataset'],
      test_split=record['test_split'],
      transfer=targets,
      commands=record['commands'],
      path=directory.path,
      metrics=metrics,
      transfers=self._transfers(targets),
      history=self._reader.json(
        directory.history_path,
        list,
        remedy=f'. Train again, which writes it anew: {self._rerun}',
      ),
      curves=curves,
      error=f'{error["stage"]}: {error["error"]}' if len(error) == 2 else '',
      left_out='; '.join(self.left_out),
      training=training,
      training_curves=training_curves,
      finetune=tuple(record.get('finetune', ())),
      finetuned=self._finetuned(),
      provenance=self._provenance(),
      config=self._config,
    )
    # Another attempt, by hand, may have done it all since.
    return dataclasses.replace(run, error='') if run.is_evaluated else run

  def _provenance(self) -> dict[str, Any]:
    """The checkpoint that numbers are of, and what trained it last."""
    about = self._reader.json(self._directory.about_path)
    starts = about.get('starts') or [{}]
    code = starts[-1].get('code', {})
    libraries = starts[-1].get('libraries', {})
    found = {
      'step': self._wanted.step,
      'checkpoint': self._wanted.checkpoint,
      'compute_dtype': self._wanted.compute_dtype,
      'version': about.get('lossbench_version'),
      'code': code.get('fingerprint'),
      'revision': code.get('revision'),
      'jax': libraries.get('jax', about.get('jax_version')),
      'device_kind': starts[-1].get('device_kind'),
      'devices': starts[-1].get('devices'),
      'num_starts': len(about.get('starts', ())) or None,
      'data': starts[-1].get('dataset', {}).get('fingerprint'),
    }
    return {name: value for name, value in found.items() if value is not None}

  def _training(self):
    """Numbers and curves of what the run was trained on."""
    own = self._directory.eval_path(self._record['dataset'], TRAINING)
    path = own / 'metrics.json'
    record = self._metrics(path, delete=path)
    if not record:
      return {}, {}
    curves = self._reader.arrays(own / 'curves.npz', remedy=self._remedy(path))
    return {
      (m['name'], m['endpoint'] or ''): _measured(m, own)
      for m in record['metrics']
    }, curves

  def _evaluations(self, own, targets) -> dict[tuple[str, str, str], Measured]:
    found = {}
    transfers = [
      self._directory.transfer_path(t.dataset, t.split) for t in targets
    ]
    training = self._directory.eval_path(self._record['dataset'], TRAINING)
    for path in sorted(self._directory.path.glob('eval/*/metrics.json')):
      if path.parent in (*transfers, training):
        continue
      record = self._metrics(path, delete=self._directory.evaluation_path)
      if 'main_metric' in record or not record:
        continue
      if record['dataset'] == self._record['dataset'] and path.parent != own:
        continue  # another split of the run's own data set
      for metric in record['metrics']:
        key = record['dataset'], metric['name'], metric['endpoint'] or ''
        found[key] = _measured(metric, path.parent)
    return found

  def _transfers(self, targets) -> dict[str, TransferRecord]:
    found = {}
    for target in targets:
      path = self._directory.transfer_path(target.dataset, target.split)
      path = path / 'metrics.json'
      record = self._metrics(path, delete=path)
      if not record:
        continue
      metrics = {
        m['name']: _measured(m, path.parent) for m in record['metrics']
      }
      trained = metrics.get('train_accuracy')
      found[target.name] = TransferRecord(
        main=metrics[record['main_metric']],
        num_train=trained.n if trained else 0,
        num_seen=record.get('num_seen_by_network', 0),
        others={
          protocol: metrics[f'{protocol}_{record["main_metric"]}']
          for protocol in PROTOCOLS
          if f'{protocol}_{record["main_metric"]}' in metrics
        },
        standard_errors={
          protocol: metrics[f'{protocol}_standard_error']
          for protocol in FEW
          if f'{protocol}_standard_error' in metrics
        },
      )
    return found

  def _finetuned(self) -> dict[str, Measured]:
    found = {}
    for dataset in self._record.get('finetune', ()):
      path = self._directory.finetune_path(dataset) / 'metrics.json'
      record = self._metrics(path, delete=path)
      for metric in record.get('metrics', ()):
        if metric['name'] == record['main_metric']:
          found[dataset] = _measured(metric, path.parent)
    return found

  def _remedy(self, delete: pathlib.Path) -> str:
    """What to do about a damaged file."""
    return f'. Delete {delete} and measure it again: {self._rerun}'

  def _metrics(
    self, path: pathlib.Path, *, delete: pathlib.Path
  ) -> Mapping[str, Any]:
    """A metrics.json; {} if it is missing, damaged or of another network.

    Args:
      path: of the file.
      delete: which file's absence makes the study measure it again.
    """
    record = self._reader.json(path, remedy=self._remedy(delete))
    if not record:
      return {}
    try:
      names = {
        m['name']: (m['endpoint'], _measured(m)) for m in record['metrics']
      }
      if record.get('main_metric', next(iter(names))) not in names:
        raise KeyError(record['main_metric'])
      if not isinstance(record['dataset'], str):
        raise TypeError('its dataset is no name')
    except (
      AttributeError,
      KeyError,
      StopIteration,
      TypeError,
      ValueError,
    ) as e:
      self._reader.damaged(path, repr(e), self._remedy(delete))
      return {}
    difference = self._wanted.difference(record)
    if difference:
      self.left_out.append(f'{path.parent.name} is {difference}')
      self._reader.problems.append(
        f'{path} is left out: it is {difference}. Measure it again: '
        f'{self._rerun}'
      )
      return {}
    return record


def _read_comparison(
  reader: _Reader,
  path: pathlib.Path,
  runs: Mapping[str, RunRecords],
  wanted: Mapping[str, _Wanted],
  *,
  rerun: str,
) -> Comparison | None:
  record = reader.json(path, remedy=f'. Compare again: {rerun}')
  if not record:
    return None
  try:
    lacking = [name for name in _COMPARED if name not in record]
    if lacking:
      raise KeyError(', '.join(lacking))
    record = version_0_1.upgrade_comparison(record)
    of_group = {}
    for compared in record['runs']:
      name = compared['name']
      if name not in runs:
        raise ValueError(f'{name!r} is no run of this study')
      difference = wanted[name].difference(compared)
      if difference:
        raise ValueError(f'of {name} it is {difference}')
      of_group.setdefault(compared['group'], runs[name].key)
    return Comparison(
      keys=tuple(runs[compared['name']].key for compared in record['runs']),
      seeds=tuple(runs[compared['name']].seed for compared in record['runs']),
      group_keys=tuple(of_group[g] for g in record['ensembles']['objectives']),
      record=record,
    )
  except (KeyError, TypeError) as error:
    reader.damaged(path, repr(error))
  except ValueError as error:
    reader.problems.append(
      f'{path} is left out: {error}. Compare again: {rerun}'
    )
  return None


def load_study(
  path: str | pathlib.Path, *, location: str | pathlib.Path | None = None
) -> StudyRecords:
  """Reads the records of a study, or scores of files.

  Args:
    path: the --workdir of `lossbench.study` or the --output of `lossbench.score`,
      or a copy of it, on a disk.
    location: what a copy is of.

  Raises:
    FileNotFoundError: if there is no study.
    ValueError: if its list of runs is damaged, or no run has left any record.
  """
  path = pathlib.Path(path).expanduser()
  location = storage.as_path(location or path, check=False)
  name = next((n for n in PLANS if (path / n).exists()), None)
  if name is None:
    raise FileNotFoundError(
      f'{location} is not a study: it has no study.json. Give the --workdir of '
      'python -m lossbench.study, or the --output of python -m lossbench.score.'
    )
  reader = _Reader()
  try:
    study = parse_json((path / name).read_bytes())
    records = _read_study(reader, path, study, location=location)
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{location / name} is damaged: {error!r}. Delete it, and run the same '
      'command again, which writes it anew.'
    ) from error
  if not any(
    run.metrics or run.transfers or run.history for run in records.runs
  ):
    raise ValueError(
      f'No run of the study in {location} has left a result. Run it first: '
      f'{records.rerun_command}'
    )
  return records


def _read_study(reader, path, study, *, location) -> StudyRecords:
  records = StudyRecords(
    name=study['name'],
    title=study['title'],
    path=location,
    config=study.get('config', ''),
    overrides=tuple(study.get('overrides', ())),
    runs=(),
    comparisons={},
    comparison_commands={c['name']: c['command'] for c in study['comparisons']},
    problems=(),
    scored=study.get('command', ''),
  )
  rerun = records.scored or records.rerun_command
  runs, wanted = {}, {}
  for record in study['runs']:
    name = record['name']
    run_path = path / 'runs' / name
    config = reader.json(RunDirectory(run_path).config_path)
    record = version_0_1.upgrade_run(record, config)
    runs[name] = _RunReader(
      reader, run_path, record, config=config, rerun=rerun
    ).read()
    wanted[name] = _wanted(
      record, reader.json(RunDirectory(run_path).evaluation_path)
    )
  comparisons = {
    name: _read_comparison(
      reader,
      path / 'comparisons' / name / 'comparison.json',
      runs,
      wanted,
      rerun=rerun,
    )
    for name in records.comparison_commands
  }
  return dataclasses.replace(
    records,
    runs=tuple(runs.values()),
    comparisons={k: v for k, v in comparisons.items() if v is not None},
    problems=tuple(
      problem.replace(str(path), str(location))
      for problem in dict.fromkeys(reader.problems)
    ),
  )
