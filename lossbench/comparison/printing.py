"""What a person sees of a comparison."""

from typing import Any

from rich import table as rich_table

from lossbench.runtime import console

_MAX_PRINTED = 12  # runs whose matrix still fits on a screen


def _print_matrix(output, title, names, matrix):
  table = rich_table.Table(title=title, title_justify='left')
  table.add_column('')
  for name in names:
    table.add_column(name, justify='right', overflow='fold')
  for name, row in zip(names, matrix, strict=True):
    table.add_row(
      name, *['-' if value is None else f'{value:.4f}' for value in row]
    )
  output.print(table)


def _print_note(output, text):
  output.print(f'Note: {text}', style='dim', highlight=False)


def print_tables(result: dict[str, Any]):
  """Prints agreement of runs, if they are few, and ensembles of objectives."""
  output = console.output()
  runs = result['runs']
  if len(runs) <= _MAX_PRINTED:
    names = [f'{run["objective"]} {run["seed"]}' for run in runs]
    same = result['agreement']['same_top1']
    _print_matrix(output, 'same top-1 prediction', names, same)
    features = result.get('cka', {}).get('features')
    if features:
      title = 'linear CKA of features'
      _print_matrix(output, title, names, features['linear_cka'])
  ensembles = result['ensembles']
  _print_matrix(
    output,
    'top-1 accuracy of ensembles (diagonal: of the seeds of one objective)',
    ensembles['objectives'],
    ensembles['top1_accuracy'],
  )
  if len(ensembles['objectives']) > 1 and 1 in ensembles['num_members']:
    _print_note(
      output,
      'of one seed alone the diagonal is that run, and mixtures with it have two '
      'members.',
    )
  for note in result.get('notes', []):
    _print_note(output, note)
