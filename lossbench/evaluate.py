"""Evaluates a checkpoint: python -m lossbench.evaluate --workdir=RUN.

Rebuilds model, objective and data from the run directory, measures predictions
and representations on the test split and predictions on every
out-of-distribution set that is there, and prints tables. For each data set it
writes eval/<dataset>-<split>/metrics.json and predictions.npz into the run
directory; for the test split also features.npz and curves.npz (reliability
diagram, singular values, cosine distances, angular visual hardness).
"""

import collections
from collections.abc import Sequence

import jax
from absl import app, flags
from rich import table as rich_table

from lossbench.data import catalogue
from lossbench.evaluation import scoring
from lossbench.evaluation.outputs import RunOutputs, write_arrays, write_metrics
from lossbench.evaluation.representations import representation_records
from lossbench.evaluation.shifts import evaluate_ood
from lossbench.metrics.records import Record
from lossbench.runs.directory import write_json
from lossbench.runtime import cluster, console
from lossbench.runtime.console import LOGGER


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
    checkpoint=outputs.fingerprint,
    objective=config.objective.name,
  )
  if jax.process_index() == 0:
    write_arrays(directory / 'curves.npz', **curves)
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
  first = jax.process_index() == 0
  if split is None and first:
    # Until it is written again, last, the records are of several checkpoints.
    outputs.run.evaluation_path.unlink(missing_ok=True)
  records = evaluate_own(outputs, name)
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
        'checkpoint': outputs.fingerprint,
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
