"""Evaluates a checkpoint: python -m lossbench.evaluate --workdir=RUN.

Rebuilds model, objective and data from the run directory; writes
eval/<dataset>-<split>/metrics.json and predictions.npz into it and prints a
table.
"""

import os
import pathlib
import uuid

import jax
import numpy as np
from absl import app, flags
from rich import console as rich_console
from rich import table as rich_table

import lossbench
from lossbench import build, console, devices
from lossbench.console import LOGGER
from lossbench.evaluation import Evaluator, Predictions
from lossbench.metrics.calibration import (
  ExpectedCalibrationError,
  fit_temperature,
  negative_log_likelihood,
  temper,
)
from lossbench.metrics.records import Record, create_record
from lossbench.run_directory import RunDirectory, write_json
from lossbench.train.checkpoints import Checkpoint, Checkpointer
from lossbench.train.progress import create_printer
from lossbench.train.skipping import skipped_ids

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run directory.')
_STEP = flags.DEFINE_string(
  'step', 'best', "'best' by holdout accuracy, 'last', or a step's number."
)
_SPLIT = flags.DEFINE_string(
  'split',
  None,
  "Split of the run's data set: 'holdout', or a TFDS split such as 'test' or "
  "'train[:1000]'. Default: the data set's test split.",
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'TFDS directory, if it has moved since training.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, 'Global batch size; changes no number.', lower_bound=1
)

_CHUNK = 4096  # examples whose probabilities are on the device at once


def load_checkpoint(run: RunDirectory, step: str) -> Checkpoint:
  """Reads one checkpoint of a run.

  Args:
    run: the run directory.
    step: 'best', 'last' or a number.

  Raises:
    FileNotFoundError: if there are no checkpoints, or not this one; lists
      those that are there.
    ValueError: if `step` is none of these, or the checkpoint is damaged.
  """
  if not run.checkpoints_path.is_dir():
    raise FileNotFoundError(
      f'{run.path} has no checkpoints. Train first, with main.py.'
    )
  with Checkpointer(run.checkpoints_path, read_only=True) as checkpointer:
    steps = checkpointer.steps
    if not steps:
      raise FileNotFoundError(
        f'{run.path} has no checkpoints yet. Train first, with main.py.'
      )
    if step == 'last':
      return checkpointer.restore(steps[-1])
    if step == 'best':
      if checkpointer.best_step is None:
        raise ValueError(
          f'{run.path} has no best checkpoint, for it was trained without a '
          'holdout. Use --step=last.'
        )
      return checkpointer.restore(checkpointer.best_step)
    if not step.isdigit():
      raise ValueError(
        f"--step must be 'best', 'last' or a number; got {step!r}."
      )
    if int(step) not in steps:
      raise FileNotFoundError(
        f'{run.path} has no checkpoint of step {step}. It has: '
        f'{", ".join(map(str, steps))}.'
      )
    return checkpointer.restore(int(step))


def log_probs_of(objective, logits: np.ndarray) -> np.ndarray:
  """The objective's log-probabilities of stored logits [N, K], on the host."""
  log_probs_fn = jax.jit(type(objective).log_probs)
  return np.concatenate(
    [
      np.asarray(log_probs_fn(objective, logits[first : first + _CHUNK]))
      for first in range(0, len(logits), _CHUNK)
    ]
  )


def temperature_records(objective, predictions: Predictions) -> list[Record]:
  """NLL and ECE after scaling to the temperature of lowest NLL (Table B.3).

  As in the paper the temperature is fitted on the very split it is reported
  on, so it is the best that scaling could do, not a held-out estimate.
  """
  note = 'temperature fitted on this split'
  labels = predictions.labels
  n = len(labels)
  log_probs = log_probs_of(objective, predictions.logits)
  temperature = fit_temperature(log_probs, labels)
  bins = ExpectedCalibrationError.empty()
  nll_sum = 0.0
  for first in range(0, n, _CHUNK):
    rows = slice(first, first + _CHUNK)
    tempered = temper(log_probs[rows], temperature)
    bins = bins.update(tempered, labels[rows], None)
    nll = negative_log_likelihood(tempered, labels[rows])
    nll_sum += float(nll) * len(labels[rows])
  return [
    create_record('temperature', temperature, n=n, note=note),
    create_record('tempered_nll', nll_sum / n, n=n, note=note),
    create_record('tempered_ece', bins.compute(), n=n, note=note),
  ]


