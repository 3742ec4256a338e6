"""Evaluates a checkpoint: python -m lossbench.evaluate --workdir=RUN.

Rebuilds model, objective and data from the run directory, measures predictions
and representations on the test split and predictions on every
out-of-distribution set that is there, and prints tables. For each data set it
writes eval/<dataset>-<split>/metrics.json, predictions.npz and per_example.npz
into the run directory; for the test split also features.npz and curves.npz
(reliability diagram, singular values, cosine distances, angular visual
hardness). --split=training measures a fixed random part of what the run was
trained on, as the paper measures representations.
"""

from lossbench import cli  # isort: split

from absl import flags

from lossbench.evaluation import asked


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  cli.define_workdir()
  cli.define_checkpoint_flags(
    split="Only this split of the run's data set: 'holdout', 'training' (what "
    "it was trained on), or a TFDS split such as 'test' or 'train[:1000]'. "
    'Default: the test split, then all out-of-distribution sets.'
  )
  flags.DEFINE_integer(
    'num_train_examples',
    None,
    'With --split=training: at most so many, the same random ones for all runs. '
    'Default: 50000.',
    lower_bound=1,
  )
  flags.DEFINE_bool(
    'ood', True, 'Evaluate on out-of-distribution sets after the test split.'
  )
  flags.DEFINE_multi_string(
    'ood_set',
    [],
    'One more shifted data set; may be given several times. A data set of the '
    "same classes, 'folder:PATH' or 'folder:PATH#MAP.json' (PATH/<class>/*), "
    "'objectnet:PATH', or 'imagenet_c:PATH' for the JPEG files of its authors.",
  )
  flags.DEFINE_bool(
    'strict', False, 'Fail, at the end, if a data set is not available.'
  )


def check_flags():
  """Raises ValueError where flags are not legal together."""
  args = flags.FLAGS
  if args.strict and (args.split is not None or not (args.ood or args.ood_set)):
    raise ValueError(
      '--strict is about out-of-distribution sets, which --split and --noood '
      'leave out: give one or the other.'
    )
  asked.check_ood_sets(args.split, args.ood_set)


def main(arguments):
  del arguments
  args = flags.FLAGS
  from lossbench.evaluation import printing
  from lossbench.evaluation.checkpoint import evaluate_checkpoint

  found = evaluate_checkpoint(
    args.workdir,
    num_train_examples=args.num_train_examples,
    ood=args.ood,
    ood_sets=args.ood_set,
    **cli.checkpoint_arguments(),
  )
  printing.print_table(
    f'{found.objective} on {found.dataset} {found.split}, step {found.step}, '
    f'{found.records[0].n} examples',
    found.records,
  )
  printing.print_class_table(found.by_class, found.class_names)
  printing.print_ood_table(found.ood, found.not_available)
  if args.strict and found.not_available:
    raise FileNotFoundError(
      f'--strict: {len(found.not_available)} data sets are not available: '
      f'{", ".join(found.not_available)}.'
    )


if __name__ == '__main__':
  define_flags()
  cli.run(main, check_flags, required=['workdir'], on_cluster=True)
