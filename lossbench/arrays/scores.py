"""A directory of scores: what files of predictions are worth, as rows of a report.

score.json                     which files, and the command
runs/<data set>/<name>/seed<number>/eval/<data set>-test/
                               metrics.json, per_example.npz, curves.npz
comparisons/<data set>/comparison.json
                               of several files

As a study has them, so that a report reads both.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lossbench
from lossbench.arrays.compared import compare_models
from lossbench.arrays.files import check_other_content
from lossbench.arrays.outputs import Outputs, check_alike
from lossbench.arrays.scored import SPLIT, Model, score_model
from lossbench.objectives import Objective, create_objective
from lossbench.runs.directory import (
  PLAIN,
  RunDirectory,
  is_plain,
  plain,
  write_json,
)
from lossbench.runs.records import Record
from lossbench.runtime import storage


class Named(NamedTuple):
  """A file that was given with a name, or without."""

  name: str
  path: str


def parse_named(text: str, *, flag: str) -> Named:
  """What 'NAME=PATH' or 'PATH' says; the name of a path is that of the file.

  Args:
    text: of the flag.
    flag: for the error.

  Raises:
    ValueError: if the name is none of a directory.
  """
  name, equals, path = text.partition('=')
  if not equals or os.path.exists(text):
    return Named('', text)
  if not is_plain(name):
    raise ValueError(f'--{flag}={text}: {name!r} is no name. Take {PLAIN}.')
  return Named(name, path)


def _stem(path: str) -> str:
  return plain(pathlib.PurePath(path).stem)


def _named(files: Sequence[Named]) -> list[Named]:
  """Every file with a name, by default that of the file."""
  named = [Named(file.name or _stem(file.path), file.path) for file in files]
  for file, found in zip(files, named, strict=True):
    alike = [other.path for other in named if other.name == found.name]
    if not file.name and len(alike) > 1:
      raise ValueError(
        f'{alike[0]} and {alike[1]} have the same name. Give them others: '
        '--predictions=NAME=PATH; the same NAME if they are seeds of one model.'
      )
  return named


def _others(
  files: Sequence[Named], num_models: int, *, flag: str
) -> list[dict[str, str]]:
  """Name of a data set -> its file, for every model."""
  by_name: dict[str, list[str]] = {}
  for file in files:
    name = file.name or _stem(file.path)
    by_name.setdefault(name, []).append(file.path)
  for name, paths in by_name.items():
    if len(paths) != num_models:
      raise ValueError(
        f'--{flag}: {name!r} is given {len(paths)} times for {num_models} '
        '--predictions. Give --'
        f'{flag}=NAME=PATH of every one, in their order.'
      )
  return [
    {name: paths[index] for name, paths in by_name.items()}
    for index in range(num_models)
  ]


def _open_other(own: Outputs, path: str, *, labelled: bool) -> Outputs:
  other = Outputs.open(path, labelled=labelled)
  check_alike(own, other, same_examples=False)
  return other


def _objective(outputs: Outputs, objective: Objective | None) -> Objective:
  """Softmax, or what was asked for, which is of logits alone."""
  if objective is None:
    return create_objective('softmax')
  if outputs.scores == 'log_probs':
    raise outputs.file.error(
      'log_probs',
      f'needs no --objective={objective.name}, which is of logits. Leave it out.',
    )
  return objective


def open_models(
  predictions: Sequence[Named],
  *,
  calibration: Sequence[str] = (),
  shifted: Sequence[Named] = (),
  ood: Sequence[Named] = (),
  objective: Objective | None = None,
) -> list[Model]:
  """Checks all files, before anything is computed.

  Args:
    predictions: one a model; of the same examples if there are several.
    calibration: other examples to fit temperatures on: of every model, or none.
    shifted: outputs on other data sets of the same classes, of every model.
    ood: outputs on other data sets, of every model.
    objective: whose map turns logits into probabilities; None: softmax.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file is refused, or they do not fit together.
  """
  num_models = len(predictions)
  if len(calibration) not in (0, num_models):
    raise ValueError(
      f'--calibration is given {len(calibration)} times for {num_models} '
      '--predictions. Give that of every one, in their order.'
    )
  others = {
    'shifted': _others(shifted, num_models, flag='shifted'),
    'ood': _others(ood, num_models, flag='ood'),
  }
  models: list[Model] = []
  for index, (name, path) in enumerate(_named(predictions)):
    outputs = Outputs.open(path)
    if models:
      check_alike(models[0].outputs, outputs, same_examples=True)
    for earlier in models:
      if earlier.outputs.file.fingerprint == outputs.file.fingerprint:
        raise ValueError(
          f'{path} holds the same as {earlier.outputs.path}: it is a copy, not '
          'another model. Leave one out.'
        )
    if calibration:
      check_other_content(
        {'predictions': path, 'calibration': calibration[index]},
        why='the temperature of its own examples is measured anyway',
      )
    found = {
      kind: {
        other: _open_other(outputs, of_model, labelled=kind == 'shifted')
        for other, of_model in of_models[index].items()
      }
      for kind, of_models in others.items()
    }
    models.append(
      Model(
        name=name,
        seed=[model.name for model in models].count(name),
        objective=_objective(outputs, objective),
        outputs=outputs,
        calibration=_open_other(outputs, calibration[index], labelled=True)
        if calibration
        else None,
        **found,
      )
    )
  return models


@dataclasses.dataclass(frozen=True)
class Scores:
  """What models are worth.

  Attributes:
    records: of each, on its own data set.
    others: of each, other data set -> records.
    comparison: the content of comparison.json; None of a single model.
  """

  records: list[list[Record]]
  others: list[dict[str, list[Record]]]
  comparison: dict[str, Any] | None


def _check_names(models: Sequence[Model], dataset: str):
  if not is_plain(dataset):
    raise ValueError(f'--dataset={dataset} is no name. Take {PLAIN}.')
  names = [dataset, *models[0].shifted, *models[0].ood]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f'Two data sets are called {name!r}: name them by --dataset=NAME, '
        '--shifted=NAME=PATH and --ood=NAME=PATH.'
      )


def score_models(
  models: Sequence[Model],
  *,
  output: str,
  dataset: str = 'predictions',
  command: str,
  num_cka_examples: int,
  minibatch_size: int,
) -> Scores:
  """Measures models, compares them and writes a directory of scores.

  Args:
    models: of the same examples.
    output: directory to write into.
    dataset: what the examples are called.
    command: that does so, for the record.
    num_cka_examples: CKA is of at most so many examples.
    minibatch_size: of the unbiased CKA.

  Raises:
    ValueError: if a name is none, or the directory is something else.
    OSError: if the results cannot be written.
  """
  _check_names(models, dataset)
  target = storage.as_path(output)
  for name in ('study.json', 'config.json'):
    if (target / name).exists():
      raise ValueError(
        f'--output={output} has a {name}: it is a study or a run. Name another '
        'directory.'
      )
  storage.make_directory(target, flag='--output')
  # Written last, for it says that all is whole.
  (target / 'score.json').unlink(missing_ok=True)
  names = [f'{dataset}/{model.name}/seed{model.seed}' for model in models]
  records, others = [], []
  for name, model in zip(names, models, strict=True):
    run = RunDirectory(target / 'runs' / name)
    # Other sets, or another objective, that the same file was scored with.
    storage.remove_tree(run.path / 'eval')
    own, of_others = score_model(model, run, dataset=dataset)
    records.append(own)
    others.append(of_others)
  comparison = None
  if len(models) > 1:
    comparison = compare_models(
      models,
      names,
      target / 'comparisons' / dataset,
      dataset=dataset,
      num_cka_examples=num_cka_examples,
      minibatch_size=minibatch_size,
    )
  write_json(
    target / 'score.json',
    {
      'name': target.resolve().name,
      'title': f'Predictions in {len(models)} file{"s" * (len(models) > 1)}',
      'command': command,
      'lossbench_version': lossbench.__version__,
      'runs': [
        _run_record(name, model, dataset, command)
        for name, model in zip(names, models, strict=True)
      ],
      'comparisons': [{'name': dataset, 'command': command}]
      * (comparison is not None),
    },
  )
  return Scores(records, others, comparison)


def _run_record(
  name: str, model: Model, dataset: str, command: str
) -> Mapping[str, Any]:
  """A model as a study lists its runs."""
  return {
    'name': name,
    'group': dataset,
    'recipe': '',
    'model': '',
    'objective': model.name,
    'settings': {},
    'varied': [],
    'seed': model.seed,
    'wanted': {'checkpoint': model.outputs.file.fingerprint},
    'dataset': dataset,
    'test_split': SPLIT,
    'transfer': [],
    'commands': {'evaluate': command},
    'file': model.outputs.path,
  }
