"""What a study consists of: its runs, their commands and configurations."""

import ast
import dataclasses
import functools
import importlib.util
import operator
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from lossbench.data.catalogue import get_dataset_spec, named_ood_sets
from lossbench.data.folder_names import split_target
from lossbench.interop.formats import check_options, get_format
from lossbench.names import did_you_mean
from lossbench.runtime import storage

# The stages that make a checkpoint, of which each run has one.
TRAIN, IMPORT = 'train', 'import'

_NAME = re.compile(r'[A-Za-z0-9_.-]+')


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
  """All of a study; see `build_study`."""

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


def load_config_fn(path: str):
  """The get_config of a recipe's or a study's file.

  Raises:
    FileNotFoundError: if there is no such file.
  """
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(
      f'There is no recipe {path!r}. Start the study where its recipes lie, '
      'usually in the checkout.'
    )
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config


def apply_override(config: ml_collections.ConfigDict, override: str):
  """Sets a field as --config.FIELD=VALUE does.

  Raises:
    ValueError: if it is not 'field=value', there is no such field, or the value
      is of another type.
  """
  field, equals, text = override.partition('=')
  node, names = config, field.split('.')
  for name in names[:-1]:
    node = node.get(name) if isinstance(node, ml_collections.ConfigDict) else {}
  fields = sorted(node) if isinstance(node, ml_collections.ConfigDict) else []
  if not equals or names[-1] not in fields:
    raise ValueError(
      f"Override {override!r} is not 'field=value' with a field of the recipe. "
      f'Fields: {", ".join(fields) or "none"}.'
    )
  old = node[names[-1]]
  try:
    value = text if isinstance(old, str) else ast.literal_eval(text)
    if isinstance(old, float) and isinstance(value, int):
      value = float(value)
    node[names[-1]] = value
  except (SyntaxError, TypeError, ValueError) as error:
    raise ValueError(
      f'Override {override!r}: {field} is of type {type(old).__name__}, as '
      f'{old!r}.'
    ) from error


def _label(variant: Sequence[str]) -> str:
  fields = [override.partition('=') for override in variant]
  return ','.join(f'{f.split(".")[-1]}={value}' for f, _, value in fields)


def _parse_transfer(text: str, config) -> Transfer:
  dataset, split = split_target(text)
  get_dataset_spec(dataset)
  if split == 'holdout' and dataset != config.dataset:
    raise ValueError(
      f'Transfer to {text!r}: a run on {config.dataset!r} has no holdout of it.'
    )
  if split == 'holdout' and not config.num_holdout:
    raise ValueError(
      f'Transfer to {text!r} from a holdout: these runs keep num_holdout=0, so '
      'there is none. Name another group, or another split.'
    )
  return Transfer(dataset, split or None)


def _parse_ood_sets(names: Sequence[str]) -> tuple[str, ...]:
  for name in names:
    named_ood_sets(name)  # refuses unknown ones
  return tuple(names)


def _parse_finetuning(name: str, group, config) -> Finetuning:
  for dataset in group.finetune:
    get_dataset_spec(dataset)
    if dataset == config.dataset:
      raise ValueError(
        f'Group {name!r} fine-tunes on {dataset!r}, which its runs are trained '
        'on. Name another data set.'
      )
  if group.finetune and not (
    group.finetune_learning_rates and group.finetune_weight_decays
  ):
    raise ValueError(
      f'Group {name!r} fine-tunes with no learning rates or no weight decays. '
      'Give for example (0.01,) and (0.0,).'
    )
  return Finetuning(
    datasets=tuple(group.finetune),
    grid={
      'learning_rates': [float(x) for x in group.finetune_learning_rates],
      'weight_decays': [float(x) for x in group.finetune_weight_decays],
      'num_epochs': float(group.finetune_epochs),
      'batch_size': group.finetune_batch_size,
    },
  )


def _parse_import(name: str, group, objective: str, seed: int) -> Import | None:
  """Where a run of a group is imported from; None of one that is trained."""
  given = group.import_format, group.import_from, group.import_options
  if not any(given):
    return None
  if not all(given[:2]) or group.stop_epoch_from:
    raise ValueError(
      f'Group {name!r}: import_format={group.import_format!r} and import_from='
      f'{group.import_from!r} go together, and without stop_epoch_from. Give both '
      'of them, or neither and no import_options.'
    )
  names = {'objective': objective, 'seed': seed}
  where = f'Group {name!r}: import_from'
  return Import(
    format=group.import_format,
    path=_fill_in(group.import_from, names, where=where),
    options=_parse_import_options(name, group, names),
  )


def _parse_import_options(
  name: str, group, names: Mapping[str, Any]
) -> dict[str, Any]:
  """Flag -> value of what an import is given beside --format and --source."""
  format_ = get_format(group.import_format)
  where = f'Group {name!r}: import_options'
  options = {f: value for f, value in names.items() if f in format_.options}
  for text in group.import_options:
    flag, equals, value = _fill_in(text, names, where=where).partition('=')
    if not equals:
      raise ValueError(
        f"{where} has {text!r}, which is not 'name=value'. Give for example "
        "'weights=IMAGENET1K_V1'."
      )
    if flag in options:
      raise ValueError(
        f'{where} has {text!r}, but {flag}={options[flag]} is given already. '
        'Leave it out.'
      )
    options[flag] = value
  try:
    check_options(format_, options)
  except ValueError as error:
    given = tuple(group.import_options)
    raise ValueError(f'{where}={given}: {error}') from error
  return options