def accumulator_records(accumulators, *, n: int) -> list[Record]:
  """One record per accumulator; one that cannot be computed says why."""
  records = []
  for name, accumulator in accumulators.items():
    metric, _, endpoint = name.partition('/')
    value, note = None, ''
    try:
      value = accumulator.compute()
    except ValueError as error:
      note = f'not available: {error}'
    records.append(
      create_record(metric, value, n=n, endpoint=endpoint or None, note=note)
    )
  return records


def write_results(
  path: pathlib.Path,
  *,
  records: list[Record],
  predictions: Predictions,
  about: dict,
):
  """Writes metrics.json and predictions.npz, each whole or not at all."""
  path.mkdir(parents=True, exist_ok=True)
  temporary = path / f'.{uuid.uuid4().hex}.npz'
  np.savez(
    temporary,
    id=predictions.ids,
    label=predictions.labels,
    logits=predictions.logits,
  )
  os.replace(temporary, path / 'predictions.npz')
  write_json(
    path / 'metrics.json',
    {**about, 'metrics': [record.to_json() for record in records]},
  )


def print_table(title: str, records: list[Record]):
  """Prints measures of predictions, then those of the endpoints."""
  output = rich_console.Console()
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
  output.print(layers)
  for note in dict.fromkeys(r.note for r in records if r.note):
    output.print(f'Note: {note}', style='dim', highlight=False)


def _format(record: Record) -> str:
  return '-' if record.value is None else f'{record.value:.4f}'


def evaluate(
  *,
  workdir: str,
  step: str = 'best',
  split: str | None = None,
  data_dir: str | None = None,
  batch_size: int | None = None,
) -> list[Record]:
  """Evaluates one checkpoint and writes the results into its run directory.

  Args:
    workdir: of the run.
    step: 'best', 'last' or a number.
    split: 'holdout' or a TFDS split; None for the data set's test split.
    data_dir: TFDS directory; None takes the run's.
    batch_size: global; None takes the run's.

  Returns:
    The records that were written.

  Raises:
    FileNotFoundError: if there is no run, checkpoint or data set.
    ValueError: if the checkpoint is damaged or an argument is not legal.
    OSError: if the results cannot be written.
  """
  from lossbench.data import datasets

  run = RunDirectory(workdir)
  config = run.read_config()
  checkpoint = load_checkpoint(run, step)
  batch_size = batch_size or config.eval_batch_size
  if batch_size % jax.device_count():
    raise ValueError(
      f'--batch_size={batch_size} is not divisible by the '
      f'{jax.device_count()} devices.'
    )
  builder = datasets.open_dataset(
    config.dataset,
    data_dir=config.data_dir if data_dir is None else data_dir,
    num_classes=config.num_classes,
  )
  name = split or datasets.get_dataset_spec(config.dataset).test_split
  tfds_split = name
  if name == 'holdout':
    if not config.num_holdout:
      raise ValueError(
        f'{run.path} was trained without a holdout. Name another --split.'
      )
    _, tfds_split = datasets.holdout_splits(
      builder, num_holdout=config.num_holdout
    )
  evaluator = Evaluator(
    config,
    builder,
    split=tfds_split,
    with_representations=True,
    batch_size=batch_size,
    bad_ids=skipped_ids(config, builder, split=tfds_split, run=run),
  )
  LOGGER.info(
    'Evaluating step %d of %s (%s) on %d examples of %s %s.',
    checkpoint.step,
    run.path,
    config.objective.name,
    evaluator.num_examples,
    config.dataset,
    name,
  )
  accumulators, predictions = evaluator.run(
    devices.replicate(checkpoint.eval_variables),
    with_predictions=True,
    on_progress=create_printer('examples', evaluator.num_examples),
  )
  records = accumulator_records(accumulators, n=evaluator.num_examples)
  records += temperature_records(build.build_objective(config), predictions)
  if jax.process_index() == 0:
    path = run.eval_path(config.dataset, name)
    write_results(
      path,
      records=records,
      predictions=predictions,
      about={
        'dataset': config.dataset,
        'split': name,
        'step': checkpoint.step,
        'objective': config.objective.name,
        'lossbench_version': lossbench.__version__,
      },
    )
    print_table(
      f'{config.objective.name}: {config.dataset} {name}, step '
      f'{checkpoint.step}, {evaluator.num_examples} examples',
      records,
    )
    LOGGER.info('Wrote %s', path)
  return records


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  console.configure()
  try:
    evaluate(
      workdir=_WORKDIR.value,
      step=_STEP.value,
      split=_SPLIT.value,
      data_dir=_DATA_DIR.value,
      batch_size=_BATCH_SIZE.value,
    )
  except (ValueError, OSError) as error:
    console.fail(error)


if __name__ == '__main__':
  flags.mark_flags_as_required(['workdir'])
  app.run(main, flags_parser=console.parse_flags)
