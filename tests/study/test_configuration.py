"""From a study's configuration to runs and refusals."""

import pathlib

import pytest

from configs.studies import default
from lossbench.interop import formats
from lossbench.study import configuration, driver
from tests.study.planned import planned

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs/studies').glob('*.py')), ids=lambda p: p.stem
)
def test_every_study_of_ours_expands(path):
  if path.stem == 'default':
    pytest.skip('the fields of all studies')
  config = configuration.load_config_fn(str(path.relative_to(ROOT)))()
  study = configuration.build_study(
    config, config_file=str(path), workdir='studies/x'
  )
  assert len({run.name for run in study.runs}) == len(study.runs) > 0
  for run in study.runs:
    assert f'seed={run.seed}' in study.commands(run)[run.first_stage]


def test_a_recipe_is_no_study():
  config = configuration.load_config_fn('configs/digits_cnn.py')()
  with pytest.raises(ValueError, match=r'has no groups: .* Give a study'):
    configuration.build_study(config, config_file='x.py', workdir='x')


def test_pairs_are_nine_objectives_by_three_seeds():
  config = configuration.load_config_fn('configs/studies/digit_pairs.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  runs = study.runs_of('digit_pairs_cnn')
  assert len(runs) == len(study.runs) == 27
  assert {run.objective for run in runs} == set(default.OBJECTIVES)
  assert runs[0].config.dataset == 'digit_pairs_low'
  assert [str(target) for target in runs[0].transfer] == [
    'digit_pairs_high:train[:1000]',
    'digit_pairs_tens:train[:1000]',
    'digit_pairs_sum:train[:1000]',
    'digit_pairs_low:holdout',
  ]


def test_digits_has_every_stage():
  config = configuration.load_config_fn('configs/studies/digits.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  assert len(study.runs) == 6
  assert study.comparisons[0].cka
  assert study.runs_of('digits_cnn')[0].ood
  low = study.runs_of('digits_cnn_low')
  assert [str(target) for target in low[0].transfer] == [
    'digits_high',
    'digits_low:holdout',
  ]
  assert low[0].config.dataset == 'digits_low'


def test_the_paper_has_eight_and_twentyfive_seeds():
  config = configuration.load_config_fn('configs/studies/paper.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  count = {
    name: len(study.runs_of(name, 'sigmoid'))
    for name in {run.group for run in study.runs}
  }
  assert count == {
    'imagenet_resnet50': 8,
    'imagenet_resnet50_holdout': 3,
    'imagenet_inception_v3': 8,
    'imagenet_inception_v3_holdout': 3,
    'cifar10_all_cnn': 25,
    'cifar100_wrn16_8': 25,
  }


@pytest.mark.parametrize(
  'name', ['paper', 'temperature', 'digits', 'digit_pairs']
)
def test_the_source_task_is_relearned_from_unseen_images(name):
  """In one meaning everywhere: of runs that keep a holdout, from it."""
  config = configuration.load_config_fn(f'configs/studies/{name}.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  relearned = [
    (run, target)
    for run in study.runs
    for target in run.transfer
    if target.dataset == run.config.dataset
  ]
  assert relearned
  for run, target in relearned:
    assert target.split == 'holdout'
    assert run.config.num_holdout
    # Figure 5 pairs it with the transfer of the same networks.
    assert len(run.transfer) > 1


def test_the_released_networks_are_all_imported_and_none_is_trained():
  config = configuration.load_config_fn('configs/studies/released.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  assert len(study.runs) == 72
  run = study.runs_of('imagenet_resnet50', 'sigmoid')[7]
  commands = study.commands(run)
  assert commands['import'] == (
    'python -m lossbench.import_checkpoint --format=loss_functions_transfer '
    '--source=gs://gresearch/loss_functions_transfer/checkpoints/sigmoid/seed7/'
    'model.ckpt --objective=sigmoid --seed=7 '
    '--config=configs/imagenet_resnet50.py:sigmoid --config.num_holdout=0 '
    '--config.compute_dtype=float32 --config.eval_pixels=float32 '
    '--config.output_layer=released --config.seed=7 '
    '--workdir=x/runs/imagenet_resnet50/sigmoid/seed7'
  )
  assert 'train' not in commands
  assert {'evaluate', 'evaluate training', 'transfer food101'} < set(commands)
  assert [c.cka for c in study.comparisons] == [True]


@pytest.mark.parametrize(
  ('name', 'options', 'flags'),
  [
    ('loss_functions_transfer', (), '--objective=softmax --seed=1'),
    ('timm', ('dataset=cifar10',), '--dataset=cifar10'),
    ('flax_imagenet', (), ''),
    (
      'torchvision',
      ('weights=IMAGENET1K_V1', 'dataset=folder:x/{objective}{seed}'),
      '--weights=IMAGENET1K_V1 --dataset=folder:x/softmax1',
    ),
  ],
)
def test_every_format_can_be_imported_by_a_study(name, options, flags):
  study = planned(
    a=dict(
      objectives=('softmax',),
      num_seeds=2,
      import_format=name,
      import_from='x{seed}',
      import_options=options,
    )
  )
  command = study.commands(study.runs[1])['import']
  between = f'--format={name} --source=x1 {flags} --config='.replace('  ', ' ')
  assert between in command


def test_all_formats_are_tried_above():
  [mark] = test_every_format_can_be_imported_by_a_study.pytestmark
  assert {row[0] for row in mark.args[1]} == {*formats.known_formats()}


def test_what_is_only_imported_is_not_trained():
  fields = dict(
    recipe='configs/imagenet_resnet50.py',
    objectives=('logit_normalization',),
    overrides=('output_layer=released',),
  )
  with pytest.raises(ValueError, match=r"^Run 'a/logit_norm.*layer=paper"):
    driver.check_configs(planned(a=fields))
  imported = dict(import_format='timm', import_from='{objective}/{seed}')
  driver.check_configs(planned(a=fields | imported))


def test_table_c2_is_that_of_the_paper():
  """Mixup's alpha is chosen from four, AutoAugment has three seeds."""
  config = configuration.load_config_fn('configs/studies/augmentation.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  name = 'imagenet_resnet50_mixup'
  [first, *_] = study.runs_of(name, 'sigmoid+mixup')
  assert study.chosen_fields(first) == ('mixup_alpha',)
  alphas = [
    [run.config.mixup_alpha for run in runs]
    for runs in study.sources(first).values()
  ]
  assert alphas == [[alpha] * 3 for alpha in (0.1, 0.2, 0.3, 0.4)]
  command = study.commands(first)['train']
  assert '--config.mixup_alpha=CHOSEN' in command
  resolved = first.config.copy_and_resolve_references()
  resolved.mixup_alpha = 0.3
  assert '--config.mixup_alpha=0.3' in study.commands(first, resolved)['train']
  counts = {
    group: len(study.runs_of(group))
    for group in config.groups
    if not group.endswith('_holdout')
  }
  assert counts == {
    'imagenet_resnet50': 32,
    'imagenet_resnet50_autoaugment': 12,
    'imagenet_resnet50_mixup': 32,
  }


def test_table_4_scales_all_eight_temperatures():
  config = configuration.load_config_fn('configs/studies/temperature.py')()
  study = configuration.build_study(config, config_file='x.py', workdir='x')
  found = {
    group: [
      run.config.objective.cosine_softmax.temperature
      for run in study.runs_of(group)
    ]
    for group in config.groups
  }
  assert found['scaled'] == [x / 100 for x in range(1, 9)]
  assert found['plain'] == [0.05, 0.06, 0.07, 0.08]
  assert {run.objective for run in study.runs_of('scaled')} == {
    'cosine_softmax+scale_by_temperature'
  }


def test_runs_without_a_holdout_are_evaluated_at_their_end():
  study = planned(a=dict(overrides=('num_holdout=0',)))
  assert {run.step for run in study.runs} == {'last'}
  assert '--step=last' in study.comparison_command(study.comparisons[0])


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(objectives=('sigmiod',)), "Did you mean 'sigmoid'"),
    (dict(recipe='configs/digit_cnn.py'), "no recipe 'configs/digit_cnn.py'"),
    (dict(overrides=('num_epoch=3',)), "'num_epoch=3' is not 'field=value'"),
    (dict(overrides=('num_epochs',)), "not 'field=value'"),
    (dict(overrides=('batch_size=a lot',)), 'is of type int'),
    (dict(overrides=('model.depth.x=1',)), 'not'),
    (dict(overrides=('learning_rate.x=1',)), "not 'field=value'"),
    (dict(objectives=()), 'no objectives'),
    (dict(objectives=('softmax', 'softmax')), 'twice'),
    (dict(transfer=('digits_hihg',)), "Did you mean 'digits_high'"),
    (dict(transfer=('digits_high:holdout',)), 'has no holdout of it'),
    (
      dict(transfer=('digits:holdout',), overrides=('num_holdout=0',)),
      'num_holdout=0, so there is none',
    ),
    (dict(ood_sets=('foldr:/x',)), "Unknown dataset 'foldr:/x'"),
    (dict(finetune=('digits_hihg',)), "Did you mean 'digits_high'"),
    (dict(finetune=('digits',)), "fine-tunes on 'digits', which its runs"),
    (
      dict(finetune=('digits_low',), finetune_weight_decays=()),
      'no learning rates or no weight decays',
    ),
    (dict(import_format='loss_functions_transfer'), 'go together'),
    (dict(import_from='x/{seed}'), 'go together'),
    (dict(import_options=('seed=1',)), 'go together'),
    (
      dict(import_format='torchvision', import_from='x/{seed}'),
      r"'a': import_options=\(\): --format=torchvision needs --weights: IMAGE",
    ),
    (
      dict(
        import_format='torchvision',
        import_from='x/{seed}',
        import_options=('weights=IMAGENET1K_V3',),
      ),
      "V3 is none of .*, IMAGENET1K_V2. Did you mean 'IMAGENET1K_V",
    ),
    (
      dict(
        import_format='torchvision',
        import_from='x/{seed}',
        import_options=('weights',),
      ),
      "import_options has 'weights', which is not 'name=value'",
    ),
    (
      dict(
        import_format='timm',
        import_from='x/{seed}',
        import_options=('datset=cifar10',),
      ),
      "--datset=cifar10 is no option of --format=timm.* mean 'dataset'",
    ),
    (
      dict(
        import_format='timm',
        import_from='x/{seed}',
        import_options=('dataset=cifar11',),
      ),
      "import_options=.*Unknown dataset 'cifar11'",
    ),
    (
      dict(
        import_format='loss_functions_transfer',
        import_from='x/{seed}',
        import_options=('seed={seed}',),
      ),
      "import_options has 'seed={seed}', but seed=0 is given already",
    ),
    (
      dict(
        import_format='timm',
        import_from='x/{seed}',
        import_options=('dataset={data}',),
      ),
      "import_options has 'dataset={data}', which may have {objective}",
    ),
    (dict(import_format='nonsense', import_from='x'), 'Known: loss_func'),
    (
      dict(import_format='loss_functions_transfer', import_from='x/{sed}'),
      'may have {objective} and {seed} in braces only',
    ),
    (
      dict(import_format='loss_functions_transfer', import_from='x/{seed}'),
      'are both imported from x/0',
    ),
    (dict(stop_epoch_from='b'), "stops where 'b' says"),
    (dict(stop_epoch_from='a'), 'itself waits for another group'),
  ],
)
def test_refusals_before_anything_runs(fields, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    planned(a=fields)


def test_no_groups_and_bad_names():
  with pytest.raises(ValueError, match='nothing to run'):
    planned()
  with pytest.raises(ValueError, match='cannot be the name'):
    planned(**{'a/b': {}})
