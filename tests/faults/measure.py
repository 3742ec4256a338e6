"""Everything that is measured of runs, by one of many processes.

python -m tests.faults.measure RUN OTHER_RUN --coordinator=...
"""

import pathlib

from absl import app

from lossbench.compare import compare
from lossbench.evaluate import evaluate
from lossbench.runtime import cluster
from lossbench.transfer import transfer


def measure(run: str, other: str):
  """Evaluates and transfers a run and compares it with another."""
  evaluate(workdir=run, ood=False)
  transfer(workdir=run, dataset='digits_high')
  compare(
    [run, other],
    output=str(pathlib.Path(run) / 'comparison'),
    num_cka_examples=200,
    minibatch_size=8,
  )


def main(argv):
  cluster.initialize()
  measure(*argv[1:])


if __name__ == '__main__':
  cluster.define_flags()
  app.run(main)
