"""Claims on which models are alike: predictions, ensembles, layers."""

import numpy as np
from scipy import stats

from lossbench.report import looks
from lossbench.report.bootstrap import Effect
from lossbench.report.claims import evidence
from lossbench.report.claims.claim import Claim, Evidence
from lossbench.report.looks import Key
from lossbench.report.records import Comparison, NotRun, StudyRecords

# Whose seeds the paper finds in one cluster.
_TOGETHER = ('dropout', 'extra_final_layer_l2')


def _labels(keys, *, together: bool) -> tuple[np.ndarray, list[int], list[str]]:
  """Numbers of losses of the runs that count, places of these, names."""
  names, places = [], []
  for place, key in enumerate(keys):
    if key.variant or key.objective not in looks.PAPER_OBJECTIVES:
      continue
    name = looks.label(key)
    if together and key.objective in _TOGETHER:
      name = ' or '.join(looks.label(Key(part)) for part in _TOGETHER)
    names.append(name)
    places.append(place)
  unique, numbers = np.unique(names, return_inverse=True)
  return numbers, places, list(unique)


def _permuted(labels: np.ndarray, seeds: np.ndarray) -> np.ndarray:
  """[P, A] labels permuted among the runs of each seed.

  Runs of one seed start from the same weights, so only these change places.
  """
  rng = np.random.default_rng(0)
  rows = np.tile(labels, (evidence.NUM_PERMUTATIONS, 1))
  for seed in np.unique(seeds):
    block = seeds == seed
    rows[:, block] = rng.permuted(rows[:, block], axis=1)
  return rows


def _margins(same: np.ndarray, labels: np.ndarray):
  """Agreement within losses of two seeds, and the highest with another."""
  member = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
  sizes = member.sum(axis=0)
  sums = member.T @ same @ member
  with np.errstate(invalid='ignore', divide='ignore'):
    between = sums / np.outer(sizes, sizes)
    within = (np.diag(sums) - sizes) / (sizes * (sizes - 1))
  np.fill_diagonal(between, -np.inf)
  several = sizes > 1
  return within[several], between.max(axis=1)[several], np.flatnonzero(several)


def _require_seeds(study, labels):
  sizes = np.bincount(labels) if len(labels) else np.zeros(1)
  if len(sizes) < 2 or sizes.max() < 2:
    raise NotRun(evidence.missing(study, planned=False))


def _spread_of_shares(*shares: float, num_examples: int) -> float:
  """Standard error of a difference of shares, as if of other examples.

  Those of the same examples go together, which makes it smaller.
  """
  variances = [share * (1 - share) / num_examples for share in shares]
  return float(np.sqrt(sum(variances)))


def _power_text(effect: Effect) -> str:
  if effect.detectable is None:
    return 'none: all agree'
  return f'80 % to find {100 * effect.detectable:.2g} points on other examples'


def seeds_cluster_by_loss(study: StudyRecords, group: str) -> Evidence:
  """Evidence by permuting which run is of which loss, and by examples.

  Permutations tell only that some loss matters. That every loss clusters is an
  intersection: on other examples, too, each must (Berger 1982).
  """
  comparison = study.comparison(group)
  labels, places, names = _labels(comparison.keys, together=True)
  _require_seeds(study, labels)
  same = np.array(comparison.record['agreement']['same_top1'], float)
  same = same[np.ix_(places, places)]
  within, between, losses = _margins(same, labels)
  margins = within - between
  permuted = []
  seeds = np.array(comparison.seeds)[places]
  for row in _permuted(labels, seeds):
    of_row = _margins(same, row)
    permuted.append(np.min(of_row[0] - of_row[1]))
  by_order, _ = evidence.permutation_p_values(
    float(margins.min()), np.array(permuted)
  )
  n = comparison.num_examples
  errors = [
    _spread_of_shares(a, b, num_examples=n)
    for a, b in zip(within, between, strict=True)
  ]
  with np.errstate(divide='ignore', invalid='ignore'):
    ratios = margins / errors
  # Agreement of all examples or of none has no spread.
  above, below = (
    np.where(np.isnan(ratios), 1.0, stats.norm.sf(sign * ratios))
    for sign in (1, -1)
  )
  # The nearest of all others was looked for, for each loss.
  num_looked_at = len(margins) * (len(names) - 1)
  worst = int(np.argmin(margins))
  effect = Effect(
    float(margins[worst]), variance=errors[worst] ** 2 or None, over='examples'
  )
  return Evidence(
    what=f'agreement of seeds of {names[losses[worst]]} minus that with the '
    'nearest other loss',
    estimate=effect.estimate,
    interval=effect.interval,
    p_for=float(max(by_order, above.max())),
    p_against=float(min(1.0, num_looked_at * below.min())),
    is_percent=True,
    data=f'{len(labels)} runs of {len(names)} losses, {n:,} examples',
    power=_power_text(effect),
    remedy='' if effect.variance else _more_seeds(study, group),
  )


