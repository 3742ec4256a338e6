"""Every claim on records whose truth is known, for each of its verdicts."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from lossbench.report import __main__ as report
from lossbench.report import claims, correlation
from lossbench.report.bootstrap import Effect, Sample
from lossbench.report.claims import (
  FAILS,
  HOLDS,
  NOT_RUN,
  UNDECIDED,
  Claim,
  Evidence,
  evaluate_claims,
  evidence,
  rendering,
  representations,
  similarity,
)
from lossbench.report.looks import PAPER_OBJECTIVES, Key
from lossbench.report.records import (
  NEIGHBOURS,
  Comparison,
  Measured,
  RunRecords,
  StudyRecords,
  Target,
  TransferRecord,
)

NUM_SEEDS = 8
OWN = 'imagenet2012'
TARGETS = (Target('food101', 'food101', None), Target('relearned', OWN, 'x'))
ALL = tuple(Key(name) for name in PAPER_OBJECTIVES)
TEMPERATURES = tuple(
  Key('cosine_softmax', (('temperature', t),)) for t in (0.01, 0.05, 0.08)
)
# Where the paper's Table 2 measures class separation.
ON_TRAINING_IMAGES = {'endpoint': 'features', 'dataset': 'training'}


def _seeds(mean, spread, place):
  """Values of seeds with exactly this mean and standard deviation."""
  values = np.random.default_rng(place).normal(size=NUM_SEEDS)
  values = (values - values.mean()) / values.std(ddof=1)
  return mean + spread * values


def _run(key, seed, model='resnet'):
  return RunRecords(
    name=f'g/{key.objective}/seed{seed}',
    group='g',
    recipe='r.py',
    model=model,
    key=key,
    settings={f'objective.{f}': v for f, v in key.variant},
    seed=seed,
    dataset=OWN,
    test_split='validation',
    transfer=TARGETS,
    commands={'train': 't', 'evaluate': 'e', 'evaluate training': 'e'},
    path=None,
    metrics={},
    transfers={},
    history=[],
    curves={},
    error='',
  )


def _study(keys=ALL, **about):
  """A study of runs that have measured nothing yet."""
  runs = [_run(key, seed, **about) for key in keys for seed in range(NUM_SEEDS)]
  return StudyRecords(
    name='synthetic',
    title='',
    path='STUDY',
    config='c.py',
    overrides=(),
    runs=tuple(runs),
    comparisons={},
    comparison_commands={'g': 'compare'},
    problems=(),
  )


def _measure(study, name, means, spread, *, endpoint='', dataset=OWN):
  """Adds a metric, of objectives' means."""
  for run in study.runs:
    if run.key not in means:
      continue
    place = [*map(ord, name), list(means).index(run.key)]
    value = float(_seeds(means[run.key], spread, place)[run.seed])
    if dataset == 'transfer':
      run.transfers[name] = TransferRecord(Measured(value, 100), 10, 0)
    elif dataset == 'training':
      run.training[name, endpoint] = Measured(value, 100)
    else:
      run.metrics[dataset, name, endpoint] = Measured(value, 100)
  return study


def _means(keys=ALL, base=0.7, **exceptions):
  """Distinct means, a little apart; of some, named by objective, others."""
  return {
    key: exceptions.get(key.objective, base + 0.0001 * place)
    for place, key in enumerate(keys)
  }


def _of(name, holds, fails, *, spread=0.002, wide=0.5, keys=ALL, **more):
  """Scenarios of one metric: means where it holds and where it does not.

  Nobody can tell where the seeds of the first differ as much as `wide`.
  """
  about = more.pop('about', {})

  def scenario(verdict):
    means = _means(keys, **(fails if verdict == FAILS else holds))
    spread_of = wide if verdict == UNDECIDED else spread
    return _measure(_study(keys, **about), name, means, spread_of, **more)

  return scenario


def _deviations(verdict):
  """Of 0.05, 0.8 and 0.19 points; claimed is below 0.2."""
  spread = {HOLDS: 0.0005, FAILS: 0.008, UNDECIDED: 0.0019}[verdict]
  return _measure(_study(), 'top1_accuracy', _means(), spread)


AUGMENTED = (Key('softmax'), Key('softmax+mixup'), Key('softmax+autoaugment'))


