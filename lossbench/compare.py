"""Compares checkpoints: python -m lossbench.compare RUN RUN [RUN ...].

  python -m lossbench.compare runs/a runs/b --output=comparison

Agreement of predictions of every pair, hierarchical clustering, ensembles of
seeds and of objectives, CKA between all layers of two runs and between
corresponding layers of all. Everything is computed from outputs stored in the
run directories; what is not stored yet is computed by one forward pass a run
and kept there. Writes <output>/comparison.json and prints tables.

Memory on the host, for A runs, O objectives, N examples, K classes and layers of
C channels: up to 12 N K O bytes for ensembles (8 N K O where every objective has
an even number of seeds) and 28 N K for the run at hand; 8 N A for classes; for
CKA on n examples 4 n A (G + C) bytes, one layer of all runs at a time, and 8 r^2
bytes a run for Gaussian kernels of r = 2,000 examples. On a device 24 C^2 bytes
for one pair of layers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from rich import table as rich_table

import lossbench
from lossbench import cluster, console, scoring, storage
from lossbench.console import LOGGER
from lossbench.data import catalogue
from lossbench.evaluation import Collected
from lossbench.metrics import agreement, cka
from lossbench.metrics.accuracy import top1_accuracy
from lossbench.metrics.calibration import negative_log_likelihood
from lossbench.outputs import NUM_SAMPLED, RunOutputs
from lossbench.run_directory import differing_fields, write_json
from lossbench.train.progress import create_printer

_CHUNK = 1024  # examples whose layers are on a device at once
# Gaussian kernels are quadratic in the number of examples.
_MAX_RBF_EXAMPLES = 2000


def _jsonable(value: Any) -> Any:
  """NumPy to JSON's types; NaN, which JSON lacks, to null."""
  if isinstance(value, np.ndarray):
    return _jsonable(value.tolist())
  if isinstance(value, dict):
    return {name: _jsonable(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_jsonable(item) for item in value]
  if isinstance(value, float) and np.isnan(value):
    return None
  return value.item() if isinstance(value, np.generic) else value


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
  names = [own, *(s.name for s in shifted if not s.family)]
  families = {s.family for s in shifted if s.family}
  names += sorted(f'{f}_<corruption>_<severity>' for f in families)
  raise ValueError(
    f'The labels of --dataset={dataset} are not the classes of these runs, '
    f'which were trained on {own}. Known that fit: {", ".join(names)}.'
  )


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs of one configuration, which differ in nothing but the seed.

  Attributes:
    name: the objective's, with whatever else tells the group from others.
    indices: of the runs.
  """

  name: str
  indices: tuple[int, ...]


def group_seeds(runs: Sequence[RunOutputs]) -> list[Group]:
  """Groups runs that differ in nothing but the seed, in order."""

  def differences(a, b):
    return {
      name: (old, new)
      for name, old, new in differing_fields(a.config, b.config)
      if name != 'seed'
    }

  firsts: list[int] = []
  members: list[list[int]] = []
  for index, run in enumerate(runs):
    for first, indices in zip(firsts, members, strict=True):
      if not differences(runs[first], run):
        indices.append(index)
        break
    else:
      firsts.append(index)
      members.append([index])
  names = []
  for first in firsts:
    name = runs[first].config.objective.name
    twins = [
      other
      for other in firsts
      if other != first and runs[other].config.objective.name == name
    ]
    fields = {
      field: new
      for other in twins
      for field, (_, new) in differences(runs[other], runs[first]).items()
    }
    label = ', '.join(f'{k.split(".")[-1]}={v}' for k, v in fields.items())
    names.append(f'{name} ({label})' if label else name)
  return [
    Group(name, tuple(indices))
    for name, indices in zip(names, members, strict=True)
  ]


def clustering(similarity: np.ndarray) -> dict[str, Any]:
  """A tree of models as JSON: linkage and order of the leaves."""
  tree = agreement.cluster_models(similarity)
  return {'linkage': tree.linkage, 'order': tree.order}


def _shares(size: int) -> list[tuple[int, int]]:
  """How many of each of two objectives make an ensemble of `size` members.

  An odd one can be made in two ways. One seed of each is the least.
  """
  half = max(1, size // 2)
  other = max(1, size - half)
  return [(half, other)] if half == other else [(half, other), (other, half)]


@dataclasses.dataclass(frozen=True)
class Predictions:
  """What is kept of the logits of A runs; one run's are in memory at a time.

  Attributes:
    labels: [N] int32.
    top1: [N, A] predicted classes.
    top1_accuracy: [A], fractions.
    ensembles: for each group, number of its first seeds -> float32 [N, K]
      log-probabilities of their ensemble.
  """

  labels: np.ndarray
  top1: np.ndarray
  top1_accuracy: np.ndarray
  ensembles: list[dict[int, np.ndarray]]


def read_predictions(
  runs: Sequence[RunOutputs],
  groups: Sequence[Group],
  read_fn: Callable[[RunOutputs], Collected],
) -> Predictions:
  """Reads the predictions of all runs, one after another.

  Args:
    runs: to compare.
    groups: of all of them.
    read_fn: a run's 'logits'; has a forward pass where there are none yet.

  Raises:
    ValueError: if runs have predictions of different examples, or NaN.
  """
  read: dict[int, Any] = {}
  first: dict[str, np.ndarray] = {}
  labels = None

  def log_probs(group):
    nonlocal labels
    for index in group.indices:
      run = runs[index]
      LOGGER.info('[%d/%d] %s', len(read) + 1, len(runs), run.run.path)
      predictions = read_fn(run)
      labels = predictions.labels if labels is None else labels
      if not first:
        first[str(run.run.path)] = predictions.ids
      agreement.check_same_examples(
        {**first, str(run.run.path): predictions.ids}
      )
      logits = predictions.arrays['logits']
      read[index] = logits.argmax(axis=1), float(top1_accuracy(logits, labels))
      yield scoring.log_probs_of(run.objective, logits)

  ensembles = []
  for group in groups:
    size = len(group.indices)
    sizes = {size}
    for other in groups:
      if other is not group:
        shares = _shares(min(size, len(other.indices)))
        sizes |= {share for pair in shares for share in pair}
    ensembles.append(agreement.nested_ensembles(log_probs(group), sizes))
  top1, accuracies = zip(*(read[i] for i in range(len(runs))), strict=True)
  return Predictions(labels, np.stack(top1, 1), np.array(accuracies), ensembles)


def compare_ensembles(
  groups: Sequence[Group], predictions: Predictions
) -> dict[str, Any]:
  """Ensembles of the seeds of each objective, and of every two objectives.

  Probabilities are averaged, each member's by its own objective's map. The
  ensemble of two objectives has as many members as the smaller of theirs, half
  of them of each (of an odd number, the mean over both ways to divide it; one
  seed of each is the least), so that only the mixture is compared and not the
  number, as in the paper's ensembles of 8 (Figure D.3).

  Returns:
    Matrices [O, O] of accuracy and NLL (diagonal: the seeds of one objective)
    and of the agreement of the ensembles of seeds; clustering where there are
    two objectives or more.
  """
  labels, num_groups = predictions.labels, len(groups)
  whole = [
    predictions.ensembles[i][len(group.indices)]
    for i, group in enumerate(groups)
  ]
  accuracy, nll = np.zeros((2, num_groups, num_groups))
  for i in range(num_groups):
    for j in range(i, num_groups):
      mixtures = [whole[i]]
      if i != j:
        size = min(len(groups[i].indices), len(groups[j].indices))
        mixtures = [
          agreement.ensemble_log_probs(
            [predictions.ensembles[i][a]] * a
            + [predictions.ensembles[j][b]] * b
          )
          for a, b in _shares(size)
        ]
      found = [
        (
          float(top1_accuracy(mixture, labels)),
          float(negative_log_likelihood(mixture, labels)),
        )
        for mixture in mixtures
      ]
      accuracy[i, j], nll[i, j] = np.mean(found, axis=0)
      accuracy[j, i], nll[j, i] = accuracy[i, j], nll[i, j]
  top1 = np.stack([log_probs.argmax(axis=1) for log_probs in whole], 1)
  same = agreement.pairwise_agreement(top1, labels).same_top1
  result = {
    'objectives': [group.name for group in groups],
    'num_members': [len(group.indices) for group in groups],
    'top1_accuracy': accuracy,
    'nll': nll,
    'same_top1': same,
  }
  return result | (clustering(same) if num_groups > 1 else {})


@jax.jit
def _update_cka(accumulator, xs, ys, mask):
  return accumulator.update(xs, ys, mask)


def pooled_cka(
  xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]
) -> np.ndarray:
  """Exact linear CKA of every x layer with every y layer, float64 [L_x, L_y].

  By streaming covariances, one pair of layers on a device at a time.

  Args:
    xs: [N, C] of each x layer.
    ys: [N, C'] of each y layer, of the same examples.
  """
  matrix = np.zeros((len(xs), len(ys)))
  for i, x in enumerate(xs):
    for j, y in enumerate(ys):
      accumulator = cka.LinearCKA.empty(x.shape[1], y.shape[1])
      for first in range(0, len(x), _CHUNK):
        short = max(0, first + _CHUNK - len(x)) if len(x) > _CHUNK else 0
        rows = [
          np.pad(z[first : first + _CHUNK], ((0, short), (0, 0)))
          for z in (x, y)
        ]
        mask = np.arange(len(rows[0])) < len(rows[0]) - short
        accumulator = _update_cka(accumulator, rows[0], rows[1], mask)
      matrix[i, j] = jax.device_get(accumulator).compute()
  return matrix


def _first_pair(groups: Sequence[Group]) -> tuple[int, int]:
  """Two seeds of one configuration if there are, else the first two runs."""
  for group in groups:
    if len(group.indices) > 1:
      return group.indices[0], group.indices[1]
  return 0, 1


def compare_layers(
  runs: Sequence[RunOutputs],
  groups: Sequence[Group],
  *,
  dataset: str,
  split: str,
  num_examples: int,
  minibatch_size: int,
) -> dict[str, Any]:
  """CKA of all layers of two runs, and of corresponding layers of all runs.

  Linear CKA of spatial averages, exact, and unbiased minibatch CKA of whole
  feature maps. The two runs are the first two seeds of one configuration, or
  the first two where none has two.

  Raises:
    ValueError: if the runs read different examples, or activations are NaN.
  """

  def read(run, only) -> Collected:
    return run.layers(
      dataset,
      split,
      num_examples=num_examples,
      minibatch_size=minibatch_size,
      only=only,
    )

  ids, endpoints = {}, []
  for run in runs:
    ids[str(run.run.path)] = read(run, ()).ids
    endpoints.append(run.endpoints())
    run.release()
  agreement.check_same_examples(ids)
  result = {
    'num_examples': len(next(iter(ids.values()))),
    'minibatch_size': minibatch_size,
  }

  def layers(kind, index):
    names = [f'{kind}/{name}' for name in endpoints[index]]
    arrays = read(runs[index], names).arrays
    return [arrays[name] for name in names]

  i, j = _first_pair(groups)
  if endpoints[i] == endpoints[j]:
    grams = [*layers('gram', i), *layers('gram', j)]
    both = cka.cka_of_grams(grams, minibatch_size=minibatch_size)
    num_layers = len(endpoints[i])
    result['layers'] = {
      'runs': [i, j],
      'endpoints': endpoints[i],
      'linear_cka': pooled_cka(layers('pooled', i), layers('pooled', j)),
      'minibatch_cka': both[:num_layers, num_layers:],
    }
  if any(names != endpoints[0] for names in endpoints):
    LOGGER.info('Architectures differ: layers do not correspond.')
    return result
  on_progress = create_printer('layers', len(endpoints[0]))
  linear, minibatch = [], []
  for done, name in enumerate(endpoints[0], start=1):
    # One layer of all runs at a time: what fits in memory.
    arrays = [read(r, [f'gram/{name}', f'pooled/{name}']).arrays for r in runs]
    grams = [of_run[f'gram/{name}'] for of_run in arrays]
    minibatch.append(cka.cka_of_grams(grams, minibatch_size=minibatch_size))
    matrix = np.eye(len(runs))
    for a in range(len(runs)):
      for b in range(a):
        pair = [[arrays[index][f'pooled/{name}']] for index in (a, b)]
        matrix[a, b] = matrix[b, a] = pooled_cka(*pair)[0, 0]
    linear.append(matrix)
    on_progress(done)
  result['corresponding'] = {
    'endpoints': endpoints[0],
    'linear_cka': np.stack(linear),
    'minibatch_cka': np.stack(minibatch),
  }
  return result


def compare_features(features: Sequence[np.ndarray]) -> dict[str, Any]:
  """Linear, debiased and Gaussian CKA of penultimate features, [A, A] each.

  Args:
    features: [N, M] of each run, of the same examples; Gaussian kernels take
      the first 2,000 of them.
  """
  num_runs = len(features)
  linear, debiased = cka.linear_cka_matrices(features)
  kernels = [cka.rbf_kernel(x[:_MAX_RBF_EXAMPLES]) for x in features]
  rbf = np.ones((num_runs, num_runs))
  for i in range(num_runs):
    for j in range(i + 1):
      rbf[i, j] = rbf[j, i] = cka.kernel_cka(kernels[i], kernels[j])
  return {
    'num_examples': len(features[0]),
    'num_rbf_examples': len(kernels[0]),
    'linear_cka': linear,
    'debiased_cka': debiased,
    'rbf_cka': rbf,
  }


def compare(
  workdirs: Sequence[str],
  *,
  output: str,
  step: str = 'best',
  dataset: str | None = None,
  split: str | None = None,
  with_cka: bool = True,
  num_cka_examples: int = NUM_SAMPLED,
  minibatch_size: int = 32,
  data_dir: str | None = None,
  batch_size: int | None = None,
) -> dict[str, Any]:
  """Compares runs and writes <output>/comparison.json.

  Args:
    workdirs: of two runs or more.
    output: directory to write into.
    step: 'best', 'last' or a number, of every run.
    dataset: to compare on; None: the runs' own.
    split: of it; None: its test split.
    with_cka: compare layers too.
    num_cka_examples: at most so many, of the beginning of the split.
    minibatch_size: of the unbiased CKA.
    data_dir: TFDS directory; None takes the runs'.
    batch_size: global; None takes the runs'.

  Returns:
    What was written.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set.
    ValueError: if runs cannot be compared, or an argument is not legal.
    OSError: if the result cannot be written.
  """

  runs = [
    RunOutputs(path, step=step, data_dir=data_dir, batch_size=batch_size)
    for path in workdirs
  ]
  check_alike(runs)
  dataset = dataset or runs[0].config.dataset
  check_labels(runs[0].config.dataset, dataset)
  target = storage.as_path(output)
  target.mkdir(parents=True, exist_ok=True)  # refused before hours of work
  split = split or catalogue.get_dataset_spec(dataset).test_split
  of_layers = {
    'num_examples': num_cka_examples,
    'minibatch_size': minibatch_size,
  }
  if with_cka:
    for run in runs:  # refused before the first forward pass
      run.layers_split(dataset, split, **of_layers)

  def read(run) -> Collected:
    found = run.predictions(dataset, split)
    if with_cka:  # now, while the run is on the devices
      run.layers(dataset, split, **of_layers, only=())
    run.release()
    return found

  groups = group_seeds(runs)
  predictions = read_predictions(runs, groups, read)
  labels = predictions.labels
  pairwise = agreement.pairwise_agreement(predictions.top1, labels)
  result = {
    'lossbench_version': lossbench.__version__,
    'dataset': dataset,
    'split': split,
    'num_examples': len(labels),
    'runs': [
      {
        'name': run.run.path.name,
        'path': str(run.run.path),
        'objective': run.config.objective.name,
        'seed': run.config.seed,
        'step': run.step,
        'top1_accuracy': accuracy,
      }
      for run, accuracy in zip(runs, predictions.top1_accuracy, strict=True)
    ],
    'agreement': {
      'same_top1': pairwise.same_top1,
      'both_right_or_wrong': pairwise.both_right_or_wrong,
      'same_when_both_wrong': pairwise.same_when_both_wrong,
    },
    'clustering': clustering(pairwise.same_top1),
    'ensembles': compare_ensembles(groups, predictions),
  }
  if with_cka:
    LOGGER.info('Comparing layers.')
    features = [
      run.layers(dataset, split, **of_layers, only=['pooled/features']).arrays[
        'pooled/features'
      ]
      for run in runs
    ]
    result['cka'] = {
      **compare_layers(runs, groups, dataset=dataset, split=split, **of_layers),
      'features': compare_features(features),
    }
  result = _jsonable(result)
  if jax.process_index() == 0:
    write_json(target / 'comparison.json', result)
    print_tables(result)
    LOGGER.info('Wrote %s', target / 'comparison.json')
  return result


def _print_matrix(output, title, names, matrix):
  table = rich_table.Table(title=title, title_justify='left')
  table.add_column('')
  for name in names:
    table.add_column(name, justify='right', overflow='fold')
  for name, row in zip(names, matrix, strict=True):
    table.add_row(
      name, *['-' if value is None else f'{value:.4f}' for value in row]
    )
  output.print(table)


_MAX_PRINTED = 12  # runs whose matrix still fits on a screen


def print_tables(result: dict[str, Any]):
  """Prints agreement of runs, if they are few, and ensembles of objectives."""
  output = console.output()
  runs = result['runs']
  if len(runs) <= _MAX_PRINTED:
    names = [f'{run["objective"]} {run["seed"]}' for run in runs]
    same = result['agreement']['same_top1']
    _print_matrix(output, 'same top-1 prediction', names, same)
    if 'cka' in result:
      features = result['cka']['features']['linear_cka']
      _print_matrix(output, 'linear CKA of features', names, features)
  ensembles = result['ensembles']
  _print_matrix(
    output,
    'top-1 accuracy of ensembles (diagonal: of the seeds of one objective)',
    ensembles['objectives'],
    ensembles['top1_accuracy'],
  )
  if len(ensembles['objectives']) > 1 and 1 in ensembles['num_members']:
    output.print(
      'Note: of one seed alone the diagonal is that run, and mixtures with it '
      'have two members.',
      style='dim',
      highlight=False,
    )


def define_flags():
  """Not at import, so that binaries can import one another."""
  flags.DEFINE_string(
    'output', 'comparison', 'Directory that comparison.json is written into.'
  )
  flags.DEFINE_string(
    'step', 'best', "'best' by holdout accuracy, 'last', or a step's number."
  )
  flags.DEFINE_string(
    'dataset', None, "Data set to compare on; default: the runs' own."
  )
  flags.DEFINE_string(
    'split', None, "Split of it; default: the data set's test split."
  )
  flags.DEFINE_bool('cka', True, 'Compare layers too.')
  flags.DEFINE_integer(
    'num_cka_examples',
    NUM_SAMPLED,
    'Layers are compared on at most so many examples.',
    lower_bound=cka.MIN_DEBIASED,
  )
  flags.DEFINE_integer(
    'minibatch_size',
    32,
    'Examples in a minibatch of the unbiased CKA of whole feature maps.',
    lower_bound=cka.MIN_DEBIASED,
  )
  flags.DEFINE_string('data_dir', None, "TFDS directory; default: the runs'.")
  flags.DEFINE_integer(
    'batch_size', None, 'Global batch size; changes no number.', lower_bound=1
  )


def main(argv):
  args = flags.FLAGS
  try:
    cluster.initialize()
    console.configure()
    compare(
      argv[1:],
      output=args.output,
      step=args.step,
      dataset=args.dataset,
      split=args.split,
      with_cka=args.cka,
      num_cka_examples=args.num_cka_examples,
      minibatch_size=args.minibatch_size,
      data_dir=args.data_dir,
      batch_size=args.batch_size,
    )
  except (ValueError, OSError) as error:
    console.fail(error)


if __name__ == '__main__':
  define_flags()
  cluster.define_flags()
  app.run(main, flags_parser=console.parse_flags)