def _more_seeds(study, group) -> str:
  return evidence.more_seeds(study, group, 8)


def ensembles_agree_more(study: StudyRecords, group: str) -> Evidence:
  """The two most alike runs against the two least alike ensembles."""
  comparison = study.comparison(group)
  found = comparison.record['ensembles']
  if len(comparison.group_keys) < 2 or max(found['num_members']) < 2:
    raise NotRun(evidence.missing(study, planned=False))
  runs = np.array(comparison.record['agreement']['same_top1'], float)
  ensembles = np.array(found['same_top1'], float)
  n = comparison.num_examples
  single = 1 - float(runs[np.triu_indices(len(runs), 1)].max())
  upper = np.triu_indices(len(ensembles), 1)
  place = int(np.argmin(ensembles[upper]))
  mixed = 1 - float(ensembles[upper][place])
  pair = ' and '.join(
    looks.label(comparison.group_keys[index[place]]) for index in upper
  )
  error = _spread_of_shares(single, mixed, num_examples=n)
  effect = Effect(single - mixed, variance=error**2 or None, over='examples')
  return Evidence(
    what=f'disagreement of the two most alike runs, {100 * single:.1f} (paper: '
    f'13.9), minus that of the ensembles of {pair}, {100 * mixed:.1f} (paper, of '
    'softmax and squared error: 11.5)',
    estimate=effect.estimate,
    interval=effect.interval,
    p_for=effect.p_above(),
    p_against=effect.p_below(),
    is_percent=True,
    data=f'{len(runs)} runs, ensembles of {max(found["num_members"])}, '
    f'{n:,} examples',
    power=_power_text(effect),
  )