def _augmented(verdict):
  sign = -1 if verdict == FAILS else 1
  means = {k: 0.7 + 0.02 * sign * (k != AUGMENTED[0]) for k in AUGMENTED}
  spread = 0.5 if verdict == UNDECIDED else 0.002
  return _measure(_study(AUGMENTED), 'top1_accuracy', means, spread)


def _relearned_heads(verdict):
  study = _measure(_study(), 'top1_accuracy', _means(), 0.002)
  own = 0.65 if verdict == HOLDS else 0.75
  spread = 0.5 if verdict == UNDECIDED else 0.002
  return _measure(
    study, 'relearned', _means(softmax=own), spread, dataset='transfer'
  )


def _both(verdict):
  """Separation, and transfer that falls or rises with it."""
  rank = {key: place / 10 for place, key in enumerate(ALL)}
  study = _measure(
    _study(), 'class_separation', rank, 0.001, **ON_TRAINING_IMAGES
  )
  order = np.arange(len(ALL))
  if verdict == HOLDS:
    order = order[::-1]
  elif verdict == UNDECIDED:
    order = np.array([4, 2, 7, 0, 8, 5, 1, 6, 3])
  transfer = {k: 0.5 + r / 100 for k, r in zip(ALL, order, strict=True)}
  return _measure(study, 'food101', transfer, 0.0001, dataset='transfer')


def _accurate(verdict):
  """Top-1, and transfer that falls or rises with it: `_both`'s numbers."""
  study = _both(verdict)
  accuracy = {key: 0.7 + place / 100 for place, key in enumerate(ALL)}
  return _measure(study, 'top1_accuracy', accuracy, 0.0001)


def _neighbours(verdict):
  """What `softmax_transfers_best` is of, measured by nearest neighbours alone."""
  study = SCENARIOS['softmax_transfers_best'](verdict)
  for run in study.runs:
    found = run.transfers['food101']
    run.transfers['food101'] = TransferRecord(
      Measured(0.5, 100), 10, 0, others={NEIGHBOURS: found.main}
    )
  return study


def _finetuned(verdict):
  """Spreads over losses of linear transfer and of fine-tuning."""
  linear, tuned = {HOLDS: (20, 1), FAILS: (1, 20), UNDECIDED: (5, 5)}[verdict]
  rng = np.random.default_rng(3)
  means = 0.5 + 0.001 * rng.normal(size=(2, len(ALL))) * [[linear], [tuned]]
  study = _measure(
    _study(),
    'food101',
    dict(zip(ALL, means[0], strict=True)),
    0.0001,
    dataset='transfer',
  )
  runs = tuple(
    dataclasses.replace(
      run,
      finetune=('food101',),
      finetuned={'food101': Measured(float(means[1][ALL.index(run.key)]), 100)},
    )
    for run in study.runs
  )
  return dataclasses.replace(study, runs=runs)


def _temperatures(metric, dataset, sign):
  def scenario(verdict):
    direction = -sign if verdict == FAILS else sign
    means = {k: 0.7 + 0.01 * direction * i for i, k in enumerate(TEMPERATURES)}
    spread = 0.5 if verdict == UNDECIDED else 0.002
    return _measure(
      _study(TEMPERATURES), metric, means, spread, dataset=dataset
    )

  return scenario


def _compare(study, *, within, between, ensembles=0.9, cka=None, n=100_000):
  """A comparison whose agreements are known, and CKA [L] of each kind."""
  keys = [run.key for run in study.runs]
  names = [
    'd' if key.objective in ('dropout', 'extra_final_layer_l2') else key
    for key in keys
  ]
  alike = np.array([[a == b for b in names] for a in names])
  jitter = np.random.default_rng(0).normal(0, 1e-4, alike.shape)
  jitter = (jitter + jitter.T) / 2
  same = np.where(alike, within, between) + jitter
  np.fill_diagonal(same, 1)
  mixed = np.full((len(ALL), len(ALL)), ensembles)
  np.fill_diagonal(mixed, 1)
  record = {
    'num_examples': n,
    'agreement': {'same_top1': same.tolist()},
    'ensembles': {
      'num_members': [NUM_SEEDS] * len(ALL),
      'same_top1': mixed.tolist(),
    },
  }
  if cka is not None:
    matrices = []
    own = np.array([[a == b for b in keys] for a in keys])
    for gap in cka:
      noise = np.random.default_rng(len(matrices)).normal(0, 0.02, own.shape)
      matrices.append((0.7 + gap * own + (noise + noise.T) / 2).tolist())
    record['cka'] = {
      'num_examples': 1000,
      'corresponding': {
        'endpoints': ['block1', 'block2', 'block3', 'features'],
        'linear_cka': matrices,
      },
    }
  comparison = Comparison(
    keys=tuple(keys),
    seeds=tuple(run.seed for run in study.runs),
    group_keys=ALL,
    record=record,
  )
  return dataclasses.replace(study, comparisons={'g': comparison})


