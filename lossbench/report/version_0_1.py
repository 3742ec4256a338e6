"""Records that version 0.1 left, in the present form.

It told what differs between runs in the text of commands, names and paths alone.
"""

import ast
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

# Of commands, besides what a study changes of its recipe.
_NO_SETTINGS = ('seed', 'stop_epoch', 'data_dir')
# The ends of its search for a temperature, which it took for optima.
_TEMPERATURES = (0.01, 100.0)


def _value(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def upgrade_run(
  record: Mapping[str, Any], config: Mapping[str, Any]
) -> Mapping[str, Any]:
  """A run of study.json.

  Args:
    record: as it was written.
    config: the run's config.json; {} before it has begun.
  """
  if 'recipe_file' in record:  # 'recipe' was the group
    record = {**record, 'group': record['recipe']}
    record['recipe'] = record.pop('recipe_file')
  if 'settings' in record:
    return record
  settings = {}
  for word in shlex.split(record['commands']['train']):
    field, equals, text = word.removeprefix('--config.').partition('=')
    if word.startswith('--config.') and equals and field not in _NO_SETTINGS:
      settings[field] = _value(text)
  labels = [part.partition('=')[0] for part in record['variant'].split(',')]
  transfer = []
  for name in record['transfer']:
    dataset, _, split = name.partition(':')
    transfer.append({'name': name, 'dataset': dataset, 'split': split or None})
  return {
    **record,
    'settings': settings,
    'varied': [f for f in settings if f.rpartition('.')[2] in labels],
    'model': config.get('model', {}).get('name', ''),
    'transfer': transfer,
  }


def upgrade_metric(metric: Mapping[str, Any]) -> Mapping[str, Any]:
  """A number of a metrics.json."""
  if metric['name'] != 'temperature' or metric['value'] not in _TEMPERATURES:
    return metric
  note = f'the NLL falls up to the end of the search, {metric["value"]:g}'
  return {**metric, 'value': None, 'note': f'not available: {note}'}


def _num_both_wrong(record: Mapping[str, Any]) -> list[list[int]]:
  """Counts by shares: right + right - only one right = twice both right."""
  accuracy = np.array([run['top1_accuracy'] for run in record['runs']])
  alike = np.array(record['agreement']['both_right_or_wrong'])
  both_right = (accuracy[:, None] + accuracy[None, :] - (1 - alike)) / 2
  counts = record['num_examples'] * (alike - both_right)
  return counts.round().astype(int).tolist()


def upgrade_comparison(record: Mapping[str, Any]) -> Mapping[str, Any]:
  """A comparison.json."""
  if all('group' in run for run in record['runs']):
    return record
  runs = []
  for run in record['runs']:
    name = run['path'].rpartition('/runs/')[2]
    runs.append({**run, 'name': name, 'group': name.rpartition('/')[0]})
  agreement = record['agreement']
  ensembles = record['ensembles']
  groups = list(dict.fromkeys(run['group'] for run in runs))
  if len(groups) != len(ensembles['objectives']):
    raise ValueError('its ensembles are of other groups of runs')
  return {
    **record,
    'runs': runs,
    'agreement': {**agreement, 'num_both_wrong': _num_both_wrong(record)},
    'ensembles': {**ensembles, 'objectives': groups},
  }
