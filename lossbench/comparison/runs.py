"""A comparison of runs, from their stored outputs to comparison.json."""

import os
from collections.abc import Sequence
from typing import Any

import lossbench
from lossbench.comparison.ensembles import (
  Group,
  Predictions,
  read_predictions,
)
from lossbench.comparison.groups import group_seeds
from lossbench.comparison.layers import compare_features, compare_layers
from lossbench.comparison.results import compare_predictions, write_comparison
from lossbench.data import catalogue
from lossbench.data.folder_names import parse_folder
from lossbench.evaluation.collected import NUM_SAMPLED, Collected
from lossbench.evaluation.outputs import RunOutputs
from lossbench.runtime import storage
from lossbench.runtime.console import LOGGER


def run_names(
  paths: Sequence[storage.Path], *, root: str | None = None
) -> list[str]:
  """The runs' paths from a directory above them all, which tell them apart.

  Args:
    paths: of the run directories.
    root: the directory; None: the lowest that is above all of them.

  Raises:
    ValueError: if a run is not below `root`.
  """
  absolute = [storage.absolute(path) for path in paths]
  common = root and str(storage.absolute(storage.as_path(root)))
  if common is None:
    if len(set(map(storage.is_remote, paths))) > 1:
      return [str(path) for path in paths]
    common = os.path.commonpath([str(path.parent) for path in absolute])
  names = []
  for path in absolute:
    name = os.path.relpath(str(path), common)
    if name.startswith(os.pardir) or name == os.curdir:
      raise ValueError(f'{path} is not below --root={root}.')
    names.append(name)
  return names


def check_alike(runs: Sequence[RunOutputs]):
  """Raises ValueError unless there are two runs or more, of one label space."""
  if len(runs) < 2:
    raise ValueError(
      f'A comparison needs two runs or more; got {len(runs)}. Give the run '
      'directories as arguments.'
    )
  paths = [run.run.path.resolve() for run in runs]
  for path in paths:
    if paths.count(path) > 1:
      raise ValueError(f'{path} is given twice.')
  first = runs[0].config
  for run in runs[1:]:
    for name in ('dataset', 'num_classes'):
      if run.config[name] != first[name]:
        raise ValueError(
          f'{run.run.path} has {name}={run.config[name]!r}, but '
          f'{runs[0].run.path} has {first[name]!r}: their predictions cannot '
          'be compared.'
        )
  seen = {}
  for run in runs:
    twin = seen.setdefault(run.fingerprint, run)
    if twin is not run:
      raise ValueError(
        f'{run.run.path} holds the same parameters as {twin.run.path}: it is a '
        'copy, not another seed. Leave one out.'
      )


def check_labels(own: str, dataset: str):
  """Raises ValueError unless a data set's labels are classes of another's."""
  shifted = [s for s in catalogue.ood_suite(own) if s.shifted]
  if dataset == own or any(dataset == s.name for s in shifted):
    return
  if parse_folder(dataset):  # its classes are looked up among the runs'
    return
  names = [own, *(s.name for s in shifted if not s.family)]
  families = {s.family for s in shifted if s.family}
  names += sorted(f'{f}_<corruption>_<severity>' for f in families)
  raise ValueError(
    f'The labels of --dataset={dataset} are not the classes of these runs, '
    f'which were trained on {own}. Known that fit: {", ".join(names)}.'
  )


def _run_records(
  names: Sequence[str],
  runs: Sequence[RunOutputs],
  groups: Sequence[Group],
  predictions: Predictions,
) -> list[dict[str, Any]]:
  """The compared runs as comparison.json lists them."""
  group_of = {i: group.name for group in groups for i in group.indices}
  return [
    {
      'name': name,
      'path': str(run.run.path),
      'group': group_of[index],
      'objective': run.config.objective.name,
      'model': run.config.model.name,
      'seed': run.config.seed,
      'step': run.step,
      'checkpoint': run.fingerprint,
      'compute_dtype': run.config.compute_dtype,
      'top1_accuracy': accuracy,
    }
    for index, (name, run, accuracy) in enumerate(
      zip(names, runs, predictions.top1_accuracy, strict=True)
    )
  ]


