"""Every recipe builds every objective, and no field is there for nothing."""

import ast
import importlib
import json
import pathlib

import pytest

from configs import default, legal
from lossbench import build
from lossbench.data import catalogue
from lossbench.objectives import get_part, known_parts
from lossbench.train.checks import check_config

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('default', 'legal')
)
# The nine of the paper, which every recipe has its own numbers for.
PAPER = {
  'softmax',
  'label_smoothing',
  'dropout',
  'extra_final_layer_l2',
  'logit_penalty',
  'logit_normalization',
  'cosine_softmax',
  'sigmoid',
  'squared_error',
}
COMBINATIONS = (
  'sigmoid+dropout',
  'sigmoid+cosine',
  'cosine_softmax+label_smoothing',
  'cosine_softmax+scale_by_temperature',
  'arcface+dropout+extra_final_layer_l2',
  'logit_normalization+label_smoothing',
  'focal+logit_penalty',
)
OBJECTIVES = (
  *(name for name in known_parts() if name != 'scale_by_temperature'),
  *COMBINATIONS,
)


@pytest.fixture(params=RECIPES)
def recipe(request):
  return importlib.import_module(f'configs.{request.param}')


def test_recipes_were_found():
  assert 'digits_cnn' in RECIPES


# Recipes.


def test_recipe_says_how_to_run_it_and_what_to_expect(recipe):
  name = recipe.__name__.removeprefix('configs.')
  assert f'python main.py --config=configs/{name}.py' in recipe.__doc__
  assert '--workdir=' in recipe.__doc__
  assert 'accuracy' in recipe.__doc__


def test_recipe_overrides_known_fields_only(recipe):
  assert set(recipe.get_config()) == set(default.get_default_config())


def test_default_objective_is_softmax(recipe):
  assert recipe.get_config().objective.name == 'softmax'


def test_recipe_can_start(recipe):
  config = recipe.get_config()
  legal.check_config(config)
  check_config(config)
  assert config.dataset in catalogue.known_datasets()


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_recipe_builds_every_objective(recipe, objective):
  config = recipe.get_config(objective)
  built = build.build_objective(config)
  assert built.name == config.objective.name == objective
  classifier = build.build_classifier(config, built)
  assert classifier.output_layer.num_classes == config.num_classes
  # What a run directory keeps, and a later evaluation starts from.
  assert json.loads(config.to_json())['objective']['name'] == objective


def test_recipe_has_the_papers_objectives(recipe):
  assert set(recipe.OBJECTIVES) >= PAPER


def test_recipe_table_has_nothing_that_is_never_read(recipe):
  """A misspelt entry would be ignored."""
  for name, published in recipe.OBJECTIVES.items():
    known = {*get_part(name).hparams, *default.RECIPE_FIELDS}
    assert set(published) <= known, name
  for name, published in default.COMMON_HPARAMS.items():
    assert set(published) <= set(get_part(name).hparams), name


@pytest.mark.parametrize('objective', sorted(PAPER))
def test_table_reaches_the_config(recipe, objective):
  config = recipe.get_config(objective)
  published = dict(recipe.OBJECTIVES[objective])
  for field in default.RECIPE_FIELDS:
    if field in published:
      assert config[field] == published.pop(field)
    else:
      assert config[field] == recipe.get_config('softmax')[field]
  if published:
    assert config.objective[objective].to_dict() == published
  else:
    assert set(config.objective) == {'name'}


# Choosing an objective.


def _choose(objective, table):
  return default.set_objective(default.get_default_config(), objective, table)


def test_the_first_part_with_a_learning_rate_sets_it():
  table = {
    'dropout': dict(keep_prob=0.5),
    'sigmoid': dict(learning_rate=0.2),
    'label_smoothing': dict(alpha=0.1, learning_rate=0.3, weight_decay=0.4),
  }
  config = _choose('dropout+sigmoid+label_smoothing', table)
  assert config.learning_rate == 0.2
  assert config.weight_decay == 0.4


