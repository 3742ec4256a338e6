"""Writes a run's network as files for other programs, each verified by reloading.

lossbench.safetensors   all arrays under our names, 'params/backbone/...'
model.safetensors       the same in torchvision's names and layout, where it has
                        such a network that computes the same
model.stablehlo         the program: uint8 images -> log-probabilities
config.json             architecture, preprocessing, objective, probability map
README.md               the model card
"""

import dataclasses
import json
import pathlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from lossbench import build
from lossbench.evaluation.outputs import RunOutputs
from lossbench.interop import stablehlo
from lossbench.interop.description import (
  build_description,
  reasons_against_torch,
)
from lossbench.interop.model_card import write_card
from lossbench.interop.torch_names import COUNTER, torch_names
from lossbench.objectives import Objective
from lossbench.runtime import storage

OWN, TORCH = 'lossbench.safetensors', 'model.safetensors'
PROGRAM, CONFIG, CARD = 'model.stablehlo', 'config.json', 'README.md'

# Of log-probabilities, in which a reloaded network may differ, which is compiled
# as another program: in what it computes in -> absolute and relative.
_TOLERANCES = {'float32': 1e-4, 'bfloat16': 5e-2}
# Of random images, whose numbers the program must take both.
_BATCH_SIZES = (1, 3)


@dataclasses.dataclass(frozen=True)
class Exported:
  """What was written.

  Attributes:
    path: the directory.
    num_bytes: file -> its size.
    not_torch: why there are no torchvision names; () if there are.
  """

  path: pathlib.Path
  num_bytes: dict[str, int]
  not_torch: tuple[str, ...]


def _flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  flat = traverse_util.flatten_dict(dict(variables), sep='/')
  return {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}


def build_log_probs_fn(
  config: ml_collections.ConfigDict, objective: Objective, variables: Any
) -> Callable[[jax.Array], jax.Array]:
  """Images [B, H, W, C], uint8 -> log-probabilities [B, K]."""
  classifier = build.build_classifier(config, objective)
  normalize_fn = build.build_normalize_fn(config)

  def log_probs_fn(images):
    endpoints = classifier.apply(variables, normalize_fn(images), train=False)
    return objective.log_probs(endpoints['logits'])

  return log_probs_fn


def export_run(
  workdir: str,
  *,
  output: str | None = None,
  step: str = 'best',
  compute_dtype: str | None = None,
) -> Exported:
  """Exports one checkpoint of a run.

  Args:
    workdir: of the run.
    output: directory to make; None for RUN/export.
    step: 'best', 'last' or a number.
    compute_dtype: of the program; None takes the run's.

  Raises:
    FileNotFoundError: if there is no run or checkpoint.
    ValueError: if the checkpoint is damaged, or what was written does not come
      back as it was.
    OSError: if the directory is there already, or cannot be written to.
  """
  outputs = RunOutputs(workdir, step=step, compute_dtype=compute_dtype)
  path = _check_output(output or str(outputs.run.path / 'export'))
  export = _Export(outputs)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    temporary.mkdir(parents=True)
    export.write(temporary)
    export.verify(temporary)
    temporary.rename(path)
  except OSError as error:
    raise OSError(
      f'--output={path} cannot be written: {error.strerror or error}. Choose '
      'another directory.'
    ) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  num_bytes = {file.name: file.stat().st_size for file in path.iterdir()}
  return Exported(path, num_bytes, tuple(export.not_torch))


def _check_output(output: str) -> pathlib.Path:
  storage.check_named(output)
  if storage.is_remote(output):
    raise OSError(
      f'--output={output} lies in a bucket. Give a directory on a disk.'
    )
  path = pathlib.Path(output).expanduser()
  if path.exists() or path.is_symlink():
    raise FileExistsError(
      f'{path} is there already. Remove it, or choose another --output.'
    )
  return path


