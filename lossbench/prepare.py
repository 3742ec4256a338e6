"""Makes data sets that need no download: python -m lossbench.prepare.

  python -m lossbench.prepare --dataset=cifar10_c8 --data_dir=DIR

Those of digits, and corruptions of what is in DIR. What is there already is left
as it is, so that the same command goes on after an interruption.
"""

from lossbench import cli  # isort: split

from absl import flags

from lossbench.data import catalogue

_DATASET = flags.DEFINE_list(
  'dataset', None, 'Data sets, or families of corruptions, with commas.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'TFDS directory. Default: TFDS_DATA_DIR, or its own.'
)


def _prepare(args):
  """Makes the data sets that the flags name, with progress."""
  del args
  names = [
    member for name in _DATASET.value for member in catalogue.members_of(name)
  ]
  from lossbench.data import datasets
  from lossbench.runtime import console
  from lossbench.runtime.progress import create_printer

  console.configure()
  on_progress = create_printer('data set', len(names))
  for done, name in enumerate(names, start=1):
    datasets.prepare(name, data_dir=_DATA_DIR.value)
    on_progress(done)


if __name__ == '__main__':
  cli.run(_prepare, required=('dataset',))
