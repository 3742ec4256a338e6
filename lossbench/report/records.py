"""What a report is made of: the records that a study's runs have left."""

import dataclasses
import functools
import math
import pathlib
import shlex
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lossbench.report import looks
from lossbench.report.looks import Key, Look
from lossbench.runs.records import FEW_SHOTS

# What reading a damaged .npz may raise.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


# How features are transferred, beside the linear probe -> prefix of metrics.
NEIGHBOURS = 'knn'
FEW = tuple(f'few_shot_{shots}' for shots in FEW_SHOTS)
PROTOCOLS = (NEIGHBOURS, *FEW)


class NotRun(Exception):
  """Error: what a table or figure needs was not run; its text says how to."""


class PerExample(NamedTuple):
  """Values of examples.

  Attributes:
    ids: [N].
    values: [N], whose mean is a metric.
  """

  ids: np.ndarray
  values: np.ndarray


def _read_per_example(directory: pathlib.Path, name: str) -> PerExample | None:
  """Reads per_example.npz; of older records, top-1 accuracy from predictions."""
  path = directory / 'per_example.npz'
  try:
    if path.exists():
      with np.load(path) as stored:
        if name not in stored:
          return None
        own_ids = f'{name}/id'
        ids = stored[own_ids if own_ids in stored else 'id']
        return PerExample(ids, stored[name])
    if name != 'top1_accuracy':
      return None
    with np.load(directory / 'predictions.npz') as stored:
      if 'prediction' in stored:
        predicted = stored['prediction']
      else:
        predicted = stored['logits'].argmax(axis=1)
      return PerExample(stored['id'], predicted == stored['label'])
  except UNREADABLE:
    return None


@dataclasses.dataclass(frozen=True)
class Measured:
  """One number that was measured, or could not be.

  Attributes:
    value: None where it is undefined.
    n: examples it was measured on; 0 where the record does not say.
    note: what a reader of the number must know, or why there is none; or ''.
    name: of the metric, with '/' and the endpoint of one of a layer.
    directory: of its metrics.json; None of what is not of one.
  """

  value: float | None
  n: int = 0
  note: str = ''
  name: str = ''
  directory: pathlib.Path | None = None

  @property
  def per_example(self) -> PerExample | None:
    """Values of examples whose mean it is; None where they are not known.

    Not of a file that is of another checkpoint: its mean is another one.
    """
    if self.value is None or self.directory is None:
      return None
    found = _read_per_example(self.directory, self.name)
    if found is None or not math.isclose(
      found.values.mean(dtype=np.float64),
      self.value,
      rel_tol=1e-4,
      abs_tol=1e-6,
    ):
      return None
    return found


@dataclasses.dataclass(frozen=True)
class Target:
  """A data set that a run's features are transferred to.

  Attributes:
    name: 'dataset' or 'dataset:split'.
    dataset: its name.
    split: to train on; None for the data set's own.
  """

  name: str
  dataset: str
  split: str | None


@dataclasses.dataclass(frozen=True)
class TransferRecord:
  """A transfer that was done.

  Attributes:
    main: the data set's main metric.
    num_train: examples that the classifier was trained on; 0 if unknown.
    num_seen: of these, how many the network itself was trained on.
    others: protocol of `PROTOCOLS` -> the same metric of it.
    standard_errors: of few shots -> of top-1, over draws of the examples.
  """

  main: Measured
  num_train: int
  num_seen: int
  others: Mapping[str, Measured] = dataclasses.field(default_factory=dict)
  standard_errors: Mapping[str, Measured] = dataclasses.field(
    default_factory=dict
  )


