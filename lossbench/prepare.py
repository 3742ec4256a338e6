"""Makes data sets that need no download: python -m lossbench.prepare.

  python -m lossbench.prepare --dataset=cifar10_c8 --data_dir=DIR

Those of digits, and corruptions of what is in DIR. What is there already is left
as it is, so that the same command goes on after an interruption.
"""

from lossbench import cli  # isort: split

from absl import flags

from lossbench.data import catalogue


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_list(
    'dataset', None, 'Data sets, or families of corruptions, with commas.'
  )
  flags.DEFINE_string(
    'data_dir', None, 'TFDS directory. Default: TFDS_DATA_DIR, or its own.'
  )


def main(arguments):
  del arguments
  args = flags.FLAGS
  names = [
    member for name in args.dataset for member in catalogue.members_of(name)
  ]
  from lossbench.data import datasets
  from lossbench.runtime import console
  from lossbench.runtime.progress import create_printer

  console.configure()
  on_progress = create_printer('data set', len(names))
  for done, name in enumerate(names, start=1):
    datasets.prepare(name, data_dir=args.data_dir)
    on_progress(done)


if __name__ == '__main__':
  define_flags()
  cli.run(main, required=['dataset'])
