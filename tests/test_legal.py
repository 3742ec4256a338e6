"""Every field has legal values, and whatever else is refused in one line."""

import dataclasses
import math
import subprocess
import sys

import pytest
from flax import traverse_util

from configs import (
  cifar10_all_cnn,
  default,
  digits_cnn,
  imagenet_resnet50,
  legal,
)
from configs.studies import default as studies
from lossbench import models
from lossbench.objectives import get_part, known_parts
from lossbench.train.checks import (
  check_config,
  check_relations,
  check_trainable,
)

NAN, INF = math.nan, math.inf
NOT_NUMBERS = (NAN, INF, -INF, None, '1')
NOT_COUNTS = (*NOT_NUMBERS, True, -1, 0.5, 2.0)
NOT_EPOCHS = (*NOT_NUMBERS, -1.0, 1e9)
NOT_BOOLS = (None, 0, 1, 'True')
NOT_PATHS = (None, 3, 'a\nb', 'a\0b')

# Field -> values that must be refused. What a row of the table lets through by
# mistake is noticed here, so this is not derived from it.
ILLEGAL = {
  'seed': (*NOT_COUNTS, 2**32, 10**400),
  'dataset': ('cifr10', '', None, 'folder:', 'folder:/x#/map', 'imagenet_c:/x'),
  'data_dir': NOT_PATHS,
  'num_classes': (*NOT_COUNTS, 0, 1, 10**9),
  'image_size': (*NOT_COUNTS, 0, 10**6),
  'downscale': (*NOT_COUNTS, 0),
  'num_holdout': NOT_COUNTS,
  'data_on_device': NOT_BOOLS,
  'shuffle_gib': (*NOT_NUMBERS, -1.0, 1e9),
  'on_bad_image': ('ignore', '', None),
  'resize_images': NOT_BOOLS,
  'resize_ratio': (*NOT_NUMBERS, 0.99, 0.0, -1.0, 1e9),
  'eval_crop': ('center', '', None),
  'resize_method': ('lanczos', '', None),
  'resize_antialias': NOT_BOOLS,
  'eval_pixels': ('float16', '', None),
  'autoaugment': ('cifar10', 'none', None),
  'crop_padding': (*NOT_COUNTS, 10**9),
  'random_flip': NOT_BOOLS,
  'mixup_alpha': (*NOT_NUMBERS, -0.1),
  'pixel_mean': (0.5, (), (255.0,), (-0.1,), (NAN,), (0.5, 0.5), (None,)),
  'pixel_std': (0.5, (), (0.0,), (58.0,), (-0.1,), (INF,), (0.5, 0.5)),
  'model.name': ('resnet50', '', None),
  'compute_dtype': ('float16', 'bf16', '', None),
  'precision': ('float32', 'HIGHEST', '', None),
  'batch_norm_group': NOT_COUNTS,
  'output_layer': ('cosine', '', None),
  'output_kernel_stddev': (*NOT_NUMBERS, -0.01),
  'init_from': NOT_PATHS,
  'init_step': ('', 'first', '-1', '1.5', 100, None),
  'class_weights': ('Balanced', 'weights', '.txt', 3, None, True, 'a\n.npy'),
  'batch_size': (*NOT_COUNTS, 0),
  'num_epochs': (*NOT_EPOCHS, 0.0),
  'stop_epoch': NOT_EPOCHS,
  'accumulation_steps': (*NOT_COUNTS, 0),
  'steps_per_dispatch': (*NOT_COUNTS, 4097),
  'learning_rate': (*NOT_NUMBERS, 0.0, -0.1),
  'learning_rate_batch_size': NOT_COUNTS,
  'schedule': ('cosin', '', None),
  'warmup_epochs': NOT_EPOCHS,
  'decay_per_epoch': (*NOT_NUMBERS, 0.0, -0.5, 1.1),
  'momentum': (*NOT_NUMBERS, 1.0, -0.1),
  'weight_decay': (*NOT_NUMBERS, -1e-4),
  'divide_weight_decay_by_learning_rate': NOT_BOOLS,
  'decay_batch_norm': NOT_BOOLS,
  'ema_decay': (*NOT_NUMBERS, 1.0, -0.1),
  'ema_ramp': NOT_BOOLS,
  'eval_batch_size': (*NOT_COUNTS, 0, 10**9),
  'eval_every_epochs': (*NOT_EPOCHS, 0.0),
  'log_every_steps': (*NOT_COUNTS, 0),
  'checkpoint_every_steps': NOT_COUNTS,
  'keep_checkpoints': (*NOT_COUNTS, 0),
  'keep_every_epochs': NOT_EPOCHS,
  'replica_check_every_steps': NOT_COUNTS,
  'stall_secs': (*NOT_NUMBERS, -1.0, 1e300),
  'profile_steps': NOT_COUNTS,
}
ILLEGAL_OF_MODELS = {
  'digits_cnn': {
    'width': (*NOT_COUNTS, 0, 10**9),
    'strides': (2, (), (0,), (5,), (1, 2.0), (True,), (1,) * 7, None),
  },
  # Below 1/192 the first layers round to no channel.
  'all_cnn_c': {'width_multiplier': (*NOT_NUMBERS, 0.0, 0.005, -1.0, 1e6)},
  'wide_resnet': {
    'depth': (*NOT_COUNTS, 0, 4, 15, 17),
    'width': (*NOT_COUNTS, 0, 10**9),
  },
  'resnet': {
    'depth': (*NOT_COUNTS, 0, 49),
    'width': (*NOT_COUNTS, 0, 10**9),
    'max_pool_padding': ('SAME', '', 1, None),
    'conv_padding': ('SAME', '', 1, None),
  },
  'inception_v3': {'count_include_pad': NOT_BOOLS},
}
ILLEGAL_OF_STUDIES = {'title': (None, 'a\nb'), 'data_dir': NOT_PATHS}
ILLEGAL_OF_GROUPS = {
  'recipe': (None, '', 'configs/digits_cnn', 3),
  'objectives': ('sigmoid', (3,), (None,), ('',)),
  'num_seeds': (*NOT_COUNTS, 0, 10**9),
  'overrides': ('num_epochs=3', (3,), (None,), ('',)),
  'variants': (('num_epochs=3',), (('',),), ((3,),), None),
  'stop_epoch_from': (None, 3, 'a\nb'),
  'evaluate': NOT_BOOLS,
  'ood': NOT_BOOLS,
  'ood_sets': ('digits', (3,), (None,), ('',)),
  'num_train_examples': NOT_COUNTS,
  'compare': NOT_BOOLS,
  'cka': NOT_BOOLS,
  'import_format': (None, 3, 'a\nb'),
  'import_from': NOT_PATHS,
  'import_options': ('weights=x', (3,), (None,), ('',)),
  'transfer': ('digits', (3,), (None,), ('',)),
  'finetune': ('digits', (3,), (None,), ('',)),
  'finetune_learning_rates': (0.1, (0.0,), (-0.1,), ('0.1',), (math.nan,)),
  'finetune_weight_decays': (0.1, (-0.1,), ('0.1',), (math.inf,)),
  'finetune_epochs': (*NOT_NUMBERS, 0.0),
  'finetune_batch_size': (*NOT_COUNTS, 0),
}


