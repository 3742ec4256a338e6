"""Everything that is measured of runs, by one of many processes.

python -m tests.faults.measure RUN OTHER_RUN OTHER_DATA_DIR --coordinator=...

Then what they refuse where they mean different things: refused<index>.json beside
the runs.
"""

import pathlib

import jax
from absl import app

from lossbench.comparison.runs import compare_runs
from lossbench.evaluation.checkpoint import evaluate_checkpoint
from lossbench.probe.transfer import transfer_checkpoint
from lossbench.runs.directory import RunDirectory, write_json
from lossbench.runtime import cluster, devices
from lossbench.train import loop
from lossbench.train.replicas import check_replicas
from tests.train.test_replicas import SMALL, with_a_bit_flipped


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


def _refusals(run: str, other: str, other_data: str) -> dict[str, str]:
  """What differs -> what this process, one of two, says of it."""
  index = jax.process_index()
  folder = pathlib.Path(run).parent
  config = RunDirectory(run).read_config()

  def train(**changes):
    changed = config.copy_and_resolve_references()
    changed.update(changes)
    loop.train(changed, workdir=str(folder / 'refused'))

  def differing_replicas():
    state = devices.replicate(SMALL)
    if index == 1:
      state = with_a_bit_flipped(state, device=1)
    check_replicas(state, step=9)

  cases = {
    'seed': lambda: train(seed=index),
    'data': lambda: train(data_dir=(config.data_dir, other_data)[index]),
    'checkpoint': lambda: evaluate_checkpoint(
      other, step=('60', '40')[index], ood=False
    ),
    'data set': lambda: transfer_checkpoint(
      other, ('digits_high', 'digits_low')[index]
    ),
    'split': lambda: compare_runs(
      [run, other],
      output=str(folder / 'refused_comparison'),
      split=('test', 'holdout')[index],
    ),
    'replicas': differing_replicas,
  }
  found = {}
  for name, call in cases.items():
    try:
      call()
    except cluster.Disagreement as error:
      found[name] = str(error)
  return found


def main(argv):
  cluster.initialize()
  run, other, other_data = argv[1:]
  measure(run, other)
  write_json(
    pathlib.Path(run).parent / f'refused{jax.process_index()}.json',
    _refusals(run, other, other_data),
  )


if __name__ == '__main__':
  cluster.define_flags()
  app.run(main)