def _clusters(verdict):
  within = {HOLDS: 0.95, FAILS: 0.8, UNDECIDED: 0.9}[verdict]
  return _compare(_study(), within=within, between=0.9)


def _ensembles(verdict):
  ensembles = {HOLDS: 0.95, FAILS: 0.85, UNDECIDED: 0.9}[verdict]
  study = _compare(_study(), within=0.9, between=0.85, ensembles=ensembles)
  [comparison] = study.comparisons.values()
  # The two most alike agree on 90 % exactly.
  same = np.minimum(comparison.record['agreement']['same_top1'], 0.9)
  np.fill_diagonal(same, 1)
  comparison.record['agreement']['same_top1'] = same.tolist()
  return study


def _layers(verdict):
  gaps = {
    HOLDS: (0, 0, 0.1, 0.2),
    FAILS: (0.2, 0.2, 0.1, 0),
    UNDECIDED: (0, 0, 0, 0),
  }[verdict]
  return _compare(_study(), within=0.9, between=0.8, cka=gaps)


def _sparsity(verdict):
  study = _study()
  effects = {HOLDS: (0, 0, 1), FAILS: (1, 1, 0), UNDECIDED: (0, 0, 0)}[verdict]
  for layer, effect in enumerate(effects):
    rng = np.random.default_rng(layer + 10)
    for run in study.runs:
      value = 0.5 + 0.05 * effect * ALL.index(run.key) + rng.normal(0, 0.01)
      run.metrics[OWN, 'nonzero_fraction', f'block{layer}'] = Measured(value)
  return study


INCEPTION = {'about': {'model': 'inception_v3'}}
SCENARIOS = {
  'seeds_differ_little': _deviations,
  'losses_differ_little': _of('top1_accuracy', {}, {'dropout': 0.6}),
  'sigmoid_and_cosine_beat_softmax': _of(
    'top1_accuracy',
    {'softmax': 0.68},
    {'sigmoid': 0.6},
  ),
  'sigmoid_best_of_inception': _of(
    'top1_accuracy', {'sigmoid': 0.75}, {'sigmoid': 0.65}, **INCEPTION
  ),
  'sigmoid_top5_below_softmax': _of(
    'top5_accuracy', {'sigmoid': 0.65}, {'sigmoid': 0.75}, **INCEPTION
  ),
  'augmentation_helps': _augmented,
  'seeds_cluster_by_loss': _clusters,
  'ensembles_agree_more': _ensembles,
  'late_layers_differ': _layers,
  'late_layers_sparser': _sparsity,
  'softmax_separates_least': _of(
    'class_separation',
    {'softmax': 0.3},
    {'sigmoid': 0.3},
    **ON_TRAINING_IMAGES,
  ),
  'softmax_relearned_worst': _of(
    'relearned', {'softmax': 0.6}, {'sigmoid': 0.6}, dataset='transfer'
  ),
  'relearned_below_head': _relearned_heads,
  'softmax_transfers_best': _of(
    'food101', {'softmax': 0.8}, {'dropout': 0.8}, dataset='transfer'
  ),
  'transfer_inverse_to_separation': _both,
  'accuracy_inverse_to_transfer': _accurate,
  'softmax_nearest_best': _neighbours,
  'finetuning_evens_out': _finetuned,
  'lowest_temperature_least_accurate': _temperatures('top1_accuracy', OWN, 1),
  'lowest_temperature_transfers_best': _temperatures('food101', 'transfer', -1),
  'label_smoothing_calibrates': _of(
    'ece', {'label_smoothing': 0.6}, {'label_smoothing': 0.8}
  ),
  'cosine_softmax_likelier': _of(
    'nll', {'cosine_softmax': 0.6}, {'cosine_softmax': 0.8}
  ),
  'logit_penalty_worst_calibrated': _of(
    'ece', {'logit_penalty': 0.9}, {'sigmoid': 0.9}
  ),
  # One loss below softmax is no contradiction, two are.
  'alternatives_beat_softmax_shifted': _of(
    'top1_accuracy',
    {'softmax': 0.6, 'squared_error': 0.5},
    {'dropout': 0.6, 'squared_error': 0.6},
    dataset='imagenet_v2',
  ),
  'normalized_ahead_shifted': _of(
    'top1_accuracy',
    {'logit_normalization': 0.8, 'cosine_softmax': 0.8},
    {'sigmoid': 0.8},
    dataset='imagenet_v2',
  ),
}