def _read_outputs(runs, groups, dataset, split, of_layers) -> Predictions:
  """Reads all predictions, and stores layers if `of_layers` says of what."""

  def read(index) -> Collected:
    run = runs[index]
    found = run.predictions(dataset, split)
    if of_layers:  # now, while the run is on the devices
      run.layers(dataset, split, **of_layers, only=())
    run.release()
    return found

  names = [str(run.run.path) for run in runs]
  objectives = [run.objective for run in runs]
  return read_predictions(names, objectives, groups, read)


def _compare_cka(runs, groups, dataset, split, of_layers) -> dict[str, Any]:
  """CKA of layers, and of the penultimate features."""

  def read(index, only) -> Collected:
    found = runs[index].layers(dataset, split, **of_layers, only=only)
    runs[index].release()
    return found

  name = 'pooled/features'
  features = [read(i, [name]).arrays[name] for i in range(len(runs))]
  return {
    **compare_layers(
      [str(run.run.path) for run in runs],
      [run.endpoints() for run in runs],
      groups,
      read,
      minibatch_size=of_layers['minibatch_size'],
    ),
    'features': compare_features(features),
  }


def compare_runs(
  workdirs: Sequence[str],
  *,
  output: str,
  root: str | None = None,
  step: str = 'best',
  dataset: str | None = None,
  split: str | None = None,
  with_cka: bool = True,
  num_cka_examples: int = NUM_SAMPLED,
  minibatch_size: int = 32,
  data_dir: str | None = None,
  batch_size: int | None = None,
  compute_dtype: str | None = None,
) -> dict[str, Any]:
  """Compares runs and writes <output>/comparison.json.

  Args:
    workdirs: of two runs or more.
    output: directory to write into.
    root: a directory above all runs, whose names are their paths from there;
      None: the lowest such directory.
    step: 'best', 'last' or a number, of every run.
    dataset: to compare on; None: the runs' own.
    split: of it; None: its test split.
    with_cka: compare layers too.
    num_cka_examples: at most so many, of the beginning of the split.
    minibatch_size: of the unbiased CKA.
    data_dir: TFDS directory; None takes the runs'.
    batch_size: global; None takes the runs'.
    compute_dtype: 'float32' or 'bfloat16'; None takes the run's.

  Returns:
    What was written.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set.
    ValueError: if runs cannot be compared, or an argument is not legal.
    OSError: if the result cannot be written.
  """
  runs = [
    RunOutputs(
      path,
      step=step,
      data_dir=data_dir,
      batch_size=batch_size,
      compute_dtype=compute_dtype,
    )
    for path in workdirs
  ]
  check_alike(runs)
  names = run_names([run.run.path for run in runs], root=root)
  dataset = dataset or runs[0].config.dataset
  check_labels(runs[0].config.dataset, dataset)
  target = storage.as_path(output)
  target.mkdir(parents=True, exist_ok=True)  # refused before hours of work
  split = split or catalogue.get_dataset_spec(dataset).test_split
  of_layers = dict(num_examples=num_cka_examples, minibatch_size=minibatch_size)
  for run in runs if with_cka else ():  # refused before the first forward pass
    run.layers_split(dataset, split, **of_layers)
  groups = group_seeds(runs)
  predictions = _read_outputs(
    runs, groups, dataset, split, of_layers if with_cka else None
  )
  result = {
    'lossbench_version': lossbench.__version__,
    'dataset': dataset,
    'split': split,
    'num_examples': len(predictions.labels),
    'runs': _run_records(names, runs, groups, predictions),
    **compare_predictions(groups, predictions),
  }
  if with_cka:
    LOGGER.info('Comparing layers.')
    result['cka'] = _compare_cka(runs, groups, dataset, split, of_layers)
  return write_comparison(target, result)