def _fill_in(text: str, names: Mapping[str, Any], *, where: str) -> str:
  """A text with a run's objective and seed in place of their names in braces."""
  try:
    return text.format(**names)
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{where} has {text!r}, which may have {{objective}} and {{seed}} in braces '
      'only.'
    ) from error


def _check_imports(runs: Sequence[PlannedRun]):
  """Refuses a group of several runs that would be one network."""
  seen: dict[str, str] = {}
  for run in runs:
    if run.source is None:
      continue
    if run.source.path in seen:
      raise ValueError(
        f'{seen[run.source.path]!r} and {run.name!r} are both imported from '
        f'{run.source.path}. Write {{objective}} and {{seed}} into import_from.'
      )
    seen[run.source.path] = run.name


def _group_runs(name, group, data_dir) -> list[PlannedRun]:
  get_config = load_config_fn(group.recipe)
  if not group.objectives or not group.variants:
    raise ValueError(f'Group {name!r} has no objectives or no variants.')
  runs = []
  for objective in group.objectives:
    for variant in group.variants:
      overrides = (*group.overrides, *variant)
      label = _label(variant)
      for seed in range(group.num_seeds):
        config = get_config(objective)
        for override in overrides:
          apply_override(config, override)
        config.seed = seed
        if data_dir:
          config.data_dir = data_dir
        directory = f'{objective},{label}' if label else objective
        runs.append(
          PlannedRun(
            name=f'{name}/{directory}/seed{seed}',
            group=name,
            recipe=group.recipe,
            objective=objective,
            variant=label,
            seed=seed,
            overrides=overrides,
            varied=tuple(field.partition('=')[0] for field in variant),
            config=config,
            stop_epoch_from=group.stop_epoch_from,
            source=_parse_import(name, group, objective, seed),
            evaluate=group.evaluate,
            ood=group.ood,
            ood_sets=_parse_ood_sets(group.ood_sets),
            num_train_examples=group.num_train_examples,
            transfer=tuple(_parse_transfer(t, config) for t in group.transfer),
            finetune=_parse_finetuning(name, group, config),
          )
        )
  names = [run.name for run in runs]
  twice = {name for name in names if names.count(name) > 1}
  if twice:
    raise ValueError(f'{min(twice)!r} is in the study twice.')
  _check_imports(runs)
  return runs


def _check_stop_epochs(study: Study):
  for run in study.runs:
    if not run.stop_epoch_from:
      continue
    sources = study.runs_of(run.stop_epoch_from, run.objective)
    if any(source.stop_epoch_from for source in sources):
      raise ValueError(
        f'Group {run.group!r} stops where {run.stop_epoch_from!r} says, which '
        'itself waits for another group. Name one that trains to its end.'
      )
    if not sources or not all(s.config.num_holdout for s in sources):
      raise ValueError(
        f'Group {run.group!r} stops where {run.stop_epoch_from!r} says, which '
        f'has no runs of {run.objective!r} with a holdout.'
      )


def build_study(
  study_config: ml_collections.ConfigDict,
  *,
  config_file: str,
  workdir: str | pathlib.Path,
  overrides: Sequence[str] = (),
  allow: Sequence[str] = (),
) -> Study:
  """Expands a configuration; refuses before anything runs.

  Args:
    study_config: see configs/studies/default.py.
    config_file: it came from; its stem is the study's name.
    workdir: of the study.
    overrides: flags that changed `study_config`, to be shown in commands.
    allow: what runs that go on may find changed.

  Raises:
    FileNotFoundError: if a recipe is not there.
    ValueError: if an objective, an override, a data set or a group is refused.
  """
  if not study_config.groups:
    raise ValueError(f'{config_file} has no groups: there is nothing to run.')
  runs: list[PlannedRun] = []
  comparisons = []
  for name, group in study_config.groups.items():
    if not _NAME.fullmatch(name):
      raise ValueError(f'{name!r} cannot be the name of a group: letters only.')
    of_group = _group_runs(name, group, study_config.data_dir)
    runs += of_group
    if group.compare and len(of_group) > 1:
      comparisons.append(
        PlannedComparison(
          name=name,
          runs=tuple(run.name for run in of_group),
          step=of_group[0].step,
          cka=group.cka,
        )
      )
  study = Study(
    name=pathlib.Path(config_file).stem,
    title=study_config.title or pathlib.Path(config_file).stem,
    config_file=config_file,
    workdir=storage.as_path(workdir, check=False),
    runs=tuple(runs),
    comparisons=tuple(comparisons),
    overrides=tuple(overrides),
    allow=tuple(allow),
  )
  _check_stop_epochs(study)
  return study


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
