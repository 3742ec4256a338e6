"""Transfers a checkpoint's features: python -m lossbench.transfer.

  python -m lossbench.transfer --workdir=RUN --dataset=caltech101

Multinomial logistic regression on the fixed penultimate features of a run's
checkpoint (Kornblith et al. 2021, section 3.4): 45 L2 values, chosen on a
holdout that is cut from the training data, refitted on all of it at the chosen
value, tested once. Beside it k nearest neighbours by cosine, k chosen on the same
holdout, and class means of 1, 5 and 10 examples a class. Writes eval/transfer-<dataset>/metrics.json, predictions.npz
and classifier.npz into the run directory and prints a table.

`--dataset` equal to the run's own with `--split=holdout` relearns the source
task from examples that the run did not train on, the paper's IN(50k).
"""

from lossbench import cli  # isort: split

from collections.abc import Sequence

from absl import flags
from rich import table as rich_table

from lossbench.runs.records import Record
from lossbench.runtime import console


def print_table(title: str, records: Sequence[Record], *, main_metric: str):
  """Prints the records, the main metric first and marked."""
  output = console.output()
  output.print(title, style='bold', highlight=False)
  table = rich_table.Table()
  table.add_column('metric')
  table.add_column('value', justify='right')
  table.add_column('unit')
  table.add_column('n', justify='right')
  for record in records:
    main = record.name == main_metric
    wide = record.name.endswith('accuracy')
    value = '-'
    if record.value is not None:
      value = f'{record.value:.4f}' if wide else f'{record.value:.4g}'
    table.add_row(
      f'{record.name} (main)' if main else record.name,
      value,
      record.unit,
      str(record.n),
      style='bold' if main else None,
    )
  output.print(table)
  for note in dict.fromkeys(r.note for r in records if r.note):
    output.print(f'Note: {note}', style='dim', highlight=False)


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  cli.define_workdir()
  flags.DEFINE_string('dataset', None, 'Data set to transfer to.')
  cli.define_checkpoint_flags(
    split="Training data: a TFDS split, or 'holdout', what the run kept from "
    "its own training. Default: the data set's."
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  from lossbench.probe.transfer import transfer_checkpoint

  found = transfer_checkpoint(
    args.workdir, args.dataset, **cli.checkpoint_arguments()
  )
  print_table(
    f'{found.objective}: transfer to {found.dataset} from {found.num_train} '
    f'examples of {found.split}, step {found.step}',
    found.records,
    main_metric=found.main_metric,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir', 'dataset'], on_cluster=True)
