"""Parsing of flags, whose mistakes are one line with the remedy."""

import os
import re
import sys

from absl import flags

# Kinds of configurations, with an example.
_RECIPE = ('recipe', 'configs/digits_cnn.py')
_STUDY = ('study', 'configs/studies/digits.py')
# How absl refuses a flag -> what we say instead; `example` is its default.
_REFUSALS = {
  r'invalid literal for int\(\).*': (
    '{given} is not a whole number. Give for example --{name}={example}.'
  ),
  r'could not convert string to float: .*': (
    '{given} is not a number. Give for example --{name}={example}.'
  ),
  r"\('Non-boolean argument to boolean flag', .*\)": (
    '{given} is neither true nor false. Give --{name}=true or --{name}=false.'
  ),
  r'\S+ is not ((?:an? )?(?:[\w-]+ )?(?:integer|number)\b.*)': (
    '{given} is not {0}. Give for example --{name}={example}.'
  ),
  r'value should be one of <(.*)>': (
    '{given} is not one of {0}. Give one of them.'
  ),
  r'Failed to parse .* as a ConfigDict: .*': (
    '{given} gives one value to several fields. Give --{name}.FIELD=VALUE.'
  ),
  r'Flag --\S+ must have a value other than None\.': (
    '--{name} is missing. Give --{name}=...: {help}'
  ),
}


def parse_flags(argv: list[str], *, takes_study: bool = False) -> list[str]:
  """Parses the command line; a mistake ends the program with one line.

  For absl's `app.run(main, flags_parser=parse_flags)`, whose own parser prints
  a traceback where a recipe or an override is refused.

  Args:
    argv: the program and its arguments.
    takes_study: whether --config is a study, not a recipe.

  Returns:
    The program and those of its arguments that are no flags.
  """
  given = _given_config(argv)
  mistake = ''
  if given is not None:
    mistake = _missing_file(given, takes_study)
  if not mistake:
    try:
      rest = flags.FLAGS(argv)
    except (AttributeError, KeyError, flags.Error) as error:
      # The kind comes first: mending the rest would be in vain.
      mistake = _wrong_kind(given, takes_study) or _explain(error, given)
    else:
      mistake = _wrong_kind(given, takes_study)
  if mistake:
    sys.exit(f'Error: {mistake}')
  return rest


def _given_config(argv: list[str]) -> str | None:
  """What --config names, with what follows a colon; None without one."""
  for word, following in zip(argv, [*argv[1:], ''], strict=True):
    flag, equals, value = word.partition('=')
    if flag in ('--config', '-config'):
      return value if equals else following
  return None


def _missing_file(given: str, takes_study: bool) -> str:
  """What is wrong with the path of a configuration; '' if it is a file's."""
  # ml_collections would keep quiet about it until the first override.
  path = given.partition(':')[0]
  if path.endswith('.py') and os.path.isfile(path):
    return ''
  kind, example = _RECIPE
  if takes_study or 'studies' in path.split('/')[:-1]:
    kind, example = _STUDY
  return (
    f'--config={path}: there is no such {kind}. Give a .py file, e.g. '
    f'{example}, relative to the current directory.'
  )


def _wrong_kind(given: str | None, takes_study: bool) -> str:
  """What is wrong if a recipe is given for a study or vice versa; '' if not."""
  if given is None or 'config' not in flags.FLAGS:
    return ''
  flag = flags.FLAGS['config']
  try:
    # Without overrides; where one is refused, the flag has no value.
    config = flag.parser.parse(given) if flag.value is None else flag.value
    is_study = 'groups' in config
  except Exception:  # of the file, whose own error is better
    return ''
  if is_study == takes_study:
    return ''
  (wanted, example), (found, _) = _RECIPE, _STUDY
  program = '-m lossbench.study'
  if takes_study:
    (wanted, example), (found, _) = _STUDY, _RECIPE
    program = 'main.py'
  return (
    f'--config={given} is a {found}, not a {wanted}. Give a {wanted}, e.g. '
    f'{example}, or run python {program} --config={given}.'
  )


def _explain(error: Exception, given: str | None) -> str:
  """Why the command line is refused, and the remedy, in one line."""
  path = (given or '').partition(':')[0]
  text = str(error).strip()
  if isinstance(error, AttributeError | KeyError):
    if "no attribute 'get_config'" in text:
      return f'--config={path} has no function get_config.'
    # How ml_collections refuses an override of a field that is not there.
    name = re.search(r'\w+', text).group()
    hint = re.search(r'Did you mean "(\w+)"', text)
    remedy = f' Did you mean {hint.group(1)!r}?' if hint else ''
    return f'this configuration has no field {name!r}.{remedy}'
  if 'Traceback (most recent call last):' in text:
    text = text.splitlines()[-1].strip().removeprefix('ValueError: ')
  if 'get_config() takes 0 positional arguments' in text:
    return f'--config={path} takes nothing after a colon. Leave it out.'
  # One line a flag, whose value may have several.
  lines = re.split(r'\n(?=flag --)', text)
  return ' '.join(_in_our_words(' '.join(line.split())) for line in lines)


def _in_our_words(line: str) -> str:
  """What absl says of a flag, as we say it where it is one of `_REFUSALS`."""
  for pattern, words in _REFUSALS.items():
    found = re.fullmatch(rf'flag (--([^=]+)=.*?): {pattern}', line)
    if found:
      given, name, *expected = found.groups()
      flag = flags.FLAGS[name]
      return words.format(
        *(text.replace('|', ', ') for text in expected),
        given=given,
        name=name,
        example=1 if flag.default is None else flag.default,
        # absl adds a line on flags that may be repeated.
        help=flag.help.partition(';\n')[0],
      )
  return line.removeprefix('flag ')
