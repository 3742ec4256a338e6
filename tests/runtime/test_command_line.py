"""What the command line gets wrong is one line with the remedy."""

import pytest
from absl import flags
from ml_collections import config_flags

from lossbench.runtime import command_line

RECIPE = 'configs/digits_cnn.py'
STUDY = 'configs/studies/digits.py'
NUM_SEEDS = '--config.groups.digits_cnn.num_seeds'


@pytest.fixture
def refuse(monkeypatch, root):
  """Function (arguments -> the line that a binary ends with)."""

  def parse(*arguments, takes_study=False):
    argv = ['program', *arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
      'config', None, 'A file.', flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string('workdir', None, 'Where.', flag_values=values)
    flags.DEFINE_multi_string('file', None, 'Of a.', flag_values=values)
    flags.DEFINE_bool('list', False, 'Only.', flag_values=values)
    flags.DEFINE_integer('number', None, 'N.', 1, flag_values=values)
    flags.DEFINE_float('share', 0.5, 'S.', 0, 1, flag_values=values)
    flags.DEFINE_enum('kind', None, ['a', 'b'], 'K.', flag_values=values)
    flags.register_validator(
      'workdir', bool, 'It is empty.', flag_values=values
    )
    flags.mark_flags_as_required(['config', 'file'], flag_values=values)
    monkeypatch.setattr(flags, 'FLAGS', values)
    with pytest.raises(SystemExit) as stop:
      command_line.parse_flags(argv, takes_study=takes_study)
    return stop.value.code

  monkeypatch.chdir(root)
  return parse


@pytest.mark.parametrize(
  ('argument', 'line'),
  [
    (
      '--config.seed=abc',
      '--config.seed=abc is not a whole number. Give for example '
      '--config.seed=0.',
    ),
    (
      '--config.seed=a: b\nc',
      '--config.seed=a: b c is not a whole number. Give for example '
      '--config.seed=0.',
    ),
    (
      '--config.num_epochs=x',
      '--config.num_epochs=x is not a number. Give for example '
      '--config.num_epochs=40.0.',
    ),
    (
      '--config.random_flip=maybe',
      '--config.random_flip=maybe is neither true nor false. Give '
      '--config.random_flip=true or --config.random_flip=false.',
    ),
    (
      '--config.model=x',
      '--config.model=x gives one value to several fields. Give '
      '--config.model.FIELD=VALUE.',
    ),
    (
      '--config.model=3',
      '--config.model=3 gives one value to several fields. Give '
      '--config.model.FIELD=VALUE.',
    ),
    (
      '--list=maybe',
      '--list=maybe is neither true nor false. Give --list=true or '
      '--list=false.',
    ),
    (
      '--number=abc',
      '--number=abc is not a whole number. Give for example --number=1.',
    ),
    (
      '--number=-1',
      '--number=-1 is not a positive integer. Give for example --number=1.',
    ),
    (
      '--share=2',
      '--share=2 is not a number in the range [0, 1]. Give for example '
      '--share=0.5.',
    ),
    ('--kind=c', '--kind=c is not one of a, b. Give one of them.'),
  ],
)
def test_values_of_a_wrong_type(refuse, argument, line):
  assert refuse(f'--config={RECIPE}', argument) == f'Error: {line}'


def test_missing_flags_are_named_with_their_meaning(refuse):
  assert refuse('--workdir=x') == (
    'Error: --config is missing. Give --config=...: A file. --file is missing. '
    'Give --file=...: Of a.'
  )
  assert refuse(f'--config={RECIPE}', '--workdir=') == (
    'Error: --workdir=: It is empty. --file is missing. Give --file=...: Of a.'
  )


# Whatever else is wrong would be mended in vain.
@pytest.mark.parametrize(
  'others',
  [
    ['--file=x', '--workdir=x'],
    [],
    ['--config.seed=3'],
    [f'{NUM_SEEDS}=3'],
    ['--number=x'],
  ],
)
def test_configurations_of_another_kind(refuse, others):
  assert refuse(f'--config={STUDY}', *others) == (
    f'Error: --config={STUDY} is a study, not a recipe. Give a recipe, e.g. '
    f'{RECIPE}, or run python -m lossbench.study --config={STUDY}.'
  )
  given = f'{RECIPE}:sigmoid'
  assert refuse('--config', given, *others, takes_study=True) == (
    f'Error: --config={given} is a recipe, not a study. Give a study, e.g. '
    f'{STUDY}, or run python main.py --config={given}.'
  )


def test_fields_of_studies_of_a_wrong_type(refuse):
  assert refuse(f'--config={STUDY}', f'{NUM_SEEDS}=x', takes_study=True) == (
    f'Error: {NUM_SEEDS}=x is not a whole number. Give for example '
    f'{NUM_SEEDS}=2.'
  )


@pytest.mark.parametrize(
  ('path', 'takes_study', 'kind', 'example'),
  [
    ('configs/nothing.py', False, 'recipe', RECIPE),
    ('configs/studies/digit_pair.py', False, 'study', STUDY),
    ('configs/studies/digit_pair.py', True, 'study', STUDY),
    ('digit_pair.py', True, 'study', STUDY),
    ('studies.py', False, 'recipe', RECIPE),
  ],
)
def test_files_that_are_not_there(refuse, path, takes_study, kind, example):
  assert refuse(f'--config={path}:x', takes_study=takes_study) == (
    f'Error: --config={path}: there is no such {kind}. Give a .py file, e.g. '
    f'{example}, relative to the current directory.'
  )
