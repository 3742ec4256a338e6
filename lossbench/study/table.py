"""What a person sees of a study while it runs: a live table, or lines."""

import collections
import statistics
import time
from collections.abc import Sequence

import rich.console
import rich.live
import rich.table
import rich.text

from lossbench.runtime.progress import format_duration
from lossbench.study.plan import TRAIN, PlannedComparison, Study
from lossbench.study.pool import Event
from lossbench.study.states import (
  RunState,
  comparison_path,
  final_configs,
  is_compared,
  read_state,
)

_COLORS = {'done': 'green', 'failed': 'red', 'running': 'cyan'}


def _kind(state: RunState) -> str:
  if state.error:
    return 'failed'
  return 'done' if state.done else 'waiting'


class StudyTable:
  """Counts, stages and time left; a live table on terminals, lines elsewhere.

  Args:
    study: that runs.
    states: of its runs when it starts, by name.
    num_comparisons: that are to be made.
    num_workers: that share the work.
    num_trained_at_once: by each, on devices of their own.
    console: to print on.
    clock: seconds, monotonic.
  """

  def __init__(
    self,
    study: Study,
    states: dict[str, RunState],
    *,
    num_comparisons: int,
    num_workers: int,
    num_trained_at_once: int = 1,
    console: rich.console.Console,
    clock=time.monotonic,
  ):
    self._study = study
    self._rows = {
      run.name: (
        run.group,
        ','.join(filter(None, [run.objective, run.variant])),
      )
      for run in study.runs
    }
    self._kinds = {name: _kind(state) for name, state in states.items()}
    self._left = {
      name: list(state.missing)
      for name, state in states.items()
      if state.missing
    }
    self._num_comparisons = num_comparisons
    self._num_workers = max(1, num_workers)
    self._num_trained = num_trained_at_once
    self._console = console
    self._clock = clock
    self._began = clock()
    self._active: dict[int, Event] = {}
    self._stage_began: dict[int, float] = {}
    self._secs: dict[str, list[float]] = collections.defaultdict(list)
    self._live = rich.live.Live(
      console=console, get_renderable=self.render, refresh_per_second=2
    )

  def __enter__(self):
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *exc_info):
    if self._console.is_terminal:
      self._live.stop()

  def update(self, event: Event):
    """Takes note of an event; off terminals prints what ended."""
    before = self._active.get(event.worker)
    now = self._clock()
    if before is None or before[:3] != event[:3]:
      self._end_stage(event.worker, now)
      self._stage_began[event.worker] = now
    if event.stage:
      self._active[event.worker] = event
      if event.task in self._kinds:
        self._kinds[event.task] = 'running'
      return
    self._active.pop(event.worker, None)
    outcome = 'done'
    if event.task not in self._kinds:
      self._num_comparisons -= 1
    elif event.more:
      self._kinds[event.task], outcome = 'waiting', f'{before.stage} done'
    else:
      self._kinds[event.task] = 'failed' if event.text else 'done'
      self._left.pop(event.task, None)
    if not self._console.is_terminal:
      secs = format_duration(now - self._began)
      self._console.print(
        f'{secs:>6}  {event.task}: {event.text or outcome}  {self._summary()}',
        highlight=False,
        soft_wrap=True,
      )

  def _end_stage(self, worker: int, now: float):
    done = self._active.get(worker)
    if done is None:
      return
    self._secs[done.stage].append(now - self._stage_began[worker])
    stages = self._left.get(done.task, [])
    if done.stage in stages:
      stages.remove(done.stage)

  def _summary(self) -> str:
    counts = collections.Counter(self._kinds.values())
    failed = f', {counts["failed"]} failed' if counts['failed'] else ''
    return f'[{counts["done"]}/{len(self._kinds)} runs{failed}, {self.eta()}]'

  def eta(self) -> str:
    """'ETA 3m10s', from the median time of each stage so far."""
    left = 0.0
    at_once = {TRAIN: self._num_trained}
    stages = [stage for names in self._left.values() for stage in names]
    for stage in stages + ['compare'] * self._num_comparisons:
      if stage in self._secs:
        left += statistics.median(self._secs[stage]) / at_once.get(stage, 1)
      elif not self._secs:
        return 'ETA ?'
      else:  # not seen yet: as long as stages take that were
        left += statistics.median(map(statistics.median, self._secs.values()))
    return f'ETA {format_duration(left / self._num_workers)}'

  def render(self) -> rich.table.Table:
    """The table as it is now."""
    table = rich.table.Table(
      title=f'{self._study.title}  {self._summary()}', title_justify='left'
    )
    for column in ('group', 'objective', 'seeds', 'now'):
      table.add_column(column, overflow='ellipsis', no_wrap=True)
    cells = collections.defaultdict(list)
    for name, row in self._rows.items():
      cells[row].append(name)
    working = {event.task: event for event in self._active.values()}
    for row, names in cells.items():
      marks = {'done': '●', 'failed': '✗', 'running': '◐', 'waiting': '·'}
      kinds = [self._kinds[name] for name in names if name in self._kinds]
      seeds = rich.text.Text.assemble(
        *[(marks[kind], _COLORS.get(kind, 'dim')) for kind in kinds]
      )
      now = ''
      for name in names:
        if name in working:
          now = f'{working[name].stage} {working[name].text}'
      table.add_row(*row, seeds, now)
    for name, event in working.items():
      if name not in self._rows:
        table.add_row(name, '', '', f'{event.stage} {event.text}')
    return table


def print_states(study: Study, runs, output: rich.console.Console):
  """Prints every run and comparison with its state: --list."""
  table = rich.table.Table(title=study.title, title_justify='left')
  for column in ('run', 'steps', 'state'):
    table.add_column(column, overflow='fold')
  for run in runs:
    state = read_state(study, run)
    num_steps = '?' if state.num_steps is None else state.num_steps
    steps = f'{state.step}/{num_steps}'
    table.add_row(run.name, steps, state.describe())
  for comparison in study.comparisons:
    done = is_compared(study, comparison)
    table.add_row(
      str(comparison_path(study, comparison.name).relative_to(study.workdir)),
      f'{len(comparison.runs)} runs',
      'done' if done else 'waiting',
    )
  output.print(table)


def print_errors(errors: dict[str, str], output: rich.console.Console):
  """Prints what failed, and where to read more."""
  for name, error in errors.items():
    output.print(f'FAILED {name}: {error}', style='red', soft_wrap=True)


def print_commands(
  study: Study,
  states: dict[str, RunState],
  comparisons: Sequence[PlannedComparison],
):
  """Prints the commands of everything that is missing, one a line."""
  configs = final_configs(study)
  for run in study.runs:
    if run.name in states:
      commands = study.commands(run, configs[run.name])
      for stage in states[run.name].missing:
        print(commands[stage])
  for comparison in comparisons:
    print(study.comparison_command(comparison))
