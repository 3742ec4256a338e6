"""A study whose runs are trained at once, each on one of four devices."""

import io
import json
import logging.handlers
import subprocess
import sys
import uuid

import pytest
import rich.console
from etils import epath

from lossbench.runtime.console import LOGGER
from lossbench.study import stages, states, table
from lossbench.study.driver import run_study
from lossbench.study.pool import Event
from tests.study.test_study import ROOT, _build, in_checkout

__all__ = ['in_checkout']  # a fixture


@pytest.fixture
def study(tiny_study_file, tmp_path):
  """Four runs of an epoch, of which the second diverges."""
  study = _build(
    tiny_study_file,
    tmp_path / 's',
    overrides=('model.width=4', 'batch_size=64', 'num_epochs=1'),
    compare=False,
    transfer=(),
  )
  study.runs[1].config.learning_rate = 1e30
  return study


def _run(study, **options):
  output = rich.console.Console(file=io.StringIO(), width=200)
  options = {'only': [], 'num_workers': 0, 'output': output} | options
  return run_study(study, **options), output.file.getvalue()


def test_all_train_at_once_and_one_that_diverges_stops_no_other(
  study, monkeypatch
):
  events = []
  update = table.StudyTable.update

  def watch(view, event):
    events.append(event)
    update(view, event)

  monkeypatch.setattr(table.StudyTable, 'update', watch)
  names = [run.name for run in study.runs]
  # The part of one job: no other run, and nobody's study.json.
  written = (study.workdir / 'study.json').read_bytes()
  assert _run(study, names=names[3:], runs_per_program='2')[0] == {}
  assert [states.read_state(study, r).done for r in study.runs] == [
    False,
    False,
    False,
    True,
  ]
  assert (study.workdir / 'study.json').read_bytes() == written
  events.clear()
  errors, said = _run(study, runs_per_program='auto')
  assert list(errors) == [names[1]]
  assert 'parameter_norm is inf at step 1' in errors[names[1]]
  begun = [e.task for e in events if (e.stage, e.text) == ('train', '')]
  ended = [e.task for e in events if not e.stage]
  assert sorted(begun) == sorted(names[:3])  # none of them twice
  assert {e.worker for e in events if e.stage == 'train'} == {0, 1, 2}
  assert ended.count(names[0]) == 2  # trained; evaluated
  assert f'{names[0]}: train done' in said
  assert '[3/4 runs, 1 failed' in said
  for run in study.runs:
    state = states.read_state(study, run)
    log = (study.path(run) / 'log.txt').read_text()
    assert str(study.path(run)) in log or run.name == names[1]
    assert not any(
      str(study.path(other)) in log for other in study.runs if other != run
    )
    if run.name == names[1]:
      assert state.describe() == f'failed: {errors[run.name]}'
    else:
      assert state.done
    starts = json.loads((study.path(run) / 'run.json').read_text())['starts']
    assert [start['devices'] for start in starts] == [1]


def test_a_size_that_evaluation_would_refuse_is_found_before(study):
  study.runs[3].config.eval_batch_size = 30
  with pytest.raises(
    ValueError, match=r'eval_batch_size=30 is not a mult.* 28'
  ):
    _run(study, runs_per_program='4')
  assert not (study.workdir / 'runs').exists()


@pytest.mark.parametrize(
  ('flags', 'line'),
  [
    (['--runs_per_program=0'], "Give a number from 1, or 'auto'."),
    (['--runs_per_program=all'], "Give a number from 1, or 'auto'."),
    (['--runs_per_program=9'], '=9 is more than the 4 device(s) of this'),
    (
      ['--runs_per_program=2', '--num_workers=2'],
      '--runs_per_program=2 and --num_workers=2 are two ways to train several',
    ),
  ],
)
def test_bad_numbers_are_one_line(tiny_study_file, tmp_path, flags, line):
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'lossbench.study',
      f'--config={tiny_study_file}',
      f'--workdir={tmp_path}/s',
      *flags,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  (found,) = result.stderr.strip().splitlines()
  assert found.startswith('Error: ')
  assert line in found


def test_time_left_knows_that_runs_are_trained_at_once(study):
  now = [0.0]
  view = table.StudyTable(
    study,
    {r.name: states.RunState(('train',), 0, None) for r in study.runs},
    num_comparisons=0,
    num_workers=0,
    num_trained_at_once=2,
    console=rich.console.Console(file=io.StringIO()),
    clock=lambda: now[0],
  )
  view.update(Event(0, study.runs[0].name, 'train', ''))
  now[0] = 10
  view.update(Event(0, study.runs[0].name, '', '', more=True))
  assert view.eta() == 'ETA 15s'  # three of ten seconds, two at a time


def test_in_a_bucket_the_log_is_that_of_the_job(bucket, capsys):
  """Every line with its run at once, and appended to the object at the end."""
  del bucket  # is there
  directory = epath.Path(f'gs://bucket/{uuid.uuid4().hex}/runs/a/seed0')
  lines = []
  for step in (7, 8):
    with stages.logged_by_runs(), stages._logged_to(directory, lines.append):
      LOGGER.info('step %d', step)
    assert capsys.readouterr().err.endswith(f' {directory} step {step}\n')
  assert lines == ['step 7', 'step 8']
  log = (directory / 'log.txt').read_text().splitlines()
  assert [line[-6:] for line in log] == lines


def test_what_no_run_logs_goes_where_it_went(monkeypatch):
  """As a signal's last line, of a thread that belongs to none."""
  handler = logging.handlers.BufferingHandler(9)
  monkeypatch.setattr(LOGGER, 'handlers', [handler])
  with stages.logged_by_runs():
    LOGGER.info('asked to stop')
  assert [record.getMessage() for record in handler.buffer] == ['asked to stop']
  assert LOGGER.handlers == [handler]