def _changed(config, name, value):
  """A configuration in which the field has a value, of whatever type."""
  changed = config.copy_and_resolve_references()
  changed.unlock()
  *path, last = name.split('.')
  node = changed
  for part in path:
    node = node[part]
  with node.ignore_type():
    node[last] = value
  return changed


def _check_refused(config, name, value, *, check=legal.check_config):
  with pytest.raises(ValueError) as error:
    check(_changed(config, name, value))
  message = str(error.value)
  assert len(message.splitlines()) == 1 or '\n' in str(value)
  assert message.startswith(f'--config.{name}={value} is not ')
  # A remedy follows.
  assert '. ' in message.removeprefix(f'--config.{name}={value} is not ')


def _values(table):
  return [
    pytest.param(name, value, id=f'{name}={value!r}'[:60])
    for name, values in table.items()
    for value in values
  ]


def _fields(config):
  return traverse_util.flatten_dict(config.to_dict(), sep='.')


def test_every_field_has_illegal_values_here_and_a_row_there():
  names = {n for n in _fields(default.get_default_config())}
  names -= {'objective.name'}  # its parts check themselves
  assert ILLEGAL.keys() == names
  assert [f.name for f in legal.FIELDS] == list(dict.fromkeys(ILLEGAL))


@pytest.mark.parametrize(('name', 'value'), _values(ILLEGAL))
def test_illegal_value_is_refused(name, value):
  _check_refused(default.get_default_config(), name, value)


