"""Exports a run's network for other programs: python -m lossbench.export RUN.

Writes into RUN/export, or --output, a directory as the Hugging Face Hub has them:
the arrays as safetensors, under our names and, where torchvision has such a network
that computes the same, under its names too; the network as a StableHLO program that
takes uint8 images and gives log-probabilities, and needs JAX only; config.json and
a model card. All are read again and compared before they get their place.
"""

from lossbench import cli  # isort: split

from absl import flags

from lossbench.runtime import console


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_string(
    'output', None, 'Directory to make. Default: export in the run directory.'
  )
  flags.DEFINE_string(
    'step', 'best', "'best' by holdout accuracy, 'last', or a step's number."
  )
  flags.DEFINE_enum(
    'compute_dtype',
    None,
    ['float32', 'bfloat16'],
    'What the program computes in. Default: what the run was trained in.',
  )


def main(arguments):
  if len(arguments) != 1:
    raise ValueError(
      f'Give one run directory, not {len(arguments)}: python -m '
      'lossbench.export RUN.'
    )
  args = flags.FLAGS
  console.configure()
  from lossbench.interop.exporting import export_run

  exported = export_run(
    arguments[0],
    output=args.output,
    step=args.step,
    compute_dtype=args.compute_dtype,
  )
  for name, size in sorted(exported.num_bytes.items()):
    print(f'{exported.path / name}  {size / 2**20:.1f} MiB')
  for reason in exported.not_torch:
    print(f'No names of torchvision: {reason}.')
  print('Done: every file was read again and holds what the run does.')


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments='run directories')
