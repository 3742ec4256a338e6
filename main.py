"""Trains one model: python main.py --config=FILE[:OBJECTIVE] --workdir=DIR."""

from absl import app, flags
from ml_collections import config_flags

from configs import legal
from lossbench.runtime import cluster, console
from lossbench.train.checks import check_relations

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Recipe and objective, e.g. configs/digits_cnn.py:sigmoid+dropout. Override '
  'any field with --config.FIELD=VALUE.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory; rerun the same command to resume.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  try:
    config = _CONFIG.value
    legal.check_config(config)
    check_relations(config)
    cluster.initialize()
    console.configure()
    # Imports TensorFlow, which takes seconds; the flags are in order by now.
    from lossbench.train.loop import train

    overrides = config_flags.get_override_values(flags.FLAGS['config'])
    if overrides:
      console.LOGGER.info('Overrides: %s', dict(overrides))
    train(config, workdir=_WORKDIR.value)
  except (ValueError, OSError, FloatingPointError) as error:
    console.fail(error)


if __name__ == '__main__':
  cluster.define_flags()
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=console.parse_flags)
