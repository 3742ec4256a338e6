"""Names, intervals and refusals: what can be built, and what is said if not."""

import dataclasses
import itertools
import math

import pytest

from lossbench.objectives import (
  Interval,
  Part,
  create_objective,
  get_part,
  known_parts,
  losses,
  register,
  registry,
)

PAPER = (
  'softmax',
  'label_smoothing',
  'dropout',
  'extra_final_layer_l2',
  'logit_penalty',
  'logit_normalization',
  'cosine_softmax',
  'sigmoid',
  'squared_error',
)


@pytest.fixture
def scratch_registry(monkeypatch):
  """Parts registered by a test are forgotten after it."""
  monkeypatch.setattr(registry, '_PARTS', dict(registry._PARTS))


def error_of(spec, hparams=None):
  with pytest.raises(ValueError) as error:
    create_objective(spec, hparams)
  return str(error.value)


def quarter(spec):
  """0.25 for every hyperparameter, which all of them allow."""
  names = spec.split('+')
  return {name: dict.fromkeys(get_part(name).hparams, 0.25) for name in names}


# --- Names. ------------------------------------------------------------------


def test_the_nine_objectives_of_the_paper_are_known():
  assert set(PAPER) <= set(known_parts())


def test_known_parts_are_sorted():
  assert list(known_parts()) == sorted(known_parts())


@pytest.mark.parametrize('name', known_parts())
def test_parts_are_found_under_their_names(name):
  assert get_part(name).name == name


@pytest.mark.parametrize('name', known_parts())
def test_stages_name_functions_of_losses(name):
  part = get_part(name)
  for field in dataclasses.fields(part):
    if field.name.endswith('_fn') and getattr(part, field.name) is not None:
      assert callable(getattr(losses, getattr(part, field.name)))


def test_a_name_can_be_registered_once(scratch_registry):
  register(Part('hinge'))
  with pytest.raises(ValueError) as error:
    register(Part('hinge'))
  assert str(error.value) == "Objective part 'hinge' is already registered."


@pytest.mark.parametrize('name', ['', 'Hinge', '1_hinge', 'hinge+', 'a b'])
def test_names_must_fit_into_config_strings(scratch_registry, name):
  with pytest.raises(ValueError, match='must be named in lower case'):
    register(Part(name))
  assert name not in known_parts()


def test_an_unknown_name_lists_the_known_ones_and_the_closest():
  assert error_of('sigmiod') == (
    f"Unknown objective 'sigmiod'. Known: {', '.join(known_parts())}. "
    "Did you mean 'sigmoid'?"
  )


def test_nothing_is_suggested_where_nothing_is_close():
  assert error_of('softmax+xyzzy') == (
    f"Unknown objective 'xyzzy'. Known: {', '.join(known_parts())}."
  )


@pytest.mark.parametrize('spec', ['', '+', 'softmax+', '+softmax'])
def test_empty_names_are_unknown(spec):
  assert error_of(spec).startswith("Unknown objective ''. Known: ")


def test_spaces_round_the_plus_are_allowed():
  spaced = create_objective('sigmoid + dropout', quarter('dropout'))
  assert spaced.name == 'sigmoid+dropout'


# --- Combinations. -----------------------------------------------------------

REFUSED = {
  'sigmoid+softmax': (
    'sigmoid and softmax are both losses; name one. (A sigmoid over cosine '
    "logits is 'sigmoid+cosine'.)"
  ),
  'sigmoid+cosine_softmax': (
    'sigmoid and cosine_softmax are both losses; name one. (A sigmoid over '
    "cosine logits is 'sigmoid+cosine'.)"
  ),
  'dropout+softmax+dropout': "'dropout' is named twice.",
  'softmax+softmax': "'softmax' is named twice.",
  'logit_normalization+logit_penalty': (
    'logit_normalization fixes the norm of the logits, so logit_penalty would '
    'only add a constant.'
  ),
  'sigmoid+logit_normalization+cosine': (
    'logit_normalization would cancel the scale of the logits that the '
    'temperature of cosine sets.'
  ),
  'cosine_softmax+logit_normalization': (
    'logit_normalization would cancel the scale of the logits that the '
    'temperature of cosine_softmax sets.'
  ),
  'cosine_softmax+cosine': (
    'cosine_softmax and cosine both bring the cosine output layer.'
  ),
  'cosface+arcface': (
    'cosface and arcface both bring the cosine output layer.'
  ),
  'squared_error+cosface': (
    'squared_error draws logits to fixed values, which the margin of cosface '
    'would only displace.'
  ),
  'arcface+squared_error': (
    'squared_error draws logits to fixed values, which the margin of arcface '
    'would only displace.'
  ),
  'sigmoid+scale_by_temperature': (
    'there is no temperature to scale the loss by.'
  ),
}


@pytest.mark.parametrize('spec', REFUSED)
def test_combinations_without_a_meaning_are_refused_with_the_reason(spec):
  assert error_of(spec, quarter(spec)) == (
    f'Objective {spec!r} is refused: {REFUSED[spec]}'
  )


