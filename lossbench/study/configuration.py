"""From a study's configuration to its plan: groups become runs, or are refused."""

import ast
import importlib.util
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from lossbench.data.catalogue import get_dataset_spec, named_ood_sets
from lossbench.data.folder_names import split_target
from lossbench.interop.formats import check_options, get_format
from lossbench.runtime import storage
from lossbench.study.plan import (
  Finetuning,
  Import,
  PlannedComparison,
  PlannedRun,
  Study,
  Transfer,
)

_NAME = re.compile(r'[A-Za-z0-9_.-]+')


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
  if not study_config.get('groups'):  # nor has a recipe
    raise ValueError(
      f'{config_file} has no groups: there is nothing to run. Give a study, e.g. '
      'configs/studies/digits.py.'
    )
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