def _evaluate(study, of_claims):
  return evaluate_claims({'': study}, of_claims)


def test_every_claim_has_scenarios():
  names = [claim.name for claim in claims.CLAIMS]
  assert sorted(names) == sorted(SCENARIOS)


@pytest.mark.parametrize('verdict', [HOLDS, FAILS, UNDECIDED])
@pytest.mark.parametrize('claim', claims.CLAIMS, ids=lambda claim: claim.name)
def test_verdicts_on_known_truth(claim, verdict):
  [finding] = _evaluate(SCENARIOS[claim.name](verdict), [claim])
  assert finding.verdict == verdict, finding.evidence
  found = finding.evidence
  assert found.data
  assert found.power
  low, high = found.interval
  assert low <= found.estimate <= high
  [row] = rendering.rows([finding])
  assert all(row)


@pytest.mark.parametrize('claim', claims.CLAIMS, ids=lambda claim: claim.name)
def test_without_records_the_command_is_named(claim):
  [finding] = _evaluate(_study(), [claim])
  assert finding.verdict == NOT_RUN
  assert finding.evidence is None
  assert finding.reason.startswith('not run: ')
  assert 'python -m lossbench.study --config=' in finding.reason


def test_separation_of_test_images_alone_is_not_what_the_paper_claims():
  study = _measure(
    _study(), 'class_separation', _means(), 0.001, endpoint='features'
  )
  for run in study.runs:  # as of a study from before there was this stage
    run.commands.pop('evaluate training')
  claim = next(c for c in claims.CLAIMS if c.name == 'softmax_separates_least')
  [finding] = _evaluate(study, [claim])
  assert finding.reason == (
    f'not run: training examples; {study.rerun_command} '
    '--config.groups.g.num_train_examples=50000'
  )


def _fixed(name, p_for, p_against=1.0):
  return Claim(
    name,
    'S',
    'T',
    'R',
    lambda study, group: Evidence(
      'e', 0.1, (0.0, 0.2), p_for, p_against, False, 'd'
    ),
  )


def test_all_claims_are_corrected_together():
  """0.04 alone holds; beside two others, one of them smaller, it is 0.08."""
  study = _study()
  [alone] = _evaluate(study, [_fixed('a', 0.02)])
  assert (alone.verdict, alone.p_holm) == (HOLDS, 0.04)
  found = _evaluate(
    study, [_fixed('a', 0.02), _fixed('b', 0.3), _fixed('c', 1.0, 0.0001)]
  )
  assert [f.verdict for f in found] == [UNDECIDED, UNDECIDED, FAILS]
  np.testing.assert_allclose([f.p_holm for f in found], [0.08, 0.6, 0.0006])


def _effect(estimate, error=1.0):
  return Effect(estimate, variance=error**2, over='seeds', num_seeds=8)


def test_all_but_u_against_naive_p_values():
  """Largest and smallest; without u of them, times what that may hide."""
  study = _study()
  estimates = [3.0, 2.5, -1.0, 4.0]
  effects = {str(e): _effect(e) for e in estimates}
  p = np.sort(stats.norm.sf(estimates))
  q = np.sort(stats.norm.cdf(estimates))
  about = dict(what='{}', data='d', is_percent=False)
  found = evidence.all_above(study, 'g', effects, **about)
  assert found.p_for == pytest.approx(p[3])
  assert found.p_against == pytest.approx(4 * q[0])
  assert found.what == '-1.0'
  found = evidence.all_above(study, 'g', effects, but_for=1, **about)
  assert found.p_for == pytest.approx(2 * p[2])
  assert found.p_against == pytest.approx(min(1, 3 * q[1]))
  assert found.what == '2.5'


