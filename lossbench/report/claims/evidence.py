"""How effects of several objectives become evidence on one claim."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lossbench.report import display, looks
from lossbench.report.bootstrap import (
  LEVEL,
  Effect,
  Sample,
  contrast,
  difference,
)
from lossbench.report.claims.claim import Evidence
from lossbench.report.looks import Key
from lossbench.report.records import NotRun, StudyRecords
from lossbench.report.samples import Read, samples_of

NUM_PERMUTATIONS = 2000
# Of the paper's nine objectives; of fewer, the best or the worst says little.
MOST = 5
# About so many claims are corrected for together.
_NUM_TESTS = 20
# That anybody trains of a loss; how many more it would take, the power says.
_MOST_SEEDS = 100


def objective_keys(study: StudyRecords, group: str) -> list[Key]:
  """The paper's nine objectives that a group has, alone and not varied."""
  return [
    key
    for key in study.keys(group)
    if not key.variant and key.objective in looks.PAPER_OBJECTIVES
  ]


def read_samples(
  study: StudyRecords,
  group: str,
  read_fn: Read,
  keys: Sequence[Key] | None = None,
) -> dict[Key, Sample]:
  """Samples of a quantity, of the objectives that have it.

  Args:
    study: the records.
    group: of runs.
    read_fn: run -> what was measured.
    keys: configurations; None for `objective_keys`.
  """
  if keys is None:
    keys = objective_keys(study, group)
  return samples_of(study, group, read_fn, keys)


def require(
  samples: Mapping[Key, Sample],
  names: Sequence[str],
  study: StudyRecords,
  *,
  planned: bool,
  config: str = 'configs/studies/paper.py',
  at_least: int = 2,
):
  """Raises NotRun unless the objectives of these names were measured.

  Args:
    samples: of those that were.
    names: that the claim is about.
    study: for the command.
    planned: whether the study would measure it.
    config: a study that does.
    at_least: so many objectives.
  """
  found = {key.objective for key in samples}
  if found.issuperset(names) and len(found) >= at_least:
    return
  objectives = {run.key.objective for run in study.runs}
  planned = planned and len(objectives) >= at_least
  raise NotRun(missing(study, planned=planned, config=config))


def missing(
  study: StudyRecords,
  *,
  planned: bool,
  config: str = 'configs/studies/paper.py',
) -> str:
  """The command that would supply what a claim needs."""
  if planned:
    return f'not run: {study.rerun_command}'
  return (
    'not run: this study does not plan it; '
    f'python -m lossbench.study --config={config} --workdir=STUDY'
  )


def only(
  samples: Mapping[Key, Sample], names: Sequence[str]
) -> dict[Key, Sample]:
  """Samples of the objectives of these names."""
  return {k: s for k, s in samples.items() if k.objective in names}


def others(
  samples: Mapping[Key, Sample], names: Sequence[str]
) -> dict[Key, Sample]:
  """Samples of all other objectives."""
  return {k: s for k, s in samples.items() if k.objective not in names}


def describe(samples: Mapping[Key, Sample], what: str = 'objective') -> str:
  """'9 objectives, 3 seeds each, 355 examples'."""
  seeds = [len(sample.values) for sample in samples.values()]
  examples = {s.num_examples for s in samples.values() if s.num_examples}
  plural = 's' if len(samples) > 1 else ''
  texts = [
    f'{len(samples)} {what}{plural}',
    f'{display.span(seeds)} seed{"s" if max(seeds) > 1 else ""} each',
    f'{display.span(sorted(examples))} examples'
    if examples
    else 'examples as they are',
  ]
  return ', '.join(texts)


def power_text(effect: Effect, *, is_percent: bool) -> str:
  """What these seeds and examples find with 80 % power, before correction."""
  if effect.detectable is None:
    return f'none: {effect.reason}'
  scale, unit = (100, ' points') if is_percent else (1, '')
  text = f'80 % to find {scale * effect.detectable:.2g}{unit}'
  if 'seeds' not in effect.over:
    return f'{text} in these very networks, none in others'
  needed = effect.seeds_needed()
  if needed is None:
    return f'{text}; this effect takes more examples, not seeds'
  return f'{text}; this effect takes {needed:,} seeds each'


def remedy_text(study: StudyRecords, group: str, effect: Effect) -> str:
  """The command for the seeds that this effect takes, once corrected for.

  Returns:
    '' where no number of seeds decides.
  """
  if effect.variance is None or 'seeds' not in effect.over:
    return more_seeds(study, group, 5)
  needed = effect.seeds_needed(level=LEVEL / _NUM_TESTS)
  return more_seeds(study, group, needed) if needed else ''


def more_seeds(study: StudyRecords, group: str, num_seeds: int) -> str:
  """The command for so many seeds, or for one more where they are there.

  Returns:
    '' where nobody would train so many.
  """
  if num_seeds > _MOST_SEEDS:
    return ''
  return study.with_seeds(group, max(num_seeds, study.num_seeds(group) + 1))