@pytest.mark.parametrize(
  'spec',
  [
    # Table C.1 of the paper: regularisers on softmax, sigmoid and cosine.
    *(
      f'{loss}+{regularizer}'
      for loss in ('softmax', 'sigmoid', 'cosine_softmax')
      for regularizer in (
        'label_smoothing',
        'dropout',
        'extra_final_layer_l2',
        'logit_penalty',
      )
    ),
    'sigmoid+logit_normalization',
    'sigmoid+cosine',
    # The temperature study.
    'cosine_softmax+scale_by_temperature',
  ],
)
def test_combinations_of_the_paper_are_allowed(spec):
  objective = create_objective(spec, quarter(spec))
  assert objective.parts == tuple(spec.split('+'))
  assert objective.name == spec


def is_refused(spec):
  try:
    create_objective(spec, quarter(spec))
  except ValueError:
    return True
  return False


def test_the_order_of_parts_does_not_decide_what_is_refused():
  for one, other in itertools.combinations(known_parts(), 2):
    forwards, backwards = f'{one}+{other}', f'{other}+{one}'
    assert is_refused(forwards) == is_refused(backwards), forwards


# --- Hyperparameters. --------------------------------------------------------


def test_a_missing_hyperparameter_is_named_with_its_interval():
  expected = "Objective 'label_smoothing' needs 'alpha', a number in [0, 1)."
  assert error_of('label_smoothing') == expected
  assert error_of('sigmoid+label_smoothing', {'sigmoid': {}}) == expected


def test_an_unknown_hyperparameter_lists_the_known_ones():
  hparams = {'squared_error': {'kapa': 9.0}}
  assert error_of('squared_error', hparams) == (
    "Objective 'squared_error' has no hyperparameter 'kapa'. "
    'Known: kappa, target_logit, scale.'
  )
  assert error_of('sigmoid', {'sigmoid': {'beta': 1.0}}) == (
    "Objective 'sigmoid' has no hyperparameter 'beta'. Known: none."
  )


def test_hyperparameters_of_an_absent_part_are_refused():
  assert error_of('sigmoid', {'dropout': {'keep_prob': 0.7}}) == (
    "Objective 'sigmoid' has no part 'dropout', but hyperparameters for it "
    "were given: {'keep_prob': 0.7}."
  )


@pytest.mark.parametrize(
  ('part', 'hparams', 'interval'),
  [
    ('label_smoothing', {'alpha': 1.0}, '[0, 1)'),
    ('label_smoothing', {'alpha': -0.1}, '[0, 1)'),
    ('dropout', {'keep_prob': 0.0}, '(0, 1]'),
    ('dropout', {'keep_prob': 1.1}, '(0, 1]'),
    ('extra_final_layer_l2', {'lambda_final': -1e-4}, '[0, inf)'),
    ('logit_penalty', {'beta': -1.0}, '[0, inf)'),
    ('logit_penalty', {'beta': math.inf}, '[0, inf)'),
    ('logit_normalization', {'temperature': 0.0}, '(0, inf)'),
    ('cosine_softmax', {'temperature': -0.05}, '(0, inf)'),
    ('cosine', {'temperature': math.nan}, '(0, inf)'),
    ('focal', {'gamma': -1.0}, '[0, inf)'),
    ('poly1', {'epsilon': -1.5}, '[-1, inf)'),
  ],
)
def test_values_out_of_range_are_refused(part, hparams, interval):
  ((name, value),) = hparams.items()
  assert error_of(part, {part: hparams}) == (
    f'{part}.{name} must be in {interval}; got {value}.'
  )


@pytest.mark.parametrize('name', ['kappa', 'target_logit', 'scale'])
def test_squared_errors_hyperparameters_are_positive(name):
  hparams = {'kappa': 1.0, 'target_logit': 1.0, 'scale': 1.0, name: 0.0}
  assert error_of('squared_error', {'squared_error': hparams}) == (
    f'squared_error.{name} must be in (0, inf); got 0.0.'
  )


@pytest.mark.parametrize(
  ('part', 'margin', 'interval'),
  [('cosface', 2.0, '[0, 2)'), ('arcface', 1.6, '[0, 1.5707963]')],
)
def test_margins_are_limited(part, margin, interval):
  hparams = {part: {'temperature': 0.05, 'margin': margin}}
  assert error_of(part, hparams) == (
    f'{part}.margin must be in {interval}; got {margin}.'
  )


@pytest.mark.parametrize(
  ('text', 'inside', 'outside'),
  [
    ('[0, 1)', [0, 0.5, 0.999], [-1e-9, 1, 2, math.nan]),
    ('(0, 1]', [1e-9, 1], [0, 1.001, math.nan]),
    ('(0, inf)', [1e-30, 1e30], [0, -1, math.inf, math.nan]),
    ('[-1, inf)', [-1, 0, 1e30], [-1.001, math.inf, -math.inf]),
  ],
)
def test_intervals_contain_what_they_say(text, inside, outside):
  interval = Interval(text)
  assert all(value in interval for value in inside)
  assert not any(value in interval for value in outside)


@pytest.mark.parametrize('text', ['0, 1', '[0 1]', '[0, 1', '', '[0,1]'])
def test_intervals_are_written_one_way(text):
  with pytest.raises(ValueError, match='interval must look like'):
    Interval(text)