def test_one_network_says_nothing_of_its_loss():
  """However sure its difference on these examples is."""
  effects = {
    'a': _effect(5.0),
    'b': dataclasses.replace(_effect(9.0), over='examples', num_seeds=1),
  }
  about = dict(what='{}', data='d', is_percent=False)
  found = evidence.all_above(_study(), 'g', effects, **about)
  assert (found.p_for, found.p_against, found.what) == (1, 1, 'b')
  # But what another network of its loss does say is heard, and shown.
  effects['c'] = _effect(-5.0)
  found = evidence.all_above(_study(), 'g', effects, **about)
  assert found.p_against < 1e-5
  assert found.what == 'c'
  del effects['a'], effects['c']
  found = evidence.all_above(_study(), 'g', effects, **about)
  assert (found.p_for, found.p_against) == (1, 1)
  assert found.power.endswith('in these very networks, none in others')
  assert found.remedy.endswith('--config.groups.g.num_seeds=9')  # it has 8


def test_false_claims_are_rarely_said_to_hold(monkeypatch):
  """Five equal objectives: that the first is the lowest, or is not."""
  for name in ('power_text', 'remedy_text'):  # take their time
    monkeypatch.setattr(evidence, name, lambda *_, **__: '')
  rng = np.random.default_rng(0)
  rejected = []
  for _ in range(300):
    samples = {
      Key(name): Sample(name, rng.normal(size=3))
      for name in PAPER_OBJECTIVES[:5]
    }
    found = evidence.all_above(
      _study(),
      'g',
      evidence.differences_from(samples, 'softmax'),
      what='{}',
      data='d',
      is_percent=False,
    )
    rejected.append(found.p_value <= 0.05)
  assert np.mean(rejected) <= 0.05


def _claim(name):
  return next(claim for claim in claims.CLAIMS if claim.name == name)


def test_one_loss_that_does_not_cluster_is_enough():
  """Though no order of the runs has such a cluster as the others are."""
  study = _compare(_study(), within=0.95, between=0.7)
  [comparison] = study.comparisons.values()
  same = np.array(comparison.record['agreement']['same_top1'])
  pair = [
    key.objective in ('sigmoid', 'squared_error') for key in comparison.keys
  ]
  same[np.ix_(pair, pair)] = 0.955  # seeds of both, with one another
  own = np.array([[a == b for b in comparison.keys] for a in comparison.keys])
  same[np.outer(pair, pair) & own] = 0.95
  np.fill_diagonal(same, 1)
  comparison.record['agreement']['same_top1'] = same.tolist()
  [finding] = _evaluate(study, [_claim('seeds_cluster_by_loss')])
  assert finding.verdict == FAILS
  comparison.record['num_examples'] = 1000  # which do not tell
  [finding] = _evaluate(study, [_claim('seeds_cluster_by_loss')])
  assert finding.verdict == UNDECIDED
  assert finding.evidence.estimate == pytest.approx(-0.005)


@pytest.mark.parametrize('order', ['none', 'neither'])
def test_a_rank_correlation_of_zero(order):
  study = _both(HOLDS)
  means = dict.fromkeys(ALL, 0.5)
  if order == 'neither':  # Spearman's is 0 exactly
    places = [2, 4, 8, 3, 0, 7, 5, 6, 1]
    means = {k: 0.5 + p / 100 for k, p in zip(ALL, places, strict=True)}
  _measure(study, 'food101', means, 0.0, dataset='transfer')
  [finding] = _evaluate(study, [_claim('transfer_inverse_to_separation')])
  assert finding.verdict == UNDECIDED
  assert 'no number of objectives tells' in finding.evidence.power