def test_every_model_has_rows():
  assert sorted(legal.MODEL_FIELDS) == list(models.known_backbones())


@pytest.mark.parametrize('model', models.known_backbones())
def test_every_field_of_a_model_has_a_row(model):
  module = type(models.create_backbone(model, image_size=224))
  fields = {f.name for f in dataclasses.fields(module)}
  fields -= {'batch_norm', 'dtype', 'name', 'parent', 'precision'}
  assert ILLEGAL_OF_MODELS[model].keys() == fields
  rows = {field.name for field in legal.MODEL_FIELDS[model]}
  assert rows == {f'model.{name}' for name in fields}
  config = default.get_default_config()
  config.model.name = model
  for name, values in ILLEGAL_OF_MODELS[model].items():
    config.model[name] = getattr(module, name)
    legal.check_config(config)
    for value in values:
      _check_refused(config, f'model.{name}', value)


@pytest.mark.parametrize('part', known_parts())
def test_hyperparameters_have_the_intervals_of_their_part(part):
  objective = 'cosine+scale_by_temperature' if 'scale' in part else part
  table = {'cosine_softmax': {'temperature': 0.05}}
  for name in known_parts():
    table.setdefault(name, {})
  table['squared_error'] = dict(kappa=1.0, target_logit=1.0, scale=1.0)
  table['label_smoothing'] = dict(alpha=0.1)
  table['dropout'] = dict(keep_prob=0.5)
  table['extra_final_layer_l2'] = dict(lambda_final=0.1)
  table['logit_penalty'] = dict(beta=0.1)
  table['logit_normalization'] = dict(temperature=0.1)
  config = default.set_objective(default.get_default_config(), objective, table)
  legal.check_config(config)
  for hparam in get_part(part).hparams:
    for value in (*NOT_NUMBERS, -2.0):
      _check_refused(config, f'objective.{part}.{hparam}', value)


def test_unknown_fields_are_refused():
  config = default.get_default_config()
  with pytest.raises(ValueError) as error:
    legal.check_config(_changed(config, 'num_epoch', 3.0))
  assert str(error.value) == (
    "--config.num_epoch: there is no such field. Did you mean 'num_epochs'?"
  )
  with pytest.raises(ValueError, match=r'model\.widht: there is no such'):
    legal.check_config(_changed(config, 'model.widht', 3))


def test_missing_fields_are_refused():
  config = default.get_default_config()
  del config['momentum']
  with pytest.raises(ValueError, match="has no 'momentum'"):
    legal.check_config(config)


def test_slips_of_names_get_a_suggestion():
  config = _changed(default.get_default_config(), 'schedule', 'cosin')
  with pytest.raises(ValueError) as error:
    legal.check_config(config)
  assert str(error.value) == (
    "--config.schedule=cosin is not one of 'constant', 'cosine', "
    "'exponential'. Did you mean 'cosine'?"
  )


# Studies.


def _study():
  config = studies.get_default_study()
  config.groups.a = studies.group('configs/digits_cnn.py')
  return config


def test_every_field_of_a_study_has_a_row():
  studies.check_study(_study())
  assert set(_study()) - {'groups'} == ILLEGAL_OF_STUDIES.keys()
  assert set(_study().groups.a) == ILLEGAL_OF_GROUPS.keys()


@pytest.mark.parametrize(
  ('name', 'value'),
  _values(
    {
      **ILLEGAL_OF_STUDIES,
      **{f'groups.a.{n}': values for n, values in ILLEGAL_OF_GROUPS.items()},
    }
  ),
)
def test_illegal_value_of_a_study_is_refused(name, value):
  _check_refused(_study(), name, value, check=studies.check_study)


def test_unknown_fields_of_groups_are_refused():
  config = _study()
  config.groups.a.num_seed = 5
  with pytest.raises(ValueError) as error:
    studies.check_study(config)
  assert str(error.value) == (
    '--config.groups.a.num_seed: there is no such field. Did you mean '
    "'num_seeds'?"
  )


# Fields that contradict one another.


