"""Compares checkpoints: python -m lossbench.compare RUN RUN [RUN ...].

  python -m lossbench.compare runs/a runs/b --output=comparison

Agreement of predictions of every pair, hierarchical clustering, ensembles of
seeds and of objectives, CKA between all layers of two runs and between
corresponding layers of all. Everything is computed from outputs stored in the
run directories; what is not stored yet is computed by one forward pass a run
and kept there. Writes <output>/comparison.json and prints tables.

Memory on the host, for A runs, O objectives, N examples, K classes and layers of
C channels: up to 16 N K O bytes for ensembles (8 N K O where every objective has
an even number of seeds) and 36 N K for the run at hand; 8 N A for classes; for
CKA on n examples 4 n A (G + C) bytes, one layer of all runs at a time, and 8 r^2
bytes a run for Gaussian kernels of r = 2,000 examples. On a device 24 C^2 bytes
for one pair of layers.
"""

from lossbench import cli  # isort: split

from absl import flags


def define_flags():
  """Defines flags; not at import: a process can import several binaries."""
  flags.DEFINE_string(
    'output', 'comparison', 'Directory that comparison.json is written into.'
  )
  flags.DEFINE_string(
    'root',
    None,
    'A directory above all runs; they are named by their paths from there. '
    'Default: the lowest one.',
  )
  flags.DEFINE_string(
    'dataset', None, "Data set to compare on; default: the runs' own."
  )
  cli.define_checkpoint_flags(
    split="Split of it; default: the data set's test split."
  )
  flags.DEFINE_bool('cka', True, 'Compare layers too.')
  flags.DEFINE_integer(
    'num_cka_examples',
    10_000,
    'Layers are compared on at most so many examples.',
  )
  flags.DEFINE_integer(
    'minibatch_size',
    32,
    'Examples in a minibatch of the unbiased CKA of whole feature maps.',
  )


def main(arguments):
  args = flags.FLAGS
  from lossbench.comparison import printing
  from lossbench.comparison.runs import compare_runs

  result = compare_runs(
    arguments,
    output=args.output,
    root=args.root,
    dataset=args.dataset,
    with_cka=args.cka,
    num_cka_examples=args.num_cka_examples,
    minibatch_size=args.minibatch_size,
    **cli.checkpoint_arguments(),
  )
  printing.print_tables(result)


if __name__ == '__main__':
  define_flags()
  cli.run(main, arguments='run directories', on_cluster=True)
