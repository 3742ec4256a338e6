"""Evaluates a checkpoint: python -m lossbench.evaluate --workdir=RUN.

Rebuilds model, objective and data from the run directory, measures predictions
and representations on the test split and predictions on every
out-of-distribution set that is there, and prints tables. For each data set it
writes eval/<dataset>-<split>/metrics.json and predictions.npz into the run
directory; for the test split also features.npz and curves.npz (reliability
diagram, singular values, cosine distances, angular visual hardness).
"""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags
from rich import table as rich_table

import lossbench
from lossbench import cluster, console, scoring, storage
from lossbench.console import LOGGER
from lossbench.data import catalogue
from lossbench.evaluation import Collected
from lossbench.metrics.cosine_distances import cosine_distances
from lossbench.metrics.hardness import angular_visual_hardness
from lossbench.metrics.neural_collapse import (
  CollapseMeasures,
  NearestMeanMismatch,
  nearest_class_mean,
)
from lossbench.metrics.records import Record, create_record
from lossbench.metrics.spectra import participation_ratio, singular_values
from lossbench.outputs import RunOutputs, write_arrays
from lossbench.run_directory import write_json
from lossbench.train.progress import create_printer

# Metrics of a corruption family that are averaged over its members.
_FAMILY_METRICS = (
  'top1_accuracy',
  'top5_accuracy',
  'nll',
  'ece',
  'brier_score',
)

# In multiples of 1 / K, the hardness of an example as near to every class.
HARDNESS_EDGES = np.linspace(0.0, 1.6, 81)


def representation_records(
  accumulators: dict, sample: Collected, kernel: np.ndarray, *, n: int
) -> tuple[list[Record], dict[str, np.ndarray]]:
  """Records and curves of the suite 'representations'.

  Args:
    accumulators: filled.
    sample: 'features' and 'logits' of the sampled examples.
    kernel: [M, K] of the output layer.
    n: examples that were counted.

  Returns:
    Records, and the arrays of curves.npz.
  """
  accumulators = dict(accumulators)
  collapse = accumulators.pop('neural_collapse')
  records = scoring.accumulator_records(accumulators, n=n)
  curves = {'kernel_singular_values': singular_values(kernel.T, centered=False)}

  def not_available(names, error):
    note = f'not available: {error}'
    return [create_record(name, None, n=n, note=note) for name in names]

  try:
    spectrum = collapse.activation_spectrum().singular_values(centered=True)
  except ValueError as error:
    records += not_available(['participation_ratio'], error)
  else:
    curves['activation_singular_values'] = spectrum
    ratio = participation_ratio(spectrum)
    records.append(create_record('participation_ratio', ratio, n=n))
  try:
    measures = vars(collapse.measures(kernel))
    means = collapse.class_means()
  except ValueError as error:  # a class is empty
    names = [field.name for field in dataclasses.fields(CollapseMeasures)]
    records += not_available([*names, 'nc4'], error)
  else:
    curves['centroid_singular_values'] = singular_values(means, centered=True)
    records += [create_record(k, v, n=n) for k, v in measures.items()]
    records.append(_nearest_mean_record(means, sample))
  try:
    hardness = angular_visual_hardness(
      sample.arrays['features'], sample.labels, kernel=kernel
    )
  except ValueError as error:
    LOGGER.warning('No densities of angular visual hardness: %s', error)
  else:
    curves['hardness_edges'] = HARDNESS_EDGES / kernel.shape[1]
    curves['hardness'] = np.histogram(hardness, curves['hardness_edges'])[0]
  try:
    distances = cosine_distances(sample.arrays['features'], sample.labels)
  except ValueError as error:
    LOGGER.warning('No cosine distances: %s', error)
  else:
    curves['cosine_distance_edges'] = distances.edges
    curves['cosine_distance_within'] = distances.within
    curves['cosine_distance_between'] = distances.between
  return records, curves


