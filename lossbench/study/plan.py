"""What a study consists of: its runs and comparisons, and their commands."""

import dataclasses
import functools
import operator
import shlex
from collections.abc import Sequence
from typing import Any

import ml_collections

from lossbench.data.catalogue import get_dataset_spec
from lossbench.names import did_you_mean
from lossbench.runtime import storage

# The stages that make a checkpoint, of which each run has one.
TRAIN, IMPORT = 'train', 'import'


@dataclasses.dataclass(frozen=True)
class Transfer:
  """A data set to transfer to.

  Attributes:
    dataset: its name.
    split: to train on; None for the data set's own.
  """

  dataset: str
  split: str | None = None

  def __str__(self):
    return self.dataset + (f':{self.split}' if self.split else '')


@dataclasses.dataclass(frozen=True)
class Finetuning:
  """Data sets to fine-tune on, and what is tried.

  Attributes:
    datasets: their names.
    grid: of `lossbench.probe.finetuning.Grid`, as its record has it.
  """

  datasets: tuple[str, ...]
  grid: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Import:
  """A checkpoint that a run is imported from instead of being trained.

  Attributes:
    format: of lossbench.import_checkpoint.
    path: its --source.
    options: flag -> value, of those that the format takes.
  """

  format: str
  path: str
  options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One run of a study.

  Attributes:
    name: 'group/objective[,variant]/seedN', its directory under runs/.
    group: of the study.
    recipe: file of the recipe.
    objective: as after the colon of --config.
    variant: what tells it from other runs of the objective, e.g.
      'temperature=0.05', or ''.
    seed: of the run.
    overrides: 'field=value' of the recipe, without the seed.
    varied: fields whose values tell it from the objective's other variants.
    config: resolved, but for what `stop_epoch_from` decides.
    stop_epoch_from: group whose runs decide where this one stops, and of its
      variants which one this one is; or ''.
    source: where it is imported from; None for what is trained.
    evaluate: on the test split.
    ood: and on out-of-distribution sets.
    ood_sets: and on these.
    num_train_examples: and on at most so many that it was trained on; 0: none.
    transfer: data sets to transfer to.
    finetune: data sets to fine-tune on.
  """

  name: str
  group: str
  recipe: str
  objective: str
  variant: str
  seed: int
  overrides: tuple[str, ...]
  varied: tuple[str, ...]
  config: ml_collections.ConfigDict
  stop_epoch_from: str
  source: Import | None
  evaluate: bool
  ood: bool
  ood_sets: tuple[str, ...]
  num_train_examples: int
  transfer: tuple[Transfer, ...]
  finetune: Finetuning

  @property
  def step(self) -> str:
    """Which checkpoint is evaluated: the best where a holdout can tell it."""
    return 'best' if self.config.num_holdout else 'last'

  @property
  def first_stage(self) -> str:
    """What its checkpoint comes from."""
    return IMPORT if self.source else TRAIN

  @property
  def measures_training(self) -> bool:
    """Whether it is measured on images that it was trained on."""
    return self.evaluate and self.num_train_examples > 0

  @property
  def test_split(self) -> str:
    """The test split of the run's own data set."""
    return get_dataset_spec(self.config.dataset).test_split

  @property
  def settings(self) -> dict[str, Any]:
    """Field -> value, of what the study changes of the recipe."""
    fields = [override.partition('=')[0] for override in self.overrides]
    return {field: get_field(self.config, field) for field in fields}

  @property
  def program(self) -> str:
    """Key that is equal for runs that can share compiled programs."""
    return f'{self.group}/{self.objective}'


@dataclasses.dataclass(frozen=True)
class PlannedComparison:
  """A comparison of all runs of a group.

  Attributes:
    name: the group's, its directory under comparisons/.
    runs: names of the runs.
    step: which checkpoints.
    cka: compare layers too.
  """

  name: str
  runs: tuple[str, ...]
  step: str
  cka: bool


