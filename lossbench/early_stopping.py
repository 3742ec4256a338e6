"""The epoch to stop at: python -m lossbench.early_stopping RUN [RUN ...].

As in the paper, several runs of one configuration, with different seeds, keep a
holdout; its accuracy is averaged over them, and the final runs, on all of train,
stop at the best epoch. Reads config.json and history.json of the runs; changes
nothing and needs no accelerator.
"""

from lossbench import cli  # isort: split

import shlex
from collections.abc import Sequence

import rich.table

from lossbench.runs.directory import RunDirectory
from lossbench.runs.history import (
  BestEpoch,
  best_epoch,
  check_one_configuration,
  epoch_candidates,
  read_history,
)
from lossbench.runtime import console

_NUM_ROWS = 5  # the best epochs that the table shows, besides the last


def _print_table(candidates: Sequence[BestEpoch], best: BestEpoch):
  """Prints the best epochs and the last, in order."""
  ranked = sorted(candidates, key=lambda c: (c != best, -c.mean, c.step))
  shown = {*ranked[:_NUM_ROWS], candidates[-1]}
  table = rich.table.Table()
  for column in ('epoch', 'step', 'holdout accuracy', 's.e.'):
    table.add_column(column, justify='right')
  for row in candidates:
    if row in shown:
      table.add_row(
        f'{row.epoch:g}',
        str(row.step),
        f'{row.mean:.4f}',
        '-' if row.standard_error is None else f'{row.standard_error:.4f}',
        style='bold' if row == best else '',
      )
  console.output().print(table)


def report(workdirs: Sequence[str]) -> BestEpoch:
  """Prints the best epoch of these runs and the commands that use it.

  Raises:
    FileNotFoundError: if one is not a run directory or was never evaluated.
    ValueError: if a file is damaged, or the runs cannot be averaged.
  """
  runs = [RunDirectory(workdir) for workdir in workdirs]
  check_one_configuration(runs)
  histories = [read_history(run) for run in runs]
  candidates = epoch_candidates(histories)
  best = best_epoch(histories)
  _print_table(candidates, best)
  num_left_out = max(map(len, histories)) - len(candidates)
  if num_left_out:
    print(
      f'Left out: {num_left_out} of {num_left_out + len(candidates)} '
      'evaluations, which not all runs have.'
    )
  error = '' if len(runs) == 1 else f' ± {best.standard_error:.4f}'
  print(
    f'Best: epoch {best.epoch:g} (step {best.step}), holdout accuracy '
    f'{best.mean:.4f}{error} over {len(runs)} run{"s" * (len(runs) > 1)}'
  )
  print('\nEvaluate these runs there:')
  deleted = []
  for run in runs:
    print(
      f'  python -m lossbench.evaluate --workdir={shlex.quote(str(run.path))} '
      f'--step={best.step}'
    )
    if not (run.checkpoints_path / f'{best.step:09d}').is_dir():
      deleted.append(str(run.path))
  config = runs[0].read_config()
  if deleted:
    print(
      f'But {", ".join(deleted)} did not keep that checkpoint. Runs with '
      f'--config.keep_every_epochs={config.eval_every_epochs:g} do.'
    )
  # Rounded to steps, the last epoch may lie behind num_epochs, and a stop there
  # is refused. Twelve digits name any step exactly.
  stop_epoch = min(best.epoch, config.num_epochs)
  print(
    '\nStop the final runs, on all of train, there; add to the training '
    'command:\n'
    f'  --config.num_holdout=0 --config.stop_epoch={stop_epoch:.12g}'
  )
  return best


if __name__ == '__main__':
  cli.run(report, arguments='run directories')