def _late_minus_early(values: np.ndarray) -> np.ndarray:
  """The last layer's [..., L] minus the mean of the first half's."""
  early = max(1, values.shape[-1] // 2)
  return values[..., -1] - values[..., :early].mean(axis=-1)


def _cka_gaps(matrices, labels, other_seed):
  """CKA between seeds of one loss minus that between losses, of each layer."""
  alike = labels[:, None] == labels[None, :]
  within, between = alike & other_seed, ~alike & other_seed
  return matrices[:, within].mean(axis=1) - matrices[:, between].mean(axis=1)


def late_layers_differ(study: StudyRecords, group: str) -> Evidence:
  """CKA of corresponding layers, by permuting which run is of which loss."""
  comparison: Comparison = study.comparison(group)
  if 'corresponding' not in comparison.record.get('cka', {}):
    raise NotRun(evidence.missing(study, planned=False))
  found = comparison.record['cka']['corresponding']
  labels, places, names = _labels(comparison.keys, together=False)
  _require_seeds(study, labels)
  endpoints = [e for e in found['endpoints'] if e != 'logits']
  if len(endpoints) < 2:
    raise NotRun(evidence.missing(study, planned=False))
  matrices = np.array(found['linear_cka'], float)[: len(endpoints)]
  matrices = matrices[:, places][:, :, places]
  undefined = np.isnan(matrices).any(axis=(1, 2))
  if undefined.any():
    raise NotRun(
      f'undefined: CKA of {endpoints[int(np.argmax(undefined))]}, which is the '
      'same for all examples in a run'
    )
  seeds = np.array(comparison.seeds)[places]
  # Runs of one seed start from the same weights.
  other_seed = seeds[:, None] != seeds[None, :]
  gaps = _cka_gaps(matrices, labels, other_seed)
  statistic = float(_late_minus_early(gaps))
  permuted = np.array(
    [
      _late_minus_early(_cka_gaps(matrices, row, other_seed))
      for row in _permuted(labels, seeds)
    ]
  )
  return _of_layers(
    statistic,
    permuted,
    what='CKA between seeds minus that between losses, at '
    f'{endpoints[-1]} minus at the first half of the layers',
    data=f'{len(labels)} runs of {len(names)} losses, '
    f'{comparison.record["cka"]["num_examples"]:,} examples',
    remedy=_more_seeds(study, group),
  )


def _of_layers(statistic, permuted, *, what, data, remedy) -> Evidence:
  p_for, p_against = evidence.permutation_p_values(statistic, permuted)
  about = dict(
    what=what,
    estimate=statistic,
    p_for=p_for,
    p_against=p_against,
    is_percent=False,
    data=data,
  )
  if np.ptp(permuted) < 1e-12:
    power = 'none: every order of the runs gives the same'
    return Evidence(interval=None, power=power, remedy=remedy, **about)
  # Without any effect 95 % of the statistics lie this far from their mean.
  low, high = np.quantile(permuted - permuted.mean(), [0.025, 0.975])
  detectable = (high - low) / 2 * (1.96 + 0.84) / 1.96
  return Evidence(
    interval=(statistic - float(high), statistic - float(low)),
    power=f'80 % to find {detectable:.2g}',
    remedy=remedy,
    **about,
  )


def _shares_between(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Share of the variance over runs [A, L] that is between losses, [L]."""
  member = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
  means = (member.T @ values) / member.sum(axis=0)[:, None]
  between = np.mean((means[labels] - values.mean(axis=0)) ** 2, axis=0)
  total = np.var(values, axis=0)
  return np.where(total > 0, between / np.where(total > 0, total, 1), 0.0)


def _without_seeds(
  values: np.ndarray, labels: np.ndarray, seeds: np.ndarray
) -> Effect:
  """Late minus early shares, jackknifed over seeds (Tukey 1958).

  A seed is left out of all losses at once, for their runs start from the same
  weights. Permutations would tell whether the loss matters in any layer.
  """
  statistic = float(_late_minus_early(_shares_between(values, labels)))
  unique = np.unique(seeds)
  num_seeds = len(unique)
  left = [seeds != seed for seed in unique]
  # Of single runs of a loss all variance is between losses.
  if num_seeds < 3 or min(np.bincount(labels[of]).max() for of in left) < 2:
    return Effect(statistic, reason='three seeds or more tell the spread')
  found = np.array(
    [_late_minus_early(_shares_between(values[of], labels[of])) for of in left]
  )
  variance = (num_seeds - 1) * np.var(found)
  return Effect(
    statistic,
    variance=float(variance) or None,
    dof=num_seeds - 1,
    over='seeds',
    num_seeds=num_seeds,
    reason='nothing varies over seeds',
  )


def late_layers_sparser(study: StudyRecords, group: str) -> Evidence:
  """Sparsity, by leaving out seeds and by permuting which run is of which loss."""
  runs = [
    run
    for run in study.runs_of(group)
    if run.key in evidence.objective_keys(study, group)
    and run.endpoints('nonzero_fraction')
  ]
  labels, _, names = _labels([run.key for run in runs], together=False)
  if not runs or len(names) < 2 or np.bincount(labels).max() < 2:
    planned = any('evaluate' in run.commands for run in study.runs_of(group))
    raise NotRun(evidence.missing(study, planned=planned))
  endpoints = runs[0].endpoints('nonzero_fraction')
  alike = all(run.endpoints('nonzero_fraction') == endpoints for run in runs)
  if len(endpoints) < 2 or not alike:
    raise NotRun(evidence.missing(study, planned=False))
  values = np.array(
    [
      [run.value('nonzero_fraction', endpoint=e) for e in endpoints]
      for run in runs
    ],
    float,
  )
  undefined = np.argwhere(np.isnan(values))
  if len(undefined):
    run, layer = undefined[0]
    raise NotRun(
      f'undefined: sparsity of {endpoints[layer]} in {runs[run].name}'
    )
  seeds = np.array([run.seed for run in runs])
  effect = _without_seeds(values, labels, seeds)
  permuted = np.array(
    [
      _late_minus_early(_shares_between(values, row))
      for row in _permuted(labels, seeds)
    ]
  )
  high, low = evidence.permutation_p_values(effect.estimate, permuted)
  return Evidence(
    what='share of the variance of sparsity that is between losses, at '
    f'{endpoints[-1]} minus at the first half of the layers',
    estimate=effect.estimate,
    interval=effect.interval,
    p_for=max(high, effect.p_above()),
    p_against=max(low, effect.p_below()),
    is_percent=False,
    data=f'{len(runs)} runs of {len(names)} losses',
    power=evidence.power_text(effect, is_percent=False),
    remedy=_more_seeds(study, group),
  )


CLAIMS = (
  Claim(
    'seeds_cluster_by_loss',
    'All seeds cluster by loss, but dropout with more final layer L2.',
    'Figure 1',
    'A loss whose seeds agree less with one another than with those of another.',
    seeds_cluster_by_loss,
  ),
  Claim(
    'ensembles_agree_more',
    'The two most alike models disagree on more (13.9 %) than the ensembles of '
    'the least alike losses (11.5 %).',
    'section 3.2',
    'Ensembles of two losses that disagree on more than the two most alike runs.',
    ensembles_agree_more,
  ),
  Claim(
    'late_layers_differ',
    'Only the last layers differ between losses: CKA.',
    'Figure 3',
    'Early layers in which losses differ as much from one another as in the last, '
    'or more.',
    late_layers_differ,
  ),
  Claim(
    'late_layers_sparser',
    'Only the last layers differ between losses: sparsity.',
    'Figure 2',
    'Early layers whose sparsity depends as much on the loss as the last’s, or '
    'more.',
    late_layers_sparser,
  ),
)