def test_layers_that_are_undefined_are_named():
  study = _layers(HOLDS)
  [comparison] = study.comparisons.values()
  comparison.record['cka']['corresponding']['linear_cka'][1][0][1] = None
  [finding] = _evaluate(study, [_claim('late_layers_differ')])
  assert finding.verdict == NOT_RUN
  assert finding.reason.startswith('undefined: CKA of block2')
  study = _sparsity(HOLDS)
  study.runs[3].metrics[OWN, 'nonzero_fraction', 'block1'] = Measured(None)
  [finding] = _evaluate(study, [_claim('late_layers_sparser')])
  assert finding.verdict == NOT_RUN
  assert finding.reason == (
    f'undefined: sparsity of block1 in {study.runs[3].name}'
  )
  assert evidence.permutation_p_values(np.nan, np.ones(9)) == (1, 1)


def test_sparsity_of_two_seeds_tells_nothing():
  study = _sparsity(HOLDS)
  study = dataclasses.replace(
    study, runs=tuple(run for run in study.runs if run.seed < 2)
  )
  [finding] = _evaluate(study, [_claim('late_layers_sparser')])
  assert finding.verdict == UNDECIDED
  assert 'three seeds' in finding.evidence.power


def test_layers_that_are_alike_are_rarely_told_apart():
  """All of them depend on the loss, equally; permutations alone would not do."""
  rng = np.random.default_rng(0)
  labels, seeds = np.repeat(np.arange(5), 6), np.tile(np.arange(6), 5)
  rejected = []
  for _ in range(200):
    effects = rng.normal(size=(5, 3))
    effects = (effects - effects.mean(axis=0)) / effects.std(axis=0)
    values = effects[labels] + rng.normal(size=(30, 3))
    effect = similarity._without_seeds(values, labels, seeds)
    rejected.append([effect.p_above() <= 0.025, effect.p_below() <= 0.025])
  assert np.mean(rejected, axis=0).max() <= 0.05


def test_what_is_decided_has_no_remedy_and_others_have_one_that_adds_seeds():
  claim = _claim('softmax_separates_least')
  scenario = SCENARIOS[claim.name]
  assert _evaluate(scenario(HOLDS), [claim])[0].evidence.remedy == ''
  [finding] = _evaluate(scenario(UNDECIDED), [claim])
  num_seeds = int(finding.evidence.remedy.rpartition('num_seeds=')[2])
  assert num_seeds > NUM_SEEDS
  study = _study()
  assert study.with_seeds('g', NUM_SEEDS) == ''
  joined = dataclasses.replace(
    study,
    runs=(
      *study.runs,
      *(
        dataclasses.replace(run, name=f'h/x/seed{run.seed}')
        for run in study.runs[:3]
      ),
    ),
  )
  assert joined.num_seeds('g') == 3
  assert joined.with_seeds('g', 5).endswith('--config.groups.h.num_seeds=5')


def test_the_best_of_two_is_nobody():
  claim = _claim('logit_penalty_worst_calibrated')
  keys = (Key('softmax'), Key('logit_penalty'))
  study = _measure(_study(keys), 'ece', {keys[0]: 0.1, keys[1]: 0.5}, 0.001)
  [finding] = _evaluate(study, [claim])
  assert finding.verdict == NOT_RUN
  assert finding.reason.endswith('configs/studies/paper.py --workdir=STUDY')


def test_heads_are_paired_by_seed():
  """One run lacks its evaluation, another its relearned head."""
  study = _relearned_heads(HOLDS)
  softmax = study.runs_of('g', Key('softmax'))
  again = {run.seed: run for run in softmax}
  for seed, run in again.items():
    # Seeds differ much more than a head from its relearned one.
    run.metrics[OWN, 'top1_accuracy', ''] = Measured(0.5 + 0.05 * seed, 100)
    run.transfers['relearned'] = TransferRecord(
      Measured(0.49 + 0.05 * seed + 1e-5 * seed, 100), 10, 0
    )
  del again[7].metrics[OWN, 'top1_accuracy', '']
  del again[0].transfers['relearned']
  [finding] = _evaluate(study, [_claim('relearned_below_head')])
  assert finding.verdict == HOLDS
  assert finding.evidence.estimate == pytest.approx(0.01, abs=1e-4)
  assert '6 seeds' in finding.evidence.data


