"""Tunes hyperparameters by the paper's protocol: python -m lossbench.tune.

  python -m lossbench.tune --config=configs/cifar10_all_cnn.py:label_smoothing --workdir=tuning/smooth

Coarse grid, extension of its edges, fine grid; every point is the mean holdout
accuracy of several seeds; the test split is never looked at. Trials are kept by
Optuna, in <workdir>/tuning.db or any database (--storage). It can be killed and
run again to continue, and the same command in several processes or on several
machines shares the trials between them. Prints the ranking and the overrides of
the best point, and writes tuning.json and tuning.png.

Ranges are those of appendix A.1 for learning rate and weight decay, and ours for
the objective's own hyperparameters, for the paper gives none. Change them with
--search FIELD=LOW:HIGH:STEP in powers of ten, and --search_linear.
"""

from lossbench import cli  # isort: split

import functools
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from lossbench.runtime import console, storage
from lossbench.runtime.console import LOGGER


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  config_flags.DEFINE_config_file(
    'config', None, 'Recipe and objective, as for main.py.', lock_config=True
  )
  cli.define_workdir('Directory of the tuning.')
  cli.define_allow()
  flags.DEFINE_integer(
    'num_seeds', 5, 'Runs of every point, averaged.', lower_bound=1
  )
  flags.DEFINE_multi_string(
    'search',
    [],
    'FIELD=LOW:HIGH:STEP in powers of ten; repeat for several fields. LOW = HIGH '
    'holds a field fixed.',
  )
  flags.DEFINE_multi_string(
    'search_linear', [], 'FIELD=LOW:HIGH:STEP in plain numbers.'
  )
  flags.DEFINE_string(
    'storage',
    '',
    "URL of the trials' database, e.g. postgresql://user@host/tuning, for "
    'workers without a common disk or a workdir in a bucket; default: SQLite in '
    'the workdir.',
  )
  cli.define_runs_per_program()


def check():
  from configs import legal

  legal.check_config(flags.FLAGS.config)


def main(arguments):
  del arguments
  console.configure()
  args = flags.FLAGS
  root = storage.as_path(args.workdir, check=False)
  from lossbench.tuning.ranges import build_dimensions, parse_range
  from lossbench.tuning.results import print_ranking, write_results
  from lossbench.tuning.worker import train_point, train_points, tune

  ranges = [parse_range(text, log=True) for text in args.search]
  ranges += [parse_range(text, log=False) for text in args.search_linear]
  dimensions = build_dimensions(args.config, ranges)
  tuning = tune(
    args.config,
    workdir=args.workdir,
    dimensions=dimensions,
    num_seeds=args.num_seeds,
    storage=args.storage,
    runs_per_program=args.runs_per_program,
    train_point_fn=functools.partial(train_point, allow=args.allow),
    train_points_fn=functools.partial(train_points, allow=args.allow),
  )
  print_ranking(dimensions, tuning, console.output())
  command = shlex.join(['python', '-m', 'lossbench.tune', *sys.argv[1:]])
  write_results(root, dimensions, tuning, command=command)
  LOGGER.info('Wrote %s and tuning.png', root / 'tuning.json')


if __name__ == '__main__':
  define_flags()
  cli.run(main, check, required=['config', 'workdir'], extra='tune')
