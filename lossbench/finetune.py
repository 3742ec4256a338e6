"""Fine-tunes a checkpoint on another data set: python -m lossbench.finetune.

  python -m lossbench.finetune --workdir=RUN --dataset=caltech101

All weights, with softmax cross-entropy, over a grid of learning rates and weight
decays; the point of highest accuracy on a fifth of the training data is trained
again on all of it and tested once (Kornblith et al. 2019). Writes
eval/finetune-<dataset>/metrics.json into the run directory, the runs themselves
into finetune/<dataset>/, and prints a table. Run it again to continue.
"""

from lossbench import cli  # isort: split

from absl import flags

from configs.studies import default


def _numbers(name: str, texts) -> tuple[float, ...]:
  try:
    numbers = tuple(float(text) for text in texts)
  except ValueError as error:
    raise ValueError(
      f'--{name}={",".join(texts)} are not numbers. Give for example 0.01,0.1.'
    ) from error
  lowest = 0 if name == 'weight_decays' else 1e-30
  if not numbers or not all(lowest <= x < 1e30 for x in numbers):
    raise ValueError(
      f'--{name}={",".join(texts)} must be finite and not negative, learning '
      'rates above 0. Give for example 0.01,0.1.'
    )
  return numbers


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  cli.define_workdir()
  flags.DEFINE_string('dataset', None, 'Data set to fine-tune on.')
  flags.DEFINE_string(
    'step', 'best', "'best' by holdout accuracy, 'last', or a step's number."
  )
  flags.DEFINE_string(
    'data_dir', None, 'TFDS directory, if it has moved since training.'
  )
  flags.DEFINE_list(
    'learning_rates', [*map(str, default.FINETUNE_LEARNING_RATES)], 'To try.'
  )
  flags.DEFINE_list(
    'weight_decays',
    [*map(str, default.FINETUNE_WEIGHT_DECAYS)],
    'To try; over the learning rate.',
  )
  flags.DEFINE_float(
    'num_epochs', default.FINETUNE_EPOCHS, 'Of every run.', lower_bound=1e-6
  )
  flags.DEFINE_integer(
    'batch_size', default.FINETUNE_BATCH_SIZE, 'Global.', lower_bound=1
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  rates, decays = (
    _numbers(name, args[name].value)
    for name in ('learning_rates', 'weight_decays')
  )
  from lossbench.probe import finetuning, printing

  found = finetuning.finetune_checkpoint(
    args.workdir,
    args.dataset,
    grid=finetuning.Grid(rates, decays, args.num_epochs, args.batch_size),
    step=args.step,
    data_dir=args.data_dir,
  )
  printing.print_table(
    f'{found.objective}: fine-tuned on {found.num_train} examples of '
    f'{found.dataset} {found.split}, from step {found.step}',
    found.records,
    main_metric=found.main_metric,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir', 'dataset'], on_cluster=True)