def _finetuned_means(rng, linear, tuned, noise, num_seeds):
  """Of losses that spread by `linear` and `tuned`, and seeds by `noise`."""
  study = _study()
  runs = []
  losses = rng.normal(size=(2, len(ALL))) * [[linear], [tuned]]
  for run in study.runs:
    if run.seed >= num_seeds:
      continue
    values = 0.5 + losses[:, ALL.index(run.key)] + noise * rng.normal(size=2)
    run.transfers['food101'] = TransferRecord(Measured(values[0]), 10, 0)
    runs.append(
      dataclasses.replace(
        run, finetune=('food101',), finetuned={'food101': Measured(values[1])}
      )
    )
  return dataclasses.replace(study, runs=tuple(runs))


@pytest.mark.parametrize(
  ('linear', 'tuned', 'noise'),
  [
    (0, 0, (0.01, 0.003)),  # no loss differs
    (0.01, 0.01, (0.001, 0.04)),
    (0.01, 0.01, (0.01, 0.01)),
  ],
)
def test_noise_of_seeds_is_no_spread_of_losses(linear, tuned, noise):
  rng = np.random.default_rng(0)
  claim = _claim('finetuning_evens_out')
  found = [
    claim.collect(_finetuned_means(rng, linear, tuned, np.array(noise), 3), 'g')
    for _ in range(100)
  ]
  assert np.mean([2 * f.p_for <= 0.05 for f in found]) <= 0.05
  assert np.mean([2 * f.p_against <= 0.05 for f in found]) <= 0.05


def test_one_seed_does_not_tell_noise_from_losses():
  study = _finetuned_means(np.random.default_rng(0), 0.1, 0.001, np.ones(2), 1)
  [finding] = _evaluate(study, [_claim('finetuning_evens_out')])
  assert finding.verdict == UNDECIDED
  assert finding.evidence.p_value == 1
  assert finding.evidence.power.startswith('none: one seed')


def test_permutations_against_scipy():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=6), rng.normal(size=6)
  rho = stats.spearmanr(x, y).statistic
  orders = representations._orders(6)
  assert len(orders) == 719
  permuted = correlation.rank_correlations(x[orders], y[None])
  high, low = evidence.permutation_p_values(rho, permuted)
  expected = [
    stats.permutation_test(
      (x,),
      lambda x: stats.spearmanr(x, y).statistic,
      permutation_type='pairings',
      n_resamples=np.inf,
      alternative=alternative,
    ).pvalue
    for alternative in ('greater', 'less')
  ]
  np.testing.assert_allclose([high, low], expected)


def test_margins_against_a_naive_loop():
  rng = np.random.default_rng(0)
  labels = np.array([0, 1, 0, 2, 1, 0])
  same = rng.random((6, 6))
  same = (same + same.T) / 2
  np.fill_diagonal(same, 1)
  within, between, losses = similarity._margins(same, labels)
  assert list(losses) == [0, 1]
  for loss in losses:
    own = np.flatnonzero(labels == loss)
    pairs = [same[i, j] for i, j in itertools.combinations(own, 2)]
    assert within[loss] == pytest.approx(np.mean(pairs))
    others = [
      np.mean([same[i, j] for i in own for j in np.flatnonzero(labels == o)])
      for o in range(3)
      if o != loss
    ]
    assert between[loss] == pytest.approx(max(others))


def test_json_tells_studies_apart(synthetic_study):
  """The same claim of two studies is found by its name and group."""
  path = report.write_claims(synthetic_study)
  record = json.loads(path.with_suffix('.json').read_text())
  assert record['study'] == 'synthetic'
  found = {claim['name']: claim for claim in record['claims']}
  assert set(found) == set(SCENARIOS)
  relearned = found['relearned_below_head']
  assert relearned['group'] == 'imagenet_resnet50'
  assert relearned['evidence']['estimate'] == pytest.approx(0.172)
  assert relearned['verdict'] == HOLDS
  assert relearned['evidence']['remedy'] == ''  # nothing is left to decide
  sparsity = found['late_layers_sparser']
  assert sparsity['verdict'] == UNDECIDED  # no spread is no evidence
  assert sparsity['evidence']['p_for'] == 1
  text = path.read_text()
  for claim in claims.CLAIMS:
    assert claim.statement in text