@pytest.mark.parametrize(
  ('get_config', 'changes', 'text'),
  [
    (
      digits_cnn,
      {'stop_epoch': 41.0},
      r'stop_epoch=41.0 is not in \[0, 40.0\]',
    ),
    (digits_cnn, {'warmup_epochs': 40.0}, 'warmup_epochs must be in'),
    (digits_cnn, {'crop_padding': 100}, 'crop_padding=100 is not less than'),
    (digits_cnn, {'crop_padding': 8}, 'crop_padding=8 is not less than'),
    (
      digits_cnn,
      {'resize_images': True, 'data_on_device': False},
      'resize_images=True is for colour images',
    ),
    (
      digits_cnn,
      {'autoaugment': 'cifar', 'data_on_device': False},
      'autoaugment=cifar is for colour images',
    ),
    (digits_cnn, {'pixel_mean': (0.1, 0.2, 0.3)}, 'one value per channel'),
    (digits_cnn, {'image_size': 3}, 'crop_padding|at least 4 pixels'),
    (cifar10_all_cnn, {'autoaugment': 'cifar'}, 'data_on_device=True cannot'),
    (cifar10_all_cnn, {'resize_images': True}, 'data_on_device=True cannot'),
    (
      imagenet_resnet50,
      {'resize_antialias': True},
      'resize_method=bicubic_tf1 has no antialiasing',
    ),
    (cifar10_all_cnn, {'image_size': 8}, 'at least 9 pixels'),
    (cifar10_all_cnn, {'downscale': 4}, 'at least 9 pixels'),
    (cifar10_all_cnn, {'downscale': 3}, 'downscale=3 does not divide'),
  ],
)
def test_contradictions_are_refused(get_config, changes, text):
  config = get_config.get_config()
  check_relations(config)
  config.update(changes)
  legal.check_config(config)
  with pytest.raises(ValueError, match=text):
    check_relations(config)


@pytest.mark.parametrize('objective', studies.OBJECTIVES)
def test_an_output_of_no_class_is_imported_but_not_trained(objective):
  config = imagenet_resnet50.get_config(objective)
  config.output_layer = 'released'
  check_relations(config)  # as imports do
  if objective != 'logit_normalization':
    check_trainable(config)
    return
  for check in (check_trainable, check_config):
    with pytest.raises(ValueError, match=r'Set --config\.output_layer=paper'):
      check(config)


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'batch_size': 30}, 'batch_size=30 is not a multiple of the 4 devices'),
    ({'eval_batch_size': 30}, 'eval_batch_size=30 is not a multiple of the 4'),
    ({'accumulation_steps': 3}, 'multiple of 4 devices x .*steps=3'),
    ({'batch_norm_group': 3}, 'batch_norm_group=3 does not divide the 4 dev'),
    ({'batch_norm_group': 8}, 'batch_norm_group=8 does not divide the 4 dev'),
  ],
)
def test_batches_fit_the_devices(changes, text):
  config = digits_cnn.get_config()
  check_config(config)
  config.update(changes)
  with pytest.raises(ValueError, match=text):
    check_config(config)


# On the command line.


@pytest.mark.parametrize(
  ('module', 'arguments', 'line'),
  [
    (
      'main',
      ['--config=configs/digits_cnn.py', '--config.learning_rate=nan'],
      '--config.learning_rate=nan is not in (0, inf). Give for example 0.1.',
    ),
    (
      'lossbench.tune',
      [
        '--config=configs/digits_cnn.py',
        '--search_linear=momentum=0.5:1:0.25',
      ],
      '--search momentum=1.0 is not in [0, 1). Give for example 0.9; 0 is none.',
    ),
    (
      'lossbench.study',
      [
        '--config=configs/studies/digits.py',
        "--config.groups.digits_cnn.overrides=('mixup_alpha=-1',)",
      ],
      "Run 'digits_cnn/softmax/seed0': --config.mixup_alpha=-1.0 is not in "
      '[0, inf). Give for example 0.2; 0 is no mixup.',
    ),
  ],
)
def test_refused_before_tensorflow_is_imported(
  root, tmp_path, module, arguments, line
):
  """And before anything is written."""
  program = f"""
import runpy, sys
for name in ('tensorflow', 'tensorflow_datasets'):
  sys.modules[name] = None  # an import of it fails
sys.argv = ['program', *{arguments}, '--workdir={tmp_path}/run']
runpy.run_module({module!r}, run_name='__main__')
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.stderr == f'Error: {line}\n'
  assert result.returncode == 1
  assert not (tmp_path / 'run').exists()