@dataclasses.dataclass(frozen=True)
class RunRecords:
  """One run of a study.

  Attributes:
    name: its directory under runs/.
    group: of the study.
    recipe: file of the recipe.
    model: the name of the architecture.
    key: objective, with augmentations, and variant.
    settings: field -> value, what the study changes of the recipe.
    seed: of the run.
    dataset: its own.
    test_split: of it.
    transfer: the transfers that are planned.
    commands: stage -> command.
    path: the run directory, or the copy of it that was read.
    metrics: (data set, metric, endpoint or '') -> the number, of the test split
      of its own data set and of others.
    training: (metric, endpoint or '') -> the number, of images that it was
      trained on.
    transfers: name of a target -> its record.
    history: evaluations on the holdout.
    curves: of curves.npz on the own test split.
    training_curves: likewise, of images that it was trained on.
    finetune: data sets that it is to be fine-tuned on.
    finetuned: of these, the main metric of those that were.
    provenance: what its numbers come from, e.g. 'step', 'checkpoint', 'version'.
    config: field -> value, all that it was trained with; {} before it began.
    error: of the last attempt if it failed and something is missing, or ''.
    left_out: why records of this run are left out, or ''.
  """

  name: str
  group: str
  recipe: str
  model: str
  key: Key
  settings: Mapping[str, Any]
  seed: int
  dataset: str
  test_split: str
  transfer: tuple[Target, ...]
  commands: Mapping[str, str]
  path: pathlib.Path
  metrics: Mapping[tuple[str, str, str], Measured]
  transfers: Mapping[str, TransferRecord]
  history: list[dict[str, float]]
  curves: dict[str, np.ndarray]
  error: str
  left_out: str = ''
  training: Mapping[tuple[str, str], Measured] = dataclasses.field(
    default_factory=dict
  )
  training_curves: dict[str, np.ndarray] = dataclasses.field(
    default_factory=dict
  )
  finetune: tuple[str, ...] = ()
  finetuned: Mapping[str, Measured] = dataclasses.field(default_factory=dict)
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def measured(
    self,
    metric: str,
    *,
    dataset: str | None = None,
    endpoint: str = '',
    training: bool = False,
  ) -> Measured | None:
    """A number, or why it is undefined; None if it was not measured.

    Args:
      metric: its name.
      dataset: None for the run's own test split.
      endpoint: of a layer's metric.
      training: of images that it was trained on, in place of the test split.
    """
    if training:
      return self.training.get((metric, endpoint))
    return self.metrics.get((dataset or self.dataset, metric, endpoint))

  def value(
    self, metric: str, *, dataset: str | None = None, endpoint: str = ''
  ) -> float | None:
    """A number; None if it was not measured or is undefined."""
    found = self.measured(metric, dataset=dataset, endpoint=endpoint)
    return found and found.value

  @property
  def holdout_accuracy(self) -> Measured | None:
    """The maximum over training, as in Table C.1; None before the first."""
    values = [r['top1_accuracy'] for r in self.history if 'top1_accuracy' in r]
    return Measured(max(values)) if values else None

  @property
  def notes(self) -> tuple[str, ...]:
    """What its records have to say of its numbers."""
    measured = [
      *self.metrics.values(),
      *self.training.values(),
      *(record.main for record in self.transfers.values()),
      *self.finetuned.values(),
    ]
    return tuple(
      dict.fromkeys(f'{m.name}: {m.note}' for m in measured if m.note)
    )

  @property
  def measures_training(self) -> bool:
    """Whether it is to be measured on images that it was trained on."""
    return 'evaluate training' in self.commands

  @property
  def is_evaluated(self) -> bool:
    """Whether everything that was to be measured is there."""
    own = 'evaluate' not in self.commands or self.measured('top1_accuracy')
    on_training = not self.measures_training or self.training
    return (
      bool(own and on_training)
      and all(target.name in self.transfers for target in self.transfer)
      and all(dataset in self.finetuned for dataset in self.finetune)
    )

  @property
  def has_results(self) -> bool:
    """Whether there is anything to report of it."""
    return bool(self.metrics or self.transfers) or (
      'evaluate' not in self.commands and bool(self.history)
    )

  def endpoints(
    self, metric: str, *, training: bool = False
  ) -> tuple[str, ...]:
    """The layers that a metric was measured at, in forward order."""
    if training:
      return tuple(end for name, end in self.training if name == metric and end)
    return tuple(
      endpoint
      for dataset, name, endpoint in self.metrics
      if dataset == self.dataset and name == metric
    )

  def transferred(self, target: str, protocol: str = '') -> Measured | None:
    """The main metric of a transfer; None if it was not done.

    Args:
      target: its name.
      protocol: of `PROTOCOLS`; '' for the linear probe.
    """
    found = self.transfers.get(target)
    if found is None:
      return None
    return found.others.get(protocol) if protocol else found.main


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The comparison of a group's runs.

  Attributes:
    keys: objective and variant of each run, in the comparison's order.
    seeds: of each run.
    group_keys: objective and variant of each group of seeds, in the order of its
      ensembles.
    record: the content of comparison.json.
  """

  keys: tuple[Key, ...]
  seeds: tuple[int, ...]
  group_keys: tuple[Key, ...]
  record: Mapping[str, Any]

  @property
  def num_examples(self) -> int:
    """The number of examples whose predictions were compared."""
    return self.record['num_examples']


@dataclasses.dataclass(frozen=True)
class StudyRecords:
  """All of a study.

  Attributes:
    name: of the study.
    title: of the report.
    path: the study's directory, also where a copy was read.
    config: file of its configuration.
    overrides: flags that changed it.
    runs: in the study's order.
    comparisons: group -> its comparison, where it is there.
    comparison_commands: group -> command.
    problems: one line for every file that was left out.
    scored: of scores of files, which are no study, the command that made them.
  """

  name: str
  title: str
  path: pathlib.Path
  config: str
  overrides: tuple[str, ...]
  runs: tuple[RunRecords, ...]
  comparisons: Mapping[str, Comparison]
  comparison_commands: Mapping[str, str]
  problems: tuple[str, ...]
  scored: str = ''

  def groups(self) -> tuple[str, ...]:
    """Names of the groups, in the order of all tables and figures."""
    names = dict.fromkeys(run.group for run in self.runs)
    return tuple(sorted(names, key=looks.group_order))

  def keys(self, group: str) -> tuple[Key, ...]:
    """Objectives and variants of a group, in the order of all tables."""
    keys = {run.key for run in self.runs if run.group == group}
    return tuple(sorted(keys, key=looks.order))

  def runs_of(
    self, group: str, key: Key | None = None
  ) -> tuple[RunRecords, ...]:
    """The runs of a group, or only the seeds of one configuration."""
    return tuple(
      run for run in self.runs if run.group == group and key in (None, run.key)
    )

  @functools.cached_property
  def _looks(self) -> dict[Key, Look]:
    return looks.create_looks(run.key for run in self.runs)

  def look(self, key: Key) -> Look:
    """Colour and marker of one of the study's objectives."""
    return self._looks[key]

  def comparison(self, group: str) -> Comparison:
    """The comparison of a group's runs.

    Raises:
      NotRun: if it is not there.
    """
    if group in self.comparisons:
      return self.comparisons[group]
    if group not in self.comparison_commands:
      raise NotRun('not run: this study does not compare these runs')
    raise NotRun(f'not run: {self.rerun_command}')

  def measures_training(self, group: str) -> bool:
    """Whether a group is, or is to be, measured on images it was trained on."""
    return any(
      run.measures_training or run.training for run in self.runs_of(group)
    )

  def how_to_measure_training(self, group: str) -> str:
    """Where that is missing: the command that does it."""
    command = self.rerun_command
    if not self.measures_training(group) and not self.scored:
      command += f' --config.groups.{group}.num_train_examples=50000'
    return f'not run: training examples; {command}'

  @property
  def rerun_command(self) -> str:
    """The command that does everything that is missing."""
    if self.scored:
      return f'{self.scored}, with files that hold it'
    words = ['python', '-m', 'lossbench.study', f'--config={self.config}']
    return shlex.join([*words, *self.overrides, f'--workdir={self.path}'])

  def _seeds(self, group: str) -> dict[str, set[int]]:
    """Group of the configuration -> seeds; several where they were joined."""
    seeds: dict[str, set[int]] = {}
    for run in self.runs_of(group):
      seeds.setdefault(run.name.partition('/')[0], set()).add(run.seed)
    return seeds

  def num_seeds(self, group: str) -> int:
    """Number of seeds of a group; the fewest where several were joined."""
    return min(map(len, self._seeds(group).values()))

  def with_seeds(self, group: str, num_seeds: int) -> str:
    """The command that makes a group have so many seeds; '' where it has them."""
    fewer = [
      name
      for name, seeds in self._seeds(group).items()
      if len(seeds) < num_seeds
    ]
    if not fewer:
      return ''
    if self.scored:
      return f'{self.scored}, with files of {num_seeds} seeds'
    more = [f'--config.groups.{name}.num_seeds={num_seeds}' for name in fewer]
    return ' '.join([self.rerun_command, *more])
