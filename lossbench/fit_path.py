"""Fits a linear probe on arrays: python -m lossbench.fit_path.

  python -m lossbench.fit_path --train=train.npz --test=test.npz

Multinomial logistic regression on features [N, M] and labels [N] that any program
wrote with numpy.savez, by the protocol of `lossbench.transfer`: 45 L2 values, each
fit with a certified bound on its distance to the optimum, chosen on a fifth of
every class or on --holdout, refitted on all training data, tested once. Prints the
path and writes metrics.json, classifier.npz (weights [K, M], bias [K]) and
predictions.npz into --output. The schema of the files is in
`lossbench/arrays/files.py`.
"""

from lossbench import cli  # isort: split

from absl import flags

from lossbench.probe.l2_values import check_l2_values
from lossbench.runtime import console


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_string('train', None, '.npz with features and labels.')
  flags.DEFINE_string('test', None, '.npz with features and labels.')
  flags.DEFINE_string(
    'holdout',
    None,
    '.npz with features and labels to choose the L2 value on, which are trained '
    'on at last. Default: a fifth of every class of --train.',
  )
  flags.DEFINE_string('output', 'fit_path', 'Directory of the results.')
  flags.DEFINE_enum(
    'main_metric',
    'top1_accuracy',
    ['top1_accuracy', 'mean_class_accuracy'],
    'What is reported first.',
  )
  flags.DEFINE_list(
    'l2_values',
    None,
    'L2 values, on the sum of losses (1 / C of scikit-learn), separated by commas. '
    'Default: 45 from 1e-6 to 1e5.',
  )
  flags.DEFINE_float(
    'tolerance',
    1e-6,
    'Certified (loss - minimum) / minimum of every fit.',
    lower_bound=1e-12,
    upper_bound=0.1,
  )


def parse_l2_values(texts: list[str]) -> list[float]:
  """The values of --l2_values.

  Raises:
    ValueError: if one is no number, or `check_l2_values` refuses them.
  """
  values = []
  for text in texts:
    try:
      values.append(float(text))
    except ValueError:
      raise ValueError(
        f'--l2_values: {text!r} is no number. Give some, separated by commas.'
      ) from None
  check_l2_values(values, name='--l2_values')
  return values


def _given_l2_values() -> dict[str, list[float]]:
  """The argument that --l2_values stands for, if it is given."""
  texts = flags.FLAGS.l2_values
  return {} if texts is None else {'l2_values': parse_l2_values(texts)}


def check_flags():
  """Raises ValueError where flags are not legal, before anything is imported."""
  _given_l2_values()


def main(arguments):
  del arguments
  args = flags.FLAGS
  from lossbench.arrays.fitting import fit_arrays
  from lossbench.probe import printing

  console.configure()
  found = fit_arrays(
    args.train,
    args.test,
    holdout_path=args.holdout,
    output=args.output,
    main_metric=args.main_metric,
    tolerance=args.tolerance,
    **_given_l2_values(),
  )
  printing.print_path(found.path, chosen=found.fit.l2)
  printing.print_table(
    f'{found.num_classes} classes, trained on {found.num_train} examples',
    found.records,
    main_metric=args.main_metric,
  )
  print(f'Wrote {args.output}')


if __name__ == '__main__':
  define_flags()
  cli.run(main, check_flags, required=['train', 'test'])
