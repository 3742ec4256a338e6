"""The paper's central claim: what separates classes more transfers less."""

from typing import NamedTuple

from matplotlib.figure import Figure

from lossbench.report import display, looks, statistics
from lossbench.report.bootstrap import Sample
from lossbench.report.correlation import MIN_OBJECTIVES, rank_correlation
from lossbench.report.figures import lines
from lossbench.report.figures.drawing import Drawing, describe_sizes
from lossbench.report.looks import Key
from lossbench.report.records import (
  NEIGHBOURS,
  NotRun,
  StudyRecords,
)
from lossbench.report.samples import Read, mean_samples, samples_of
from lossbench.report.tables.columns import target_label, targets


class _Panel(NamedTuple):
  """Accuracy on one data set by one protocol."""

  row: str
  column: str
  samples: dict[Key, Sample]


def _readers(study, group) -> dict[str, dict[str, tuple[Read, bool]]]:
  """Protocol -> data set -> (reader, whether it is the runs' own task)."""
  own = study.runs_of(group)[0].dataset
  found = {}
  for title, protocol in (('linear', ''), ('k nearest neighbours', NEIGHBOURS)):
    found[title] = {
      target_label(study, group, target): (
        lambda run, name=target.name, protocol=protocol: run.transferred(
          name, protocol
        ),
        target.dataset == own,
      )
      for target in targets(study, group)
    }
  datasets = {d: None for run in study.runs_of(group) for d in run.finetune}
  found['fine-tuned'] = {
    d: (lambda run, d=d: run.finetuned.get(d), False) for d in datasets
  }
  return found


def _panels(study: StudyRecords, group: str) -> list[_Panel]:
  """A panel for each data set, before these their mean where there are several."""
  panels = []
  for column, readers in _readers(study, group).items():
    of_column, others = [], []
    for row, (read_fn, is_own) in readers.items():
      samples = samples_of(study, group, read_fn, study.keys(group))
      if samples:
        of_column.append(_Panel(row, column, samples))
        if not is_own:
          others.append(samples)
    if len(others) > 1:
      mean = mean_samples(others)
      of_column.insert(0, _Panel('mean over data sets', column, mean))
    panels += of_column
  return panels


def _draw_panel(study, axes, x: dict[Key, Sample], panel: _Panel):
  keys = [key for key in x if key in panel.samples]
  for key in keys:
    (separation, x_error), (accuracy, y_error) = (
      statistics.mean_and_standard_error(of[key].values)
      for of in (x, panel.samples)
    )
    look = study.look(key)
    axes.errorbar(
      separation,
      display.percent(accuracy),
      xerr=x_error or 0,
      yerr=display.percent(y_error or 0),
      color=look.color,
      marker=look.marker,
      linestyle='none',
      capsize=2,
      label=looks.label(key),
    )
  text = f'no rank correlation of {len(keys)} objectives'
  if len(keys) >= MIN_OBJECTIVES:
    rho, interval = rank_correlation(
      *([of[key] for key in keys] for of in (x, panel.samples))
    )
    text = f'ρ = {rho:+.2f} (single seeds)'
    if interval:
      text = 'ρ = {:+.2f} [{:+.2f}, {:+.2f}]'.format(rho, *interval)
  axes.set_title(f'{panel.row}, {panel.column}\n{text}', fontsize='small')
  axes.grid(alpha=0.3)


def draw(study: StudyRecords, group: str) -> Drawing:
  """A row for each data set, a column for each way to use the features."""
  panels = _panels(study, group)
  x = samples_of(
    study,
    group,
    lambda run: run.measured(
      'class_separation', endpoint='features', training=True
    ),
    study.keys(group),
  )
  if not panels:
    raise NotRun(
      'not run: this needs transfers or fine-tuning of a group '
      f'(transfer=(...), finetune=(...) in {study.config})'
    )
  if not x:
    raise NotRun(study.how_to_measure_training(group))
  rows, columns = (
    list(dict.fromkeys(getattr(panel, name) for panel in panels))
    for name in ('row', 'column')
  )
  figure = Figure(
    figsize=(2.2 + 4.2 * len(columns), 3.4 * len(rows)), layout='constrained'
  )
  grid = figure.subplots(len(rows), len(columns), squeeze=False)
  for axes in grid.ravel():
    axes.set_axis_off()  # until it is drawn
  for panel in panels:
    axes = grid[rows.index(panel.row), columns.index(panel.column)]
    axes.set_axis_on()
    _draw_panel(study, axes, x, panel)
    axes.set_xlabel('class separation (R²), training', fontsize='small')
    axes.set_ylabel('accuracy (%)', fontsize='small')
  first = panels[0]
  lines.add_legend(
    figure, grid[rows.index(first.row), columns.index(first.column)]
  )
  keys = [key for key, sample in x.items() for _ in sample.values]
  return Drawing(figure, describe_sizes(keys, ()))
