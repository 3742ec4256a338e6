"""Transfers a checkpoint's features: python -m lossbench.transfer.

  python -m lossbench.transfer --workdir=RUN --dataset=caltech101

Multinomial logistic regression on the fixed penultimate features of a run's
checkpoint (Kornblith et al. 2021, section 3.4): 45 L2 values, chosen on a
holdout that is cut from the training data, refitted on all of it at the chosen
value, tested once. Beside it k nearest neighbours by cosine, k chosen on the same
holdout, and class means of 1, 5 and 10 examples a class. Writes
eval/transfer-<dataset>/metrics.json, predictions.npz and classifier.npz into the
run directory and prints a table.

`--dataset` equal to the run's own with `--split=holdout` relearns the source
task from examples that the run did not train on, the paper's IN(50k).
"""

from lossbench import cli  # isort: split

from absl import flags


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
  from lossbench.probe import printing
  from lossbench.probe.transfer import transfer_checkpoint

  found = transfer_checkpoint(
    args.workdir, args.dataset, **cli.checkpoint_arguments()
  )
  printing.print_table(
    f'{found.objective}: transfer to {found.dataset} from {found.num_train} '
    f'examples of {found.split}, step {found.step}',
    found.records,
    main_metric=found.main_metric,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['workdir', 'dataset'], on_cluster=True)
