"""Trains one model: python main.py --config=FILE[:OBJECTIVE] --workdir=DIR."""

from lossbench import cli  # isort: split

from absl import flags
from ml_collections import config_flags

from lossbench.runtime.console import LOGGER


def define_flags():
  config_flags.DEFINE_config_file(
    'config',
    None,
    'Recipe and objective, e.g. configs/digits_cnn.py:sigmoid+dropout. Override '
    'any field with --config.FIELD=VALUE.',
    lock_config=True,
  )
  cli.define_workdir('Run directory; rerun the same command to resume.')
  cli.define_allow()


def check():
  from configs import legal

  legal.check_config(flags.FLAGS.config)
  # Imports JAX, which takes a second.
  from lossbench.train.checks import check_relations, check_trainable

  check_relations(flags.FLAGS.config)
  check_trainable(flags.FLAGS.config)


def main(arguments):
  del arguments
  config = flags.FLAGS.config
  # Imports TensorFlow, which takes seconds; the configuration is in order.
  from lossbench.train.loop import train

  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  if overrides:
    LOGGER.info('Overrides: %s', dict(overrides))
  train(config, workdir=flags.FLAGS.workdir, allow=flags.FLAGS.allow)


if __name__ == '__main__':
  define_flags()
  cli.run(
    main,
    check,
    required=['config', 'workdir'],
    on_cluster=True,
  )
