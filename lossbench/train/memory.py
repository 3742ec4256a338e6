"""Whether runs, each alone on a device, find enough memory there."""

import tempfile
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from lossbench import build
from lossbench.runs.directory import RunDirectory
from lossbench.runtime import devices
from lossbench.train.loop import build_run, step_arguments
from lossbench.train.program import STEP_FIELDS

# Allocators do not fill a memory to its last byte.
_USABLE = 0.9
# What the memory of a run depends on; of objectives it hardly does.
_FIELDS = (
  *STEP_FIELDS,
  'batch_size',
  'dataset',
  'ema_decay',
  'mixup_alpha',
  'num_holdout',
)


def device_memory() -> int | None:
  """Bytes of a device that programs may use; None if it does not tell.

  CPUs do not: their memory is the machine's.
  """
  stats = devices.local()[0].memory_stats() or {}
  return stats.get('bytes_limit')


def memory_needed(config: ml_collections.ConfigDict) -> int:
  """Bytes that a training step needs, by XLA's account of the compiled program.

  Its state, batch and resident data are among them, and the copy of a state that
  is saved while the next steps are taken.

  Raises:
    ValueError, OSError: as `train.loop.train`, where it cannot be built.
  """
  config = config.copy_and_resolve_references()
  # Neither changes a shape, and both would be looked for.
  config.update({'init_from': '', 'init_step': 'best', 'on_bad_image': 'raise'})
  with tempfile.TemporaryDirectory() as directory:
    run = build_run(config, RunDirectory(directory))
  program = run.train_step.lower(*step_arguments(run)).compile()
  found = program.memory_analysis()
  saved = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(run.state))
  return (
    saved
    + found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    + found.generated_code_size_in_bytes
    - found.alias_size_in_bytes
  )


def fit_one_device(configs: Sequence[ml_collections.ConfigDict]) -> bool:
  """Whether each of the runs fits a device by itself, beside others.

  Not if it wants several, or the profiler, of which there is one. Compiles a
  step of every kind, unless devices do not tell their memory and are taken to be
  large enough. What cannot be built, its run will report.
  """
  if any(c.batch_norm_group > 1 or c.profile_steps for c in configs):
    return False
  memory = device_memory()
  if memory is None:
    return True
  kinds = {build.pack_fields(config, _FIELDS): config for config in configs}
  with devices.only(devices.local()[0]):
    for config in kinds.values():
      try:
        if memory_needed(config) > _USABLE * memory:
          return False
      except (OSError, ValueError):
        continue
  return True
