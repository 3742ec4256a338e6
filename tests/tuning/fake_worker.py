"""A worker of a tuning whose runs take a given time and train nothing.

Run by tests: python fake_worker.py WORKDIR LOG SECS[,SECS] [STORAGE]. Every run
writes its process and its point into LOG and takes SECS, after the first the
second ones; rates of 0.1 diverge. Prints the number of points and the best.
"""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from configs import digits_cnn
from lossbench.runs.history import BestEpoch
from lossbench.runtime.stopping import stop_on_signals
from lossbench.tuning import ranges, search, trials, worker

DIMENSIONS = (
  search.Dimension('learning_rate', -2.0, -1.0, 0.5),
  search.Dimension('weight_decay', -4.0, -3.0, 0.5),
)
NUM_POINTS = 25  # the coarse grid of nine, and the fine one of 25 that holds it
BEST = (
  '--config.learning_rate=0.0316227766 --config.weight_decay=0.000316227766'
)
TIMING = trials.Timing(
  beat_secs=0.2, grace_secs=1.5, patience_secs=60, poll_secs=0.05
)


def train_point(config, values, *, num_seeds, directory):
  """As `worker.train_point`."""
  with open(sys.argv[2], 'a') as log:
    log.write(f'{os.getpid()} {directory.name}\n')
  secs = sys.argv[3].split(',')
  time.sleep(float(secs[0]))
  sys.argv[3] = secs[-1]
  rate, decay = values['learning_rate'], values['weight_decay']
  if rate > 0.09:
    raise FloatingPointError('The loss is nan at step 3.')
  accuracy = 1 - abs(rate - 0.0316) - abs(decay - 3e-4)
  return BestEpoch(1.0, 1, accuracy, 0.01, num_seeds)


if __name__ == '__main__':
  with stop_on_signals():
    tuning = worker.tune(
      digits_cnn.get_config(),
      workdir=sys.argv[1],
      dimensions=DIMENSIONS,
      num_seeds=2,
      storage=''.join(sys.argv[4:]),
      timing=TIMING,
      train_point_fn=train_point,
    )
  points = [trial.point for trial in tuning.trials]
  assert len(set(points)) == len(points)
  best = search.values(DIMENSIONS, points[0])
  print(len(points), ranges.override_line(best))
