"""What a person at the terminal sees: our lines, and others' warnings."""

import logging
import os
import re
import subprocess
import sys

import rich.console
from absl import flags
from absl import logging as absl_logging

LOGGER = logging.getLogger('lossbench')

_FIND_DEVICE = """
import sys, jax
try:
  jax.process_index()
except (RuntimeError, AssertionError) as error:
  sys.exit(str(error))
"""
# Kinds of configurations, with an example.
_RECIPE = ('recipe', 'configs/digits_cnn.py')
_STUDY = ('study', 'configs/studies/digits.py')
_first = True  # of the processes of this run, since `configure`


def configure():
  """Sends lossbench's log to standard error, from the first process only.

  The libraries' own information (Orbax prints a page for every save) appears
  with --verbosity=1. Ends the program where JAX finds no device.
  """
  # Not above: binaries that compute nothing start faster without it, and
  # asking for the process index below takes hold of the accelerators.
  import jax

  if flags.FLAGS.verbosity <= 0:
    # Warnings too: Orbax warns of what it was asked to do. And errors: Orbax
    # logs those of its threads with a traceback, and they reach us anyway.
    absl_logging.set_verbosity(absl_logging.FATAL)
    # asyncio complains when Orbax's loops end with an error.
    sys.unraisablehook = lambda unraisable: LOGGER.debug('%s', unraisable)
    for name in ('tensorflow', 'jax'):
      logging.getLogger(name).setLevel(logging.ERROR)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  LOGGER.handlers = [handler]
  LOGGER.propagate = False
  global _first
  try:
    _first = jax.process_index() == 0
  except (RuntimeError, AssertionError) as error:  # of cuda, with no plug-in
    fail(_no_device(str(error)))
  LOGGER.setLevel(logging.INFO if _first else logging.WARNING)


def check_device_of_children():
  """Ends the program where JAX would find no device in processes it starts.

  In one of them, for accelerators belong to whoever takes hold of them first.
  """
  # Without a name, or as 'cpu', JAX always finds one.
  if os.environ.get('JAX_PLATFORMS', '') in ('', 'cpu'):
    return
  found = subprocess.run(
    [sys.executable, '-c', _FIND_DEVICE],
    capture_output=True,
    text=True,
    check=False,
  )
  if found.returncode:
    fail(_no_device(found.stderr.strip().rpartition('\n')[2]))


def _no_device(why: str) -> ValueError:
  """The error for a machine without the accelerator that JAX was to use."""
  asked = os.environ.get('JAX_PLATFORMS', '')
  reason = why.partition(' (set JAX_PLATFORMS')[0].rstrip('.')
  return ValueError(
    f'With JAX_PLATFORMS={asked} JAX finds no device'
    f'{f" ({reason})" if reason else ""}. Set JAX_PLATFORMS=cpu to compute on '
    "the CPU; with an accelerator, install its extra: pip install -e '.[train,tpu]' "
    "or '.[train,cuda]' (in the checkout)."
  )


def output() -> rich.console.Console:
  """Standard output, for tables and lines that quote names and errors.

  Brackets in them are no markup: '[/data]' in an error would be refused, and
  '[train]' swallowed. Of several processes only the first prints.
  """
  return rich.console.Console(file=sys.stdout, markup=False, quiet=not _first)


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


def fail(error: Exception):
  """Ends the program with the error's message on one line."""
  from lossbench.runtime import cluster

  cluster.exit_with(f'Error: {" ".join(str(error).split())}')
