"""A format of tests: a small network of ours in an .npz, under its own names."""

import functools
import pathlib

import numpy as np
from flax import traverse_util

from configs import digits_cnn
from lossbench.interop import formats
from lossbench.train import program
from lossbench.train.initialization import initial_state

WIDTH = 2
FIELDS = {'num_holdout': 0, 'model.name': 'digits_cnn', 'model.width': WIDTH}


class Arrays(formats.Format):
  """Reads what `write` wrote; with `add` it names one more array."""

  def open_source(self, path, *, objective, seed):
    """See `Format`; the seed is only looked at."""
    if not pathlib.Path(path).is_file():
      raise FileNotFoundError(f'There is no checkpoint --source={path}.')
    stored = np.load(path)
    assert stored['seed'] == seed
    names = [name for name in stored.files if name != 'seed']
    return formats.Source(
      recipe='digits_cnn',
      objective=objective,
      fields=FIELDS,
      shapes={name: stored[name].shape for name in names},
      origin_fn=formats.Origin,
      read_fn=stored.__getitem__,
      about={'author': 'somebody'},
    )


FORMAT = Arrays(
  'arrays', module='', options={'objective': 'any', 'seed': 'any'}
)


@functools.cache
def _variables(objective, seed):
  config = digits_cnn.get_config(objective)
  config.model.width, config.seed = WIDTH, seed
  return initial_state(
    config, program.build_step_hparams(config)
  ).eval_variables


def arrays(objective='softmax', seed=0):
  """Path -> array of a network of random weights."""
  return traverse_util.flatten_dict(_variables(objective, seed), sep='/')


def write(path, objective='softmax', seed=0, **changes):
  """Writes a checkpoint; a change of None takes an array out."""
  found = arrays(objective, seed) | changes
  found = {name: array for name, array in found.items() if array is not None}
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, seed=seed, **found)
  return str(path)
