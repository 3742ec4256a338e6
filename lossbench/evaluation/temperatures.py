"""Temperature scaling: fitted on what it is reported on, and on other examples.

The paper fits the temperature on the evaluated examples themselves, which is the
best that scaling could do. What it would do for new examples is measured with a
temperature of others: of the run's holdout, or else of the other half of the
evaluated ones.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lossbench.evaluation import chunks, predictions
from lossbench.metrics.calibration import (
  ExpectedCalibrationError,
  negative_log_likelihood,
)
from lossbench.metrics.temperature import fit_temperature, temper
from lossbench.runs.records import Record, create_record

_SEARCHED = (1e-2, 1e2)
_HALVES_SEED = 0  # of the halves of a split, the same for every run


@dataclasses.dataclass(frozen=True)
class Tempered:
  """Log-probabilities after scaling, or why there are none.

  Attributes:
    prefix: of the metrics' names, '' or 'held_out_'.
    temperature: None where there is none, or it is at the end of the search.
    note: of what it was fitted on, or why it is undefined.
    log_probs: [N, K]; None where they could not be scaled.
  """

  prefix: str
  temperature: float | None
  note: str
  log_probs: np.ndarray | None

  def records(self, labels: np.ndarray, correct: np.ndarray) -> list[Record]:
    """Temperature, and NLL and ECE after scaling.

    Args:
      labels: [N] int class ids.
      correct: [N], whether the highest logit is the label's.
    """
    n, name = len(labels), f'{self.prefix}temperature'
    names = f'{self.prefix}tempered_nll', f'{self.prefix}tempered_ece'
    if self.log_probs is None:
      values = None, None
    else:
      values = _scores(self.log_probs, labels, correct)
    note = self.note
    if self.temperature is None:  # of a fit at the end of the search
      note = note.removeprefix('not available: ')
      note = f'not available: {note}'
    found = create_record(name, self.temperature, n=n, note=note)
    return [
      found,
      *(
        create_record(metric, value, n=n, note=self.note)
        for metric, value in zip(names, values, strict=True)
      ),
    ]


def _scores(log_probs, labels, correct) -> tuple[float, float]:
  bins = ExpectedCalibrationError.empty(num_bins=predictions.NUM_BINS)
  nll_sum = 0.0
  for rows, row_labels, row_correct, mask in chunks.split(
    log_probs, labels, correct
  ):
    bins = bins.update(rows, row_labels, mask, correct=row_correct)
    nll = negative_log_likelihood(rows, row_labels, mask=mask)
    nll_sum += float(nll) * int(mask.sum())
  return nll_sum / len(labels), bins.compute()


def _temper(log_probs: np.ndarray, temperature: float) -> np.ndarray:
  scaled = [
    np.asarray(temper(rows, jnp.float32(temperature)))[mask]
    for rows, mask in chunks.split(log_probs)
  ]
  return np.concatenate(scaled)


def _end_of_search(temperature: float, *, of: str = '') -> str:
  """What a bound says: how far was searched, and nothing of the run."""
  return (
    f'the NLL{of} falls up to the end of the search, temperature '
    f'{temperature:g}'
  )


def fitted_here(log_probs: np.ndarray, labels: np.ndarray) -> Tempered:
  """Scaled for the lowest NLL on these examples, as in the paper.

  Args:
    log_probs: [N, K].
    labels: [N] int class ids.
  """
  try:
    temperature = fit_temperature(log_probs, labels, bounds=_SEARCHED)
  except ValueError as error:
    return Tempered('', None, f'not available: {error}', None)
  scaled = _temper(log_probs, temperature)
  if temperature in _SEARCHED:
    return Tempered('', None, _end_of_search(temperature), scaled)
  return Tempered('', temperature, 'temperature fitted on this split', scaled)


def held_out(
  log_probs: np.ndarray,
  labels: np.ndarray,
  calibration: tuple[np.ndarray, np.ndarray] | None,
  *,
  name: str = 'the holdout',
) -> Tempered:
  """Scaled for the lowest NLL on other examples.

  Args:
    log_probs: [N, K].
    labels: [N] int class ids.
    calibration: log-probabilities [M, K] and labels [M] of other examples; None
      fits on either half of these, drawn at random, for the other (two-fold
      cross-fitting), and takes for `temperature` the geometric mean.
    name: of the other examples, in notes.
  """
  prefix = 'held_out_'
  try:
    if calibration is not None:
      halves = [(np.arange(len(labels)), *calibration)]
      note = f'temperature fitted on {name}, {len(calibration[1]):,} examples'
    else:
      order = np.random.default_rng(_HALVES_SEED).permutation(len(labels))
      first, second = np.sort(order[::2]), np.sort(order[1::2])
      halves = [
        (first, log_probs[second], labels[second]),
        (second, log_probs[first], labels[first]),
      ]
      note = 'temperature fitted on the other half of this split'
    fitted = [
      fit_temperature(rows, of_rows, bounds=_SEARCHED)
      for _, rows, of_rows in halves
    ]
    if np.isnan(log_probs).any():
      raise ValueError('NaN predictions')
  except ValueError as error:
    return Tempered(prefix, None, f'not available: {error}', None)
  for temperature in fitted:
    if temperature in _SEARCHED:
      # Applied to others, the bound would say how far was searched.
      of = ' of a half' if calibration is None else f' of {name}'
      note = _end_of_search(temperature, of=of)
      return Tempered(prefix, None, f'not available: {note}', None)
  scaled = np.empty_like(log_probs)
  for (rows, *_), temperature in zip(halves, fitted, strict=True):
    scaled[rows] = _temper(log_probs[rows], temperature)
  mean = float(np.exp(np.mean(np.log(fitted))))
  return Tempered(prefix, mean, note, scaled)
