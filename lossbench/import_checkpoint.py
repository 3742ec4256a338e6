"""Makes a run of another project's checkpoint: python -m lossbench.import_checkpoint.

  python -m lossbench.import_checkpoint --format=loss_functions_transfer \
    --source=gs://gresearch/loss_functions_transfer/checkpoints/sigmoid/seed0/model.ckpt \
    --objective=sigmoid --seed=0 --workdir=runs/released_sigmoid
  python -m lossbench.import_checkpoint --format=torchvision \
    --source=resnet50-0676ba61.pth --weights=IMAGENET1K_V1 --workdir=runs/torchvision
  python -m lossbench.import_checkpoint --format=timm --source=DIRECTORY \
    --workdir=runs/timm

The run directory can be evaluated, compared, transferred and fine-tuned like any
other. Its configuration is the format's recipe with what the checkpoint says; another
is given by --config=RECIPE:OBJECTIVE and --config.FIELD=VALUE, as to main.py, and is
refused where it would give the arrays another meaning. Every array and every name of
the checkpoint must be accounted for; what is missing, left over or of another shape is
listed, and then nothing is written. Run the same command again to repair a damaged
import; a source whose arrays are others by then is refused.
"""

from lossbench import cli  # isort: split

from absl import flags
from ml_collections import config_flags

# Flags of which each format takes some.
_OPTIONS = ('objective', 'seed', 'weights', 'dataset')


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_string('format', None, 'What wrote the checkpoint.')
  flags.DEFINE_string(
    'source',
    None,
    'The checkpoint, on a disk or gs://, as its format names it.',
  )
  flags.DEFINE_string(
    'objective', None, 'What the network was trained with, of formats that ask.'
  )
  flags.DEFINE_integer(
    'seed', None, 'Its seed, of formats that ask.', lower_bound=0
  )
  flags.DEFINE_string(
    'weights',
    None,
    "Torchvision's name of the weights, which says how images are prepared: "
    'IMAGENET1K_V1 or IMAGENET1K_V2.',
  )
  flags.DEFINE_string(
    'dataset', None, "Whose classes the network's are, if not ImageNet's."
  )
  config_flags.DEFINE_config_file(
    'config',
    None,
    "Recipe and objective of the run, as of main.py; default: the format's own. "
    'What the checkpoint says of it must be there.',
    lock_config=True,
  )
  flags.DEFINE_string(
    'data_dir', '', "TFDS directory of the run; default: the recipe's."
  )
  cli.define_workdir('Run directory to make.')


def _options():
  return {name: flags.FLAGS[name].value for name in _OPTIONS}


def check():
  from lossbench.interop import formats

  formats.check_options(formats.get_format(flags.FLAGS.format), _options())


def main(arguments):
  del arguments
  args = flags.FLAGS
  from lossbench.interop import formats
  from lossbench.interop.importing import import_checkpoint
  from lossbench.runtime import console

  console.configure()
  import_checkpoint(
    formats.get_format(args.format),
    args.source,
    workdir=args.workdir,
    options={k: v for k, v in _options().items() if v is not None},
    data_dir=args.data_dir,
    config=args.config,
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main, check, required=['format', 'source', 'workdir'])