def _nearest_mean_record(means, sample: Collected) -> Record:
  nearest = nearest_class_mean(sample.arrays['features'], means)
  mismatch = NearestMeanMismatch.empty().update(
    nearest, sample.arrays['logits'].argmax(axis=1), None
  )
  return create_record('nc4', mismatch.compute(), n=len(sample))


def write_metrics(directory: storage.Path, records: Sequence[Record], **about):
  """Writes metrics.json; what is wrong with a path is said in one line."""
  if jax.process_index() > 0:
    return
  directory.mkdir(parents=True, exist_ok=True)
  write_json(
    directory / 'metrics.json',
    {
      **about,
      'lossbench_version': lossbench.__version__,
      'metrics': [record.to_json() for record in records],
    },
  )


def evaluate_own(outputs: RunOutputs, split: str) -> list[Record]:
  """Predictions and representations on a split of the run's own data set."""
  config = outputs.config
  result = outputs.measure(config.dataset, split, suite='representations')
  whole = result.collected
  records, reliability = scoring.prediction_records(
    outputs.objective, whole.arrays['logits'], whole.labels
  )
  more, curves = representation_records(
    result.accumulators, result.sample, outputs.kernel, n=len(whole)
  )
  records += more
  if reliability is not None:
    curves |= {f'reliability_{k}': v for k, v in vars(reliability).items()}
  directory = outputs.eval_path(config.dataset, split)
  write_metrics(
    directory,
    records,
    dataset=config.dataset,
    split=split,
    step=outputs.step,
    objective=config.objective.name,
  )
  if jax.process_index() == 0:
    write_arrays(directory / 'curves.npz', **curves)
  return records


def evaluate_ood(
  outputs: RunOutputs, *, data_dir: str | None
) -> tuple[dict[str, list[Record]], dict[str, str]]:
  """Predictions on every out-of-distribution set of the run's data set.

  Args:
    outputs: of the run.
    data_dir: TFDS directory; None takes the run's.

  Returns:
    Name of the data set or corruption family -> its records; and name -> why
    not, of those that are not available.
  """
  from lossbench.data import datasets

  config = outputs.config
  data_dir = config.data_dir if data_dir is None else data_dir
  suite = catalogue.ood_suite(config.dataset)
  missing = {}
  for ood_set in suite:
    reason = datasets.not_available(ood_set.name, data_dir)
    if reason:
      missing[ood_set.name] = reason
  results: dict[str, list[Record]] = {}
  families: dict[str, list[list[Record]]] = {}
  present = [ood_set for ood_set in suite if ood_set.name not in missing]
  test_split = catalogue.get_dataset_spec(config.dataset).test_split
  if present:
    own = outputs.predictions(config.dataset, test_split).arrays['logits']
    detector = scoring.Detector(outputs.objective, own)
    on_progress = create_printer('out-of-distribution sets', len(present))
  for number, ood_set in enumerate(present, start=1):
    try:
      records = _ood_records(outputs, ood_set, detector)
    except FileNotFoundError as error:
      missing[ood_set.name] = f'not available: {error}'
      continue
    if ood_set.family:
      families.setdefault(ood_set.family, []).append(records)
    else:
      results[ood_set.name] = records
    on_progress(number)
  for family, members in families.items():
    of_family = [s for s in suite if s.family == family]
    records = _family_records(members, num_members=len(of_family))
    split = catalogue.get_dataset_spec(of_family[0].name).test_split
    write_metrics(
      outputs.eval_path(family, split),
      records,
      dataset=family,
      split=split,
      step=outputs.step,
      objective=config.objective.name,
    )
    results[family] = records
  return results, missing