def test_a_recipes_table_comes_before_the_common_one():
  assert _choose('focal', {}).objective.focal.gamma == 2.0
  assert _choose('focal', {'focal': {'gamma': 5.0}}).objective.focal.gamma == 5


def test_cosine_heads_share_the_recipes_temperature():
  table = {'cosine_softmax': dict(temperature=0.07)}
  for name in ('cosine', 'cosface', 'arcface'):
    assert _choose(name, table).objective[name].temperature == 0.07


@pytest.mark.parametrize('word', ['mixup', 'autoaugment'])
def test_augmentations_are_refused_where_a_recipe_has_none(word):
  for objective in (word, f'sigmoid+{word}', f'{word}+{word}'):
    with pytest.raises(ValueError) as error:
      _choose(objective, {})
    assert str(error.value) == (
      f'This recipe has no {word!r}. Leave it out, or take one that has, e.g. '
      'configs/imagenet_resnet50.py or configs/cifar10_all_cnn.py.'
    )


@pytest.mark.parametrize('name', ['imagenet_resnet50', 'cifar10_all_cnn'])
def test_recipes_that_are_named_for_augmentations_have_them(name):
  recipe = importlib.import_module(f'configs.{name}')
  config = recipe.get_config('mixup+autoaugment')
  assert config.mixup_alpha > 0
  assert config.autoaugment


def test_unknown_objective_is_refused_with_a_suggestion():
  with pytest.raises(ValueError, match="Unknown objective 'sigmiod'") as error:
    _choose('sigmiod', {})
  assert "Did you mean 'sigmoid'?" in str(error.value)
  assert ', '.join(known_parts()) in str(error.value)


@pytest.mark.parametrize(
  ('objective', 'missing'),
  [
    ('label_smoothing', 'label_smoothing.alpha'),
    ('sigmoid+dropout', 'dropout.keep_prob'),
    ('cosine_softmax', 'cosine_softmax.temperature'),
    ('arcface', 'arcface.temperature'),
  ],
)
def test_hyperparameter_that_nobody_published_is_asked_for(objective, missing):
  with pytest.raises(ValueError) as error:
    _choose(objective, {})
  assert str(error.value) == (
    f"This recipe has no value of {missing}. Add it to the recipe's table of "
    'objectives.'
  )


@pytest.mark.parametrize(
  ('objective', 'reason'),
  [
    ('softmax+sigmoid', 'both losses'),
    ('sigmoid+sigmoid', 'named twice'),
    ('softmax+scale_by_temperature', 'no temperature'),
  ],
)
def test_nonsense_is_refused_before_anything_loads(objective, reason):
  with pytest.raises(ValueError, match=reason):
    _choose(objective, {})


# Every field has a reader.


CHECKS = ROOT / 'lossbench' / 'train' / 'checks.py'


def _fields_read():
  """Fields that lossbench reads as config.field or config['field'].

  The checks do not count: a field that is only checked changes nothing.
  """
  fields = set()
  for path in (ROOT / 'lossbench').rglob('*.py'):
    if path == CHECKS:
      continue
    module = ast.parse(path.read_text())
    for node in ast.walk(module):
      if isinstance(node, ast.Attribute):
        owner, field = node.value, node.attr
      elif isinstance(node, ast.Subscript):
        owner, field = node.value, getattr(node.slice, 'value', None)
      else:
        continue
      # `config`, `self._config` or `run.config`; not jax.config.
      names = getattr(owner, 'id', None), getattr(owner, 'attr', None)
      of_run = names[1] == 'config' and getattr(owner.value, 'id', '') == 'run'
      if names[0] == 'config' or names[1] == '_config' or of_run:
        fields.add(field)
  return fields


@pytest.mark.parametrize('field', list(default.get_default_config()))
def test_field_has_a_reader(field):
  assert field in _fields_read(), (
    f'Nothing in lossbench/ reads config.{field}: read it, or delete it from '
    'configs/default.py.'
  )


def test_every_field_read_has_a_default():
  """Apart from methods of the config itself."""
  config = default.get_default_config()
  unknown = {
    field
    for field in _fields_read()
    if isinstance(field, str) and not hasattr(config, field)
  }
  assert not unknown