@dataclasses.dataclass(frozen=True)
class Study:
  """All of a study; see `configuration.build_study`."""

  name: str
  title: str
  config_file: str
  workdir: storage.Path
  runs: tuple[PlannedRun, ...]
  comparisons: tuple[PlannedComparison, ...]
  overrides: tuple[str, ...] = ()  # of the study, as on its command line
  # What runs that go on may find changed, of `lossbench.runs.directory.CHANGES`.
  allow: tuple[str, ...] = ()

  def path(self, run: PlannedRun | str) -> storage.Path:
    """The directory of a run."""
    name = run if isinstance(run, str) else run.name
    return self.workdir / 'runs' / name

  def runs_of(self, group: str, objective: str | None = None):
    """The runs of a group, or only those of an objective."""
    return tuple(
      run
      for run in self.runs
      if run.group == group and objective in (None, run.objective)
    )

  def sources(self, run: PlannedRun) -> dict[str, tuple[PlannedRun, ...]]:
    """Variant -> its runs, of those that decide what a run is."""
    found: dict[str, tuple[PlannedRun, ...]] = {}
    for source in self.runs_of(run.stop_epoch_from, run.objective):
      found[source.variant] = (*found.get(source.variant, ()), source)
    return found

  def chosen_fields(self, run: PlannedRun) -> tuple[str, ...]:
    """Fields of a run that others decide, but for where it stops."""
    runs = [run for runs in self.sources(run).values() for run in runs]
    return tuple(dict.fromkeys(field for run in runs for field in run.varied))

  def commands(
    self, run: PlannedRun, config: ml_collections.ConfigDict | None = None
  ) -> dict[str, str]:
    """Stage -> the command that does it by hand.

    Args:
      run: one of the study.
      config: its final configuration; None while its stop epoch is unknown.
    """
    path = str(self.path(run))
    words = (
      self._import_words(run)
      if run.source
      else self._training_words(run, config)
    )
    commands = {run.first_stage: shlex.join(words)}
    verb = ['python', '-m']
    rest = [f'--workdir={path}', f'--step={run.step}']
    if run.evaluate:
      more = [] if run.ood else ['--noood']
      more += [f'--ood_set={name}' for name in run.ood_sets]
      commands['evaluate'] = shlex.join(
        [*verb, 'lossbench.evaluate', *rest, *more]
      )
    if run.measures_training:
      more = [f'--num_train_examples={run.num_train_examples}']
      commands['evaluate training'] = shlex.join(
        [*verb, 'lossbench.evaluate', *rest, '--split=training', *more]
      )
    for target in run.transfer:
      more = [f'--dataset={target.dataset}']
      more += [f'--split={target.split}'] if target.split else []
      commands[f'transfer {target}'] = shlex.join(
        [*verb, 'lossbench.transfer', *rest, *more]
      )
    for dataset in run.finetune.datasets:
      more = [f'--dataset={dataset}']
      for name, value in run.finetune.grid.items():
        text = ','.join(map(str, value)) if isinstance(value, list) else value
        more.append(f'--{name}={text}')
      commands[f'finetune {dataset}'] = shlex.join(
        [*verb, 'lossbench.finetune', *rest, *more]
      )
    return commands

  def _import_words(self, run: PlannedRun) -> list[str]:
    flags = {'format': run.source.format, 'source': run.source.path}
    flags |= run.source.options
    words = ['python', '-m', 'lossbench.import_checkpoint']
    words += [f'--{name}={value}' for name, value in flags.items()]
    words += self._run_words(run)
    if run.config.data_dir:
      words.append(f'--config.data_dir={run.config.data_dir}')
    return words

  def _run_words(self, run: PlannedRun) -> list[str]:
    """Which run it is, in words that training and importing have in common."""
    words = [f'--config={run.recipe}:{run.objective}']
    words += [f'--config.{override}' for override in run.overrides]
    return [*words, f'--config.seed={run.seed}', f'--workdir={self.path(run)}']

  def _training_words(self, run: PlannedRun, config) -> list[str]:
    words = ['python', 'main.py', *self._run_words(run)]
    if run.stop_epoch_from:
      epoch = f'{config.stop_epoch:g}' if config else 'EPOCH'
      words.append(f'--config.stop_epoch={epoch}')
      for field in self.chosen_fields(run):
        value = get_field(config, field) if config else 'CHOSEN'
        words.append(f'--config.{field}={value}')
    if run.config.data_dir:
      words.append(f'--config.data_dir={run.config.data_dir}')
    if self.allow:
      words.append(f'--allow={",".join(self.allow)}')
    return words

  def comparison_command(self, comparison: PlannedComparison) -> str:
    """The command that makes a comparison by hand."""
    words = ['python', '-m', 'lossbench.compare']
    words += [str(self.path(name)) for name in comparison.runs]
    words += [f'--output={self.workdir / "comparisons" / comparison.name}']
    words += [f'--root={self.workdir / "runs"}', f'--step={comparison.step}']
    return shlex.join(words + ([] if comparison.cka else ['--nocka']))


def get_field(config: ml_collections.ConfigDict, field: str) -> Any:
  """The value of a field, which may be 'objective.dropout.keep_prob'."""
  return functools.reduce(operator.getitem, field.split('.'), config)


def select_runs(
  runs: Sequence[PlannedRun], only: Sequence[str], names: Sequence[str] = ()
) -> list[PlannedRun]:
  """The runs whose names contain one of the words, each of which must match.

  Args:
    runs: of a study.
    only: words; none for all runs.
    names: whole names, in place of words.

  Raises:
    ValueError: if a word matches no run, or a name is none's.
  """
  known = {run.name: run for run in runs}
  for name in names:
    if name not in known:
      raise ValueError(
        f'--runs={name} is no run of the study. {did_you_mean(name, known)} '
        '--list shows all.'
      )
  if names:
    return [run for run in runs if run.name in names]
  for word in only:
    if not any(word in run.name for run in runs):
      raise ValueError(
        f'--only={word} matches no run. There are for example '
        f'{", ".join(run.name for run in runs[:3])}; --list shows all.'
      )
  return [run for run in runs if not only or any(w in run.name for w in only)]