class _Export:
  """The files of one checkpoint."""

  def __init__(self, outputs: RunOutputs):
    config, objective = outputs.config, outputs.objective
    self._variables = outputs.variables
    self._arrays = _flat(self._variables)
    self._tolerance = _TOLERANCES[config.compute_dtype]
    self._image_shape = build.image_shape(config)
    self._log_probs_fn = build_log_probs_fn(config, objective, self._variables)
    kernel = self._arrays['params/output_layer/kernel']
    self._description = build_description(
      config,
      objective=objective,
      num_features=kernel.shape[0],
      source={'step': outputs.step, 'checkpoint': outputs.fingerprint},
    )
    about = self._description['lossbench']
    self.not_torch = reasons_against_torch(
      about['model'],
      about['output_layer'],
      downscale=config.downscale,
      num_channels=len(config.pixel_mean),
    )
    self._card = write_card(outputs, self._description, self.not_torch)

  def _torch_arrays(self) -> dict[str, np.ndarray]:
    """Theirs, with the counters that a state dictionary has."""
    names = torch_names(self._description['architecture'])
    arrays = {
      theirs.name: theirs.to_theirs(self._arrays[path])
      for path, theirs in names.items()
    }
    for name in list(arrays):
      if name.endswith('.running_mean'):
        counter = f'{name.removesuffix("running_mean")}{COUNTER}'
        arrays[counter] = np.zeros((), np.int64)
    return arrays

  def write(self, path: pathlib.Path):
    """Writes all files into a directory."""
    from safetensors.numpy import save

    # Not its `save_file`, which makes files that only their owner may read.
    own = save(self._arrays, {'format': 'lossbench'})
    (path / OWN).write_bytes(own)
    if not self.not_torch:
      # What transformers and timm ask for.
      theirs = save(self._torch_arrays(), {'format': 'pt'})
      (path / TORCH).write_bytes(theirs)
    (path / PROGRAM).write_bytes(
      stablehlo.serialize_program(self._log_probs_fn, self._image_shape)
    )
    text = json.dumps(self._description, indent=2, sort_keys=True)
    (path / CONFIG).write_text(f'{text}\n')
    (path / CARD).write_text(self._card)

  def verify(self, path: pathlib.Path):
    """Reads all files again; raises ValueError if one is not what it was."""
    from safetensors.numpy import load_file

    own = load_file(path / OWN)
    _check_equal(own, self._arrays, path / OWN)
    if not self.not_torch:
      theirs = load_file(path / TORCH)
      names = torch_names(self._description['architecture'])
      back = {
        ours: name.to_ours(theirs[name.name]) for ours, name in names.items()
      }
      _check_equal(back, self._arrays, path / TORCH)
    written = json.loads((path / CONFIG).read_text())
    if written != json.loads(json.dumps(self._description)):
      raise ValueError(f'{path / CONFIG} is not what was written.')
    if (path / CARD).read_text() != self._card:
      raise ValueError(f'{path / CARD} is not what was written.')
    # The network as config.json and the arrays say, and as the program does.
    described = ml_collections.ConfigDict(written['lossbench']['config'])
    rebuilt_fn = jax.jit(
      build_log_probs_fn(
        described,
        build.build_objective(described),
        traverse_util.unflatten_dict(own, sep='/'),
      )
    )
    program_fn = stablehlo.load_program((path / PROGRAM).read_bytes())
    rng = np.random.default_rng(0)
    for size in _BATCH_SIZES:
      images = rng.integers(0, 256, (size, *self._image_shape), np.uint8)
      self._check_close(program_fn(images), rebuilt_fn(images), path)

  def _check_close(self, found, expected, path):
    if found.shape != expected.shape or not np.allclose(
      found, expected, atol=self._tolerance, rtol=self._tolerance
    ):
      raise ValueError(
        f'{path / PROGRAM} computes other log-probabilities than the run, by up '
        f'to {np.abs(found - expected).max():.2g}. Nothing was exported.'
      )


def _check_equal(found, expected, path):
  differing = [
    name
    for name in found.keys() | expected.keys()
    if name not in found
    or name not in expected
    or not np.array_equal(found[name], expected[name])
  ]
  if differing:
    raise ValueError(
      f'{path} does not hold what was written: {sorted(differing)[0]} differs. '
      'Nothing was exported.'
    )