def _ood_records(outputs, ood_set, detector) -> list[Record]:
  from lossbench.data import real_labels

  spec = catalogue.get_dataset_spec(ood_set.name)
  predictions = outputs.predictions(
    ood_set.name, spec.test_split, own_labels=ood_set.shifted, quiet=True
  )
  logits, labels = predictions.arrays['logits'], predictions.labels
  records = []
  if ood_set.shifted:
    records, _ = scoring.prediction_records(outputs.objective, logits, labels)
  if spec.num_used_classes:
    records += scoring.subset_records(
      outputs.objective, logits, labels, num_used_classes=spec.num_used_classes
    )
  if spec.real_labels:
    ids, is_label = real_labels.read_real_labels(
      outputs.open_dataset(ood_set.name), spec.test_split
    )
    if not np.array_equal(ids, predictions.ids):
      raise ValueError(
        f'The ids of {ood_set.name} are not those of its labels: prepare the '
        'data set again.'
      )
    records.append(scoring.real_record(logits, is_label))
  records += detector.records(logits)
  write_metrics(
    outputs.eval_path(ood_set.name, spec.test_split),
    records,
    dataset=ood_set.name,
    split=spec.test_split,
    step=outputs.step,
    objective=outputs.config.objective.name,
  )
  return records


def _family_records(
  members: list[list[Record]], *, num_members: int
) -> list[Record]:
  """The mean over all corruptions and severities of a family.

  An incomplete family has no mean: one over other corruptions would look like
  it and be another number.
  """
  records = []
  for name in _FAMILY_METRICS:
    found = [r for records in members for r in records if r.name == name]
    if not found:
      continue
    values = [record.value for record in found]
    value, note = None, f'mean over {num_members} corruptions and severities'
    if len(members) < num_members:
      note = f'not available: {len(members)} of {num_members} corruptions'
    elif None in values:
      note = 'not available: see the corruptions'
    else:
      value = float(np.mean(values))
    records.append(
      create_record(name, value, n=sum(r.n for r in found), note=note)
    )
  return records


def print_table(title: str, records: Sequence[Record]):
  """Prints measures of predictions, then those of the endpoints."""
  output = console.output()
  output.print(title, style='bold', highlight=False)
  table = rich_table.Table()
  for column, justify in [
    ('metric', 'left'),
    ('value', 'right'),
    ('unit', 'left'),
  ]:
    table.add_column(column, justify=justify)
  for record in records:
    if record.endpoint is None:
      table.add_row(record.name, _format(record), record.unit)
  output.print(table)
  layers = rich_table.Table()
  layers.add_column('endpoint')
  names = list(dict.fromkeys(r.name for r in records if r.endpoint))
  for name in names:
    layers.add_column(name, justify='right')
  values = {(r.endpoint, r.name): _format(r) for r in records if r.endpoint}
  for endpoint in dict.fromkeys(r.endpoint for r in records if r.endpoint):
    layers.add_row(
      endpoint, *[values.get((endpoint, name), '') for name in names]
    )
  if names:
    output.print(layers)
  for note in dict.fromkeys(r.note for r in records if r.note):
    output.print(f'Note: {note}', style='dim', highlight=False)


def print_ood_table(results: dict[str, list[Record]], missing: dict[str, str]):
  """Prints one row a data set or corruption family, then what is missing."""
  output = console.output()
  names = [
    'top1_accuracy',
    'subset_top1_accuracy',
    'real_accuracy',
    'nll',
    'ece',
    'max_probability_auroc',
    'energy_auroc',
  ]
  if results:
    measured = {r.name for records in results.values() for r in records}
    names = [name for name in names if name in measured]
    table = rich_table.Table(title='out of distribution', title_justify='left')
    table.add_column('dataset')
    for name in names:
      table.add_column(name, justify='right')
    for dataset, records in results.items():
      values = {record.name: _format(record) for record in records}
      table.add_row(dataset, *[values.get(name, '') for name in names])
    output.print(table)
  families = collections.defaultdict(list)
  for name in missing:
    families[catalogue.family_of(name) or name].append(name)
  for family, sets in families.items():
    shown = family
    if len(sets) > 1:
      shown += f' ({len(sets)} sets, for example {sets[0]})'
    output.print(f'{shown}: {missing[sets[0]]}', style='dim', highlight=False)


