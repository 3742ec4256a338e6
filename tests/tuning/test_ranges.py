"""Which values are searched, and what is refused."""

import pytest

from configs import digits_cnn, imagenet_resnet50
from lossbench.objectives import get_part, known_parts
from lossbench.tuning.ranges import (
  build_dimensions,
  override_line,
  parse_range,
)


def _range(text, *, log=True):
  return parse_range(text, log=log)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('learning_rate=1', 'is not FIELD=LOW:HIGH:STEP'),
    ('learning_rate=0:-1:0.5', 'is empty'),
    ('learning_rate=-2:inf:1', 'is too large for powers of ten'),
    ('learning_rate=-2:400:1', 'is too large for powers of ten'),
  ],
)
def test_what_is_no_range_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    _range(text)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('learning_rat=0.1:1:0.1', "'learning_rat' is not a field"),
    ('num_holdout=1:2:1', 'holds a fraction'),
    ('momentum=-0.5:0.5:0.5', '--search momentum=-0.5 is not in'),
    ('weight_decay=-1:1:1', '--search weight_decay=-1.0 is not'),
    (
      'objective.label_smoothing.alpha=0.5:1:0.5',
      r'alpha=1.0 is not in \[0, 1\)',
    ),
  ],
)
def test_what_the_configuration_may_not_have_is_refused(text, message):
  config = digits_cnn.get_config('label_smoothing')
  with pytest.raises(ValueError, match=message):
    build_dimensions(config, [_range(text, log=False)])


def test_a_field_has_one_range():
  ranges = [_range('learning_rate=-1:0:1'), _range('learning_rate=-2:0:1')]
  with pytest.raises(ValueError, match="'learning_rate' two ranges"):
    build_dimensions(digits_cnn.get_config(), ranges)


def test_every_registered_hyperparameter_has_legal_default_values():
  for part in known_parts():
    hparams = get_part(part).hparams
    if not hparams:
      continue
    config = digits_cnn.get_config('softmax')
    config.unlock()
    config.objective = {'name': part, part: dict.fromkeys(hparams, 1.0)}
    fields = [dimension.field for dimension in build_dimensions(config)]
    assert fields[:2] == ['learning_rate', 'weight_decay']
    assert set(fields[2:]) == {f'objective.{part}.{name}' for name in hparams}


def test_the_scale_of_squared_error_is_held_at_the_recipes():
  config = imagenet_resnet50.get_config('squared_error')
  [scale] = [d for d in build_dimensions(config) if d.field.endswith('scale')]
  assert [scale.value(c) for c in scale.coarse()] == [10]


def test_overrides_as_a_command_line():
  assert override_line({'a.b': 0.0316227766, 'c': 1.0}) == (
    '--config.a.b=0.0316227766 --config.c=1'
  )