def all_above(
  study: StudyRecords,
  group: str,
  effects: Mapping[str, Effect],
  *,
  what: str,
  data: str,
  is_percent: bool,
  but_for: int = 0,
) -> Evidence:
  """Evidence that all effects are above 0; or all but a few.

  That all are is an intersection of claims, tested at the level of each
  (Berger 1982): its p-value is the largest of them. That one is below is a union,
  whose p-value is the smallest times their number. But for u effects the p-values
  are those of partial conjunctions (Benjamini & Heller 2008). A single network
  says nothing of the next one of its loss, so without seeds they are 1.

  Args:
    study: for the command.
    group: of runs.
    effects: label -> effect; what speaks most against the claim is shown, or
      one that seeds are lacking of.
    what: the effect in words; '{}' becomes the label.
    data: that was used.
    is_percent: effects are fractions that are shown in percent.
    but_for: u, so many may be below without contradiction.
  """
  u = min(but_for, len(effects) - 1)
  m = len(effects)
  above, below = (
    {
      label: p_fn(effect) if 'seeds' in effect.over else 1.0
      for label, effect in effects.items()
    }
    for p_fn in (Effect.p_above, Effect.p_below)
  )
  p_for = min(1.0, (u + 1) * sorted(above.values())[m - 1 - u])
  p_against = min(1.0, (m - u) * sorted(below.values())[u])
  ordered = sorted(effects, key=lambda label: effects[label].estimate)
  blind = [label for label in ordered if 'seeds' not in effects[label].over]
  label = ordered[u]
  if p_against < p_for:
    label = sorted(ordered, key=below.get)[u]
  elif len(blind) > u:
    # What one network does not tell keeps the claim from being told.
    label = blind[0]
  effect = effects[label]
  return Evidence(
    what=what.format(label),
    estimate=effect.estimate,
    interval=effect.interval,
    p_for=p_for,
    p_against=p_against,
    is_percent=is_percent,
    data=data,
    power=power_text(effect, is_percent=is_percent),
    remedy=remedy_text(study, group, effect),
  )


def differences_from(
  samples: Mapping[Key, Sample], name: str, *, sign: int = 1
) -> dict[str, Effect]:
  """Label of each other objective -> sign (other - named)."""
  [named] = [s for k, s in samples.items() if k.objective == name]
  return {
    looks.label(key): difference(sample, named)
    if sign > 0
    else difference(named, sample)
    for key, sample in others(samples, [name]).items()
  }


def all_against(
  study: StudyRecords,
  group: str,
  samples: Mapping[Key, Sample],
  name: str,
  *,
  sign: int = 1,
  what: str,
  is_percent: bool,
  of: Sequence[str] = (),
  but_for: int = 0,
) -> Evidence:
  """Evidence that every other objective is above a named one, or below it.

  Args:
    study: for the command.
    group: of runs.
    samples: of the objectives.
    name: of the one.
    sign: -1 for below.
    what: as of `all_above`, and so
    is_percent: this,
    but_for: and this.
    of: names of the data sets that samples are means over.
  """
  data = describe(samples)
  return all_above(
    study,
    group,
    differences_from(samples, name, sign=sign),
    what=what,
    data=f'{data} of {", ".join(of)}' if of else data,
    is_percent=is_percent,
    but_for=but_for,
  )


def of_the_same_seeds(a: Sample, b: Sample) -> tuple[Sample, Sample]:
  """Two quantities of one objective, of the seeds that have both."""
  seeds = tuple(seed for seed in a.seeds if seed in b.seeds)

  def chosen(sample: Sample) -> Sample:
    places = [sample.seeds.index(seed) for seed in seeds]
    resampled = sample.resampled
    return dataclasses.replace(
      sample,
      values=sample.values[places],
      resampled=None if resampled is None else resampled[:, places],
      seeds=seeds,
    )

  return chosen(a), chosen(b)


def paired_difference(a: Sample, b: Sample) -> Effect:
  """Difference of two quantities of the same seeds, in the same order."""
  resampled = None
  if a.resampled is not None and b.resampled is not None:
    resampled = a.resampled - b.resampled
  num_examples = min(a.num_examples, b.num_examples)
  values = a.values - b.values
  return contrast([(1.0, Sample(a.key, values, resampled, num_examples))])


def permutation_p_values(
  statistic: float, permuted: np.ndarray
) -> tuple[float, float]:
  """P-values for the statistic being high, and for its being low.

  The one that was observed counts as a permutation (Phipson & Smyth 2010). Both
  are 1 of a statistic that is undefined.

  Args:
    statistic: that was observed.
    permuted: [P] the same under permutations.
  """
  if np.isnan(statistic):
    return 1.0, 1.0
  slack = 1e-12 * max(1.0, abs(statistic))
  high = 1 + np.sum(permuted >= statistic - slack)
  low = 1 + np.sum(permuted <= statistic + slack)
  return float(high / (len(permuted) + 1)), float(low / (len(permuted) + 1))