def _format(record: Record) -> str:
  return '-' if record.value is None else f'{record.value:.4f}'


def evaluate(
  *,
  workdir: str,
  step: str = 'best',
  split: str | None = None,
  ood: bool = True,
  strict: bool = False,
  data_dir: str | None = None,
  batch_size: int | None = None,
) -> list[Record]:
  """Evaluates one checkpoint and writes the results into its run directory.

  Args:
    workdir: of the run.
    step: 'best', 'last' or a number.
    split: only this one, 'holdout' or a TFDS split; None for the data set's
      test split and the out-of-distribution sets.
    ood: whether the latter are evaluated.
    strict: raise at the end if one of them is not available.
    data_dir: TFDS directory; None takes the run's.
    batch_size: global; None takes the run's.

  Returns:
    The records of the run's own data set.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set; or, at the
      end, if `strict` and an out-of-distribution set is not available.
    ValueError: if the checkpoint is damaged or an argument is not legal.
    OSError: if the results cannot be written.
  """
  if strict and (split or not ood):
    raise ValueError(
      '--strict is about out-of-distribution sets, which --split and --noood '
      'leave out: give one or the other.'
    )
  outputs = RunOutputs(
    workdir, step=step, data_dir=data_dir, batch_size=batch_size
  )
  config = outputs.config
  name = split or catalogue.get_dataset_spec(config.dataset).test_split
  LOGGER.info(
    'Evaluating step %d of %s (%s) on %s %s.',
    outputs.step,
    outputs.run.path,
    config.objective.name,
    config.dataset,
    name,
  )
  records = evaluate_own(outputs, name)
  first = jax.process_index() == 0
  if first:
    print_table(
      f'{config.objective.name} on {config.dataset} {name}, step '
      f'{outputs.step}, {records[0].n} examples',
      records,
    )
  missing: dict[str, str] = {}
  if split is None and ood:
    results, missing = evaluate_ood(outputs, data_dir=data_dir)
    if first:
      print_ood_table(results, missing)
  if split is None and first:
    write_json(
      outputs.run.evaluation_path,
      {
        'step': outputs.step,
        'last_step': outputs.last_step,
        'ood': ood,
        'not_available': missing,
      },
    )
  LOGGER.info('Wrote %s', outputs.run.path / 'eval')
  if strict and missing:
    raise FileNotFoundError(
      f'--strict: {len(missing)} data sets are not available: '
      f'{", ".join(missing)}.'
    )
  return records


def define_flags():
  """Not at import, so that binaries can import one another."""
  flags.DEFINE_string('workdir', None, 'Run directory.')
  flags.DEFINE_string(
    'step', 'best', "'best' by holdout accuracy, 'last', or a step's number."
  )
  flags.DEFINE_string(
    'split',
    None,
    "Only this split of the run's data set: 'holdout', or a TFDS split such as "
    "'test' or 'train[:1000]'. Default: the test split, then all "
    'out-of-distribution sets.',
  )
  flags.DEFINE_bool(
    'ood', True, 'Evaluate on out-of-distribution sets after the test split.'
  )
  flags.DEFINE_bool(
    'strict', False, 'Fail, at the end, if a data set is not available.'
  )
  flags.DEFINE_string(
    'data_dir', None, 'TFDS directory, if it has moved since training.'
  )
  flags.DEFINE_integer(
    'batch_size', None, 'Global batch size; changes no number.', lower_bound=1
  )


def main(argv):
  args = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  try:
    cluster.initialize()
    console.configure()
    evaluate(
      workdir=args.workdir,
      step=args.step,
      split=args.split,
      ood=args.ood,
      strict=args.strict,
      data_dir=args.data_dir,
      batch_size=args.batch_size,
    )
  except (ValueError, OSError) as error:
    console.fail(error)


if __name__ == '__main__':
  define_flags()
  cluster.define_flags()
  flags.mark_flags_as_required(['workdir'])
  app.run(main, flags_parser=console.parse_flags)
