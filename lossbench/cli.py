"""What binaries share: flags of one meaning, and one frame around what they do.

A binary imports nothing that takes long before its flags are in order, so that
help and mistakes are answered at once; neither does this module.
"""

from lossbench.runtime import interrupts  # isort: split

interrupts.end_in_one_line()  # the imports below take a while

import functools  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any  # noqa: E402

from absl import app, flags  # noqa: E402

from lossbench.runs.directory import CHANGES  # noqa: E402
from lossbench.runtime import (  # noqa: E402
  cluster,
  command_line,
  compilations,
  console,
  stopping,
  storage,
)

# Of setup.py: extra -> the modules that come with it alone.
EXTRAS = {
  'train': (
    'clu',
    'google',
    'importlib_resources',
    'orbax',
    'sklearn',
    'tensorboard',
    'tensorflow',
    'tensorflow_datasets',
  ),
  'report': ('jinja2', 'matplotlib'),
  'tune': ('matplotlib', 'optuna', 'psycopg', 'sqlalchemy'),
}

# `--help` shows flags of the binary, whose they are, and none of other modules.
flags.disclaim_key_flags()


def define_workdir(meaning: str = 'Run directory.'):
  """Defines --workdir."""
  flags.DEFINE_string('workdir', None, meaning)
  flags.register_validator(
    'workdir', lambda path: path != '', 'It is empty: name a directory.'
  )


def define_allow():
  """Defines --allow, of binaries that train."""
  flags.DEFINE_list(
    'allow',
    [],
    'What may have changed since a run was started last, of '
    f'{", ".join(CHANGES)}; its numbers change too.',
  )
  flags.register_validator(
    'allow',
    lambda names: set(names) <= CHANGES.keys(),
    f'Give some of {",".join(CHANGES)}.',
  )


def define_runs_per_program():
  """Defines --runs_per_program."""
  flags.DEFINE_string(
    'runs_per_program',
    '1',
    'Runs that are trained at once in this process, each on a device of its '
    "own; 'auto' for as many as there are devices if each fits one; 1 trains "
    'one on all devices. Numbers of a run depend on its devices.',
  )
  flags.register_validator(
    'runs_per_program',
    lambda text: text == 'auto' or (text.isdecimal() and int(text) > 0),
    "Give a number from 1, or 'auto'.",
  )


def define_checkpoint_flags(*, split: str):
  """Defines what binaries that read checkpoints have in common.

  Args:
    split: the meaning of --split.
  """
  flags.DEFINE_string(
    'step', 'best', "'best' by holdout accuracy, 'last', or a step's number."
  )
  flags.DEFINE_string('split', None, split)
  flags.DEFINE_string(
    'data_dir', None, 'TFDS directory, if it has moved since training.'
  )
  flags.DEFINE_integer(
    'batch_size',
    None,
    'Global batch size of forward passes; changes no number.',
    lower_bound=1,
  )
  flags.DEFINE_enum(
    'compute_dtype',
    None,
    ['float32', 'bfloat16'],
    'What forward passes compute in. Default: what the run was trained in.',
  )


def checkpoint_arguments() -> dict[str, Any]:
  """The values of `define_checkpoint_flags`, as keyword arguments."""
  names = ('step', 'split', 'data_dir', 'batch_size', 'compute_dtype')
  return {name: flags.FLAGS[name].value for name in names}


def run(
  command_fn: Callable[[Sequence[str]], None],
  check_fn: Callable[[], None] = lambda: None,
  *,
  required: Sequence[str] = (),
  arguments: str = '',
  on_cluster: bool = False,
  extra: str = '',
  takes_study: bool = False,
):
  """Parses the command line and calls a binary's command.

  Mistakes and failures end the program with one line and status 1, SIGTERM and
  Ctrl-C with one line and status 75.

  Args:
    command_fn: called with the arguments that are no flags.
    check_fn: called first, while no library and no device is waited for; raises
      ValueError where flags are not legal together.
    required: names of flags that must be given.
    arguments: what the arguments are, e.g. 'run directories'; '' for none.
    on_cluster: whether several processes may share the work; they find one
      another, and the log is set up, before `command_fn` is called.
    extra: of `EXTRAS`, the binary's own, named first where a module is missing
      that several bring.
    takes_study: whether --config is a study, not a recipe.
  """

  def main(argv):
    if len(argv) > 1 and not arguments:
      sys.exit(f'Error: unexpected arguments: {" ".join(argv[1:])}.')
    # Before anything imports JAX, which reads the environment then.
    compilations.keep_compilations()
    try:
      with stopping.stop_on_signals():
        check_fn()
        if on_cluster:
          cluster.initialize()
          console.configure()
          cluster.stop_together()
          _check_agreement()
          cluster.connect_devices()
        command_fn(argv[1:])
    except stopping.Stopped:
      cluster.leave_stopped(tell=True)
    except SystemExit as error:
      if error.code == stopping.EXIT_STATUS:  # of training, which has saved
        cluster.leave_stopped(tell=False)
      raise
    except ModuleNotFoundError as error:
      _name_extra(error.name or '', extra)
      raise
    except cluster.Disagreement as error:
      cluster.leave()
      console.fail(error)
    except (ValueError, OSError, FloatingPointError) as error:
      console.fail(error)
    except Exception as error:
      reason = storage.reason_of_bucket(error)
      if not reason:
        raise
      console.fail(
        OSError(
          f'A bucket did not do what was asked: {reason}. {storage.REMEDY}. What '
          'was written is kept: run the same command again to continue.'
        )
      )

  if on_cluster:
    cluster.define_flags()
  flags.mark_flags_as_required(required)
  app.run(
    main,
    flags_parser=functools.partial(
      command_line.parse_flags, takes_study=takes_study
    ),
  )


def _name_extra(module: str, extra: str):
  """Ends the program with the extra that brings a module; returns without one."""
  module = module.partition('.')[0]
  own = [extra] if extra else []
  missing = [e for e in (*own, *EXTRAS) if module in EXTRAS[e]]
  if missing:
    sys.exit(
      f'Error: this needs {module}: pip install -e .[{missing[0]}] (in the '
      'checkout).'
    )


# Flags that differ from process to process, or from host to host; and the
# configuration, which training compares field by field.
_OWN_FLAGS = (
  'config',
  'coordinator',
  'data_dir',
  'num_processes',
  'process_id',
)


def _check_agreement():
  """Refuses processes of other commands, code or libraries than the first's."""
  from lossbench.runs import provenance

  args = flags.FLAGS
  given = {
    f'--{flag.name}': flag.value
    for flag in args.get_key_flags_for_module(sys.argv[0])
    if flag.name.partition('.')[0] not in _OWN_FLAGS
  }
  cluster.check_agreement(
    {
      'the program': pathlib.Path(sys.argv[0]).name,
      **given,
      'code': provenance.code_fingerprint(),
      **provenance.library_versions(),
    }
  )
