"""The best epoch over runs, against NumPy; what is refused."""

import math

import numpy as np
import pytest

from lossbench.runs.history import BestEpoch, best_epoch, epoch_candidates

STEPS_PER_EPOCH = 13


def _history(accuracies, *, every=26, steps_per_epoch=STEPS_PER_EPOCH):
  """Evaluations at multiples of `every` steps."""
  return [
    {
      'step': number * every,
      'epoch': number * every / steps_per_epoch,
      'top1_accuracy': accuracy,
      'nll': 1 - accuracy,
    }
    for number, accuracy in enumerate(accuracies, start=1)
  ]


def test_mean_and_standard_error_are_numpys():
  accuracies = np.random.default_rng(0).uniform(size=(4, 9))
  candidates = epoch_candidates([_history(row) for row in accuracies.tolist()])
  np.testing.assert_allclose(
    [c.mean for c in candidates], accuracies.mean(0), rtol=1e-14
  )
  np.testing.assert_allclose(
    [c.standard_error for c in candidates],
    accuracies.std(0, ddof=1) / np.sqrt(4),
    rtol=1e-12,
  )
  best = best_epoch([_history(row) for row in accuracies.tolist()])
  index = int(np.argmax(accuracies.mean(0)))
  assert best == candidates[index]
  assert (best.step, best.epoch) == (26 * (index + 1), 2 * (index + 1))
  assert best.num_runs == 4


def test_best_of_the_mean_is_not_the_best_of_a_run():
  histories = [_history([0.9, 0.8, 0.1]), _history([0.1, 0.8, 0.9])]
  best = best_epoch(histories)
  assert (best.step, best.epoch) == (52, 4.0)
  assert best.mean == pytest.approx(0.8)
  assert best.standard_error == 0


def test_one_run_has_no_standard_error():
  assert best_epoch([_history([0.5, 0.75])]) == BestEpoch(
    epoch=4.0, step=52, mean=0.75, standard_error=None, num_runs=1
  )


def test_of_equal_epochs_the_earliest():
  assert best_epoch([_history([0.5, 0.75, 0.75, 0.5])]).epoch == 4.0
  # Equal as fractions; in floating point the later is more by one bit.
  histories = [_history([0.1, 0.2]), _history([0.2, 0.2]), _history([0.3, 0.2])]
  assert best_epoch(histories).epoch == 2.0
  assert best_epoch([h[::-1] for h in histories]).epoch == 2.0
  # One image more in one of eight runs of ImageNet's holdout is no tie.
  histories = [_history([0.75, 0.75])] * 7
  histories.append(_history([0.75, 0.75 + 1 / 50046]))
  assert best_epoch(histories).epoch == 4.0


def test_only_evaluations_that_all_runs_have_count():
  whole, broken = _history([0.1, 0.2, 0.9]), _history([0.3, 0.1])
  assert [c.step for c in epoch_candidates([whole, broken])] == [26, 52]
  assert best_epoch([whole, broken]).step == 26
  # Another interval, of which every third coincides.
  fine = _history([0.5] * 9, every=39)
  assert [c.step for c in epoch_candidates([whole, fine])] == [78]


def test_metric_of_which_less_is_better():
  histories = [_history([0.5, 0.9, 0.7])]
  assert best_epoch(histories, metric='nll').epoch == 4.0
  assert best_epoch(histories, metric='nll').mean == pytest.approx(0.1)


@pytest.mark.parametrize(
  ('histories', 'text'),
  [
    ([], 'There are no runs. Name at least one'),
    (
      [_history([0.5]), []],
      'Run 2 of 2 has no evaluations on a holdout. Train it with '
      r'--config\.num_holdout > 0',
    ),
    (
      [_history([0.5] * 2, every=26), _history([0.5], every=39)],
      'No evaluation is common to all 2 runs',
    ),
    (
      [_history([0.5]), _history([0.5], steps_per_epoch=15)],
      'different numbers of steps: 13, 15. Give runs of one configuration',
    ),
    (
      [_history([0.5]), _history([0.5, math.nan])],
      r"Run 2 of 2 has no finite 'top1_accuracy' at step 52: nan",
    ),
    (
      [[{'step': 26, 'epoch': 2.0, 'nll': 0.1}]],
      "Run 1 of 1 has no finite 'top1_accuracy' at step 26: None",
    ),
  ],
)
def test_histories_that_cannot_be_averaged_are_refused(histories, text):
  with pytest.raises(ValueError, match=text):
    best_epoch(histories)


def test_metrics_without_a_better_direction_are_refused():
  with pytest.raises(ValueError, match="Unknown metric 'accuracy'"):
    best_epoch([_history([0.5])], metric='accuracy')
  with pytest.raises(ValueError, match="nor less of 'temperature' is better"):
    best_epoch([_history([0.5])], metric='temperature')
