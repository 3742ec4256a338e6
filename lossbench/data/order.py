"""Where the order of training data comes from: (seed, epoch) and nothing else."""

import numpy as np


def epoch_seed(seed: int, epoch: int) -> int:
  """A well-mixed seed in [0, 2^31) for the order of one epoch."""
  state = np.random.SeedSequence([seed, epoch]).generate_state(1)
  return int(state[0] >> 1)
