"""Seeds of epochs: fixed for all time, and all different."""

import numpy as np

from lossbench.data.order import epoch_seed


def test_is_numpys_seed_sequence():
  """From NumPy's documented SeedSequence, so never to change by accident."""
  for seed, epoch in [(0, 0), (0, 1), (7, 300), (2**40, 2)]:
    word = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
    assert epoch_seed(seed, epoch) == int(word) // 2


def test_fits_signed_seeds_of_tensorflow():
  seeds = [epoch_seed(seed, 3) for seed in range(2000)]
  assert min(seeds) >= 0
  assert max(seeds) < 2**31
  assert max(seeds) > 2**30  # the top bit is in use


def test_no_two_epochs_share_an_order():
  """Not even across seeds, as seed + epoch would."""
  seeds = {epoch_seed(s, epoch) for s in range(50) for epoch in range(50)}
  assert len(seeds) == 2500
