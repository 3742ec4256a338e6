"""study.json: what there is to be, for reports, which read nothing else of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

import lossbench
from lossbench.runs.directory import read_json, write_json
from lossbench.runs.stored import StoredCheckpoint
from lossbench.study.plan import PlannedRun, Study


def _run_json(
  study: Study, run: PlannedRun, config, wanted: StoredCheckpoint | None
) -> dict[str, Any]:
  return {
    'name': run.name,
    'group': run.group,
    'recipe': run.recipe,
    'objective': run.objective,
    'settings': run.settings,
    'varied': list(run.varied),
    'seed': run.seed,
    'model': run.config.model.name,
    'stop_epoch_from': run.stop_epoch_from,
    'dataset': run.config.dataset,
    'test_split': run.test_split,
    'transfer': [
      {'name': str(target), **dataclasses.asdict(target)}
      for target in run.transfer
    ],
    'finetune': list(run.finetune.datasets),
    'step': run.step,
    'wanted': wanted
    and {
      'step': wanted.step,
      'checkpoint': wanted.fingerprint,
      'compute_dtype': run.config.compute_dtype,
    },
    'evaluate': run.evaluate,
    'commands': study.commands(run, config),
  }


def write_study(
  study: Study,
  configs: Mapping[str, ml_collections.ConfigDict | None] | None = None,
  wanted: Mapping[str, StoredCheckpoint | None] | None = None,
):
  """Writes study.json, from which reports know what there should be.

  Args:
    study: to be described.
    configs: run -> its final configuration, if it is known.
    wanted: run -> the checkpoint to measure, if it is known.

  Raises:
    ValueError: if the directory holds another study, or its study.json is
      damaged.
    OSError: if it cannot be written to.
  """
  path = study.workdir / 'study.json'
  if path.exists():
    try:
      found = read_json(path)['name']
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'{path} is damaged: {error!r}. If the directory is that of '
        f'{study.name!r}, delete the file, and it is written anew.'
      ) from error
    if found != study.name:
      raise ValueError(
        f'{study.workdir} holds the study {found!r}, not {study.name!r}. Choose '
        'another --workdir.'
      )
  elif (study.workdir / 'config.json').exists():
    raise ValueError(
      f'{study.workdir} is a run directory. Choose another --workdir.'
    )
  try:
    study.workdir.mkdir(parents=True, exist_ok=True)
    write_json(
      path,
      {
        'name': study.name,
        'title': study.title,
        'lossbench_version': lossbench.__version__,
        'config': study.config_file,
        'overrides': list(study.overrides),
        'runs': [
          _run_json(
            study,
            run,
            (configs or {}).get(run.name),
            (wanted or {}).get(run.name),
          )
          for run in study.runs
        ],
        'comparisons': [
          {
            'name': comparison.name,
            'runs': list(comparison.runs),
            'command': study.comparison_command(comparison),
          }
          for comparison in study.comparisons
        ],
      },
    )
  except OSError as error:
    raise OSError(
      f'--workdir={study.workdir} cannot be written to: {error.strerror}. '
      'Choose a directory that you may write to.'
    ) from error
