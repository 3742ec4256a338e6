"""Everything that is measured of runs, by one of many processes.

python -m tests.faults.measure RUN OTHER_RUN --coordinator=...
"""

import pathlib

from absl import app

from lossbench.comparison.runs import compare_runs
from lossbench.evaluation.checkpoint import evaluate_checkpoint
from lossbench.probe.transfer import transfer_checkpoint
from lossbench.runtime import cluster


def measure(run: str, other: str):
  """Evaluates and transfers a run and compares it with another."""
  evaluate_checkpoint(run, ood=False)
  transfer_checkpoint(run, 'digits_high')
  compare_runs(
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
