"""A study runs whatever is missing, goes on after errors and after kills."""

import dataclasses
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import ml_collections
import numpy as np
import pytest
import rich.console
from absl import flags
from ml_collections import config_flags

from lossbench.comparison import runs as comparison_runs
from lossbench.evaluation import checkpoint as evaluation
from lossbench.probe.transfer import transfer_checkpoint
from lossbench.report import reading
from lossbench.report.__main__ import write_report
from lossbench.report.tables import TABLES, rendering
from lossbench.runs.directory import read_json, write_json
from lossbench.runtime import console
from lossbench.study import configuration, states, table
from lossbench.study import record as study_record
from lossbench.study.driver import run_study, write_study
from lossbench.study.pool import Event
from lossbench.train import loop, program
from tests.damage import change_a_digit

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
  monkeypatch.chdir(ROOT)


def _build(file, workdir, **fields):
  config = configuration.load_config_fn(str(file))()
  config.groups.tiny.update(fields)
  study = configuration.build_study(
    config, config_file=str(file), workdir=workdir
  )
  study_record.write_study(study)
  return study


def _run(study, **options):
  output = rich.console.Console(file=io.StringIO())
  options = {'only': [], 'num_workers': 0, 'output': output} | options
  return run_study(study, **options)


@pytest.fixture(scope='module')
def finished(tiny_study_file, tmp_path_factory):
  """The tiny study, done in this process."""
  os.chdir(ROOT)
  study = _build(tiny_study_file, tmp_path_factory.mktemp('study') / 's')
  assert _run(study) == {}
  return study


def _modified(study):
  return {
    path: path.stat().st_mtime_ns
    for path in study.workdir.rglob('*')
    if path.is_file()
  }


def test_everything_is_there_and_nothing_is_done_twice(finished):
  for run in finished.runs:
    state = states.read_state(finished, run)
    assert state.done
    assert state.describe() == 'done'
    assert (finished.path(run) / 'log.txt').stat().st_size
  [comparison] = finished.comparisons
  assert states.is_compared(finished, comparison)
  before = _modified(finished)
  assert _run(finished) == {}
  assert _modified(finished) == before


def test_runs_are_those_of_main(finished):
  """The configuration is what the printed command makes, field by field."""
  for run in finished.runs:
    program, script, *arguments = shlex.split(finished.commands(run)['train'])
    assert (program, script) == ('python', 'main.py')
    # As main.py defines them.
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
      'config', flag_values=values, sys_argv=[script, *arguments]
    )
    flags.DEFINE_string('workdir', None, 'Run.', flag_values=values)
    assert values([script, *arguments]) == [script]
    workdir = finished.path(run)
    assert pathlib.Path(values.workdir) == workdir
    trained = read_json(workdir / 'config.json')
    assert trained == json.loads(values.config.to_json())


def test_seeds_share_programs(finished):
  assert program._compiled_step.cache_info().hits >= 3


def test_report_of_a_real_study(finished):
  path = write_report(finished.workdir)
  assert (
    'not run'
    not in (path.parent / 'tables' / 'table_1.md')
    .read_text()
    .split('Sigmoid')[1]
    .split('\n')[0]
  )
  assert (path.parent / 'tables' / 'table_3.csv').exists()
  assert (path.parent / 'figures' / 'figure_3-tiny.png').exists()


def test_what_was_deleted_is_done_again(finished, tmp_path):
  run = finished.runs[0]
  metrics = finished.path(run) / 'eval/transfer-digits-holdout/metrics.json'
  metrics.unlink()
  state = states.read_state(finished, run)
  assert state.missing == ('transfer digits:holdout',)
  assert state.describe() == 'to transfer digits:holdout'
  moved = dataclasses.replace(
    finished, workdir=finished.workdir / '..' / finished.workdir.name
  )
  assert states.is_compared(moved, moved.comparisons[0])
  evaluation = finished.path(run) / 'eval' / 'evaluation.json'
  evaluation.write_text(evaluation.read_text()[:10])  # damaged
  assert states.read_state(finished, run).missing[0] == 'evaluate'
  assert _run(finished) == {}
  metrics = finished.path(run) / 'eval/digits-test/metrics.json'
  metrics.write_text(metrics.read_text()[:10])
  assert states.read_state(finished, run).missing[0] == 'evaluate'
  assert _run(finished) == {}
  assert states.read_state(finished, run).done


def _metrics(run, name):
  return read_json(run / 'eval' / name / 'metrics.json')


def test_a_changed_digit_is_made_again(finished):
  """It is JSON as good as any, of the checkpoint that is wanted."""
  run, [comparison] = finished.runs[0], finished.comparisons
  path = finished.path(run)
  compared = states.comparison_path(finished, comparison.name)
  for file, name, missing in [
    (
      path / 'run.json',
      'devices',
      ('train', 'evaluate', 'evaluate', 'transfer'),
    ),
    (path / 'history.json', 'nll', ('train',)),
    (path / 'eval/evaluation.json', 'step', ('evaluate',)),
    (path / 'eval/digits-test/metrics.json', 'value', ('evaluate',)),
    (path / 'eval/digits-training/metrics.json', 'value', ('evaluate',)),
    (path / 'eval/transfer-digits-holdout/metrics.json', 'n', ('transfer',)),
    (compared / 'comparison.json', 'top1_accuracy', ()),
  ]:
    whole = file.read_text()
    change_a_digit(file, name)
    found = states.read_state(finished, run).missing
    assert [stage.split()[0] for stage in found] == list(missing), file
    compared_still = file.parent.name in (
      'digits-training',
      'transfer-digits-holdout',
    )
    assert states.is_compared(finished, comparison) == compared_still
    file.write_text(whole)
  assert states.read_state(finished, run).done
  # Training once more writes what lies beside its checkpoints, and no more.
  metrics = path / 'eval/digits-test/metrics.json'
  history, written = (path / 'history.json').read_text(), metrics.stat()
  change_a_digit(path / 'history.json', 'nll')
  change_a_digit(path / 'run.json', 'devices')
  assert _run(finished) == {}
  assert (path / 'history.json').read_text() == history
  assert metrics.stat() == written


@pytest.mark.parametrize('part', ['state', 'meta'])
def test_a_damaged_checkpoint_is_trained_again(finished, part):
  """And then measured: the same numbers, though its record may be whole."""
  run = finished.runs[0]
  path = finished.path(run)
  wanted = states.read_state(finished, run).wanted
  before = _metrics(path, 'digits-test')
  checkpoint = path / 'checkpoints' / f'{wanted.step:09d}'
  for file in (checkpoint / part).rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-9])
  (path / 'eval/digits-test/metrics.json').unlink()
  for stored in path.glob('eval/digits-test/*.npz'):
    stored.unlink()
  assert _run(finished) == {}
  assert states.read_state(finished, run).wanted == wanted
  assert _metrics(path, 'digits-test') == before


def test_changes_are_refused_or_allowed_as_by_main(finished):
  """And what was allowed is recorded with the start."""
  run = finished.runs[0]
  path = finished.path(run)
  about = read_json(path / 'run.json')
  about['starts'][-1]['device_kind'] = 'another'
  write_json(path / 'run.json', about)
  (path / 'history.json').unlink()  # so that it is trained on
  errors = _run(finished)
  assert 'give --allow=device_kind, which' in errors[run.name]
  allowed = dataclasses.replace(finished, allow=('device_kind',))
  assert _run(allowed) == {}
  starts = read_json(path / 'run.json')['starts']
  assert starts[-1]['allowed'] == ['device_kind']
  assert starts[:-1] == about['starts']
  assert '--allow=device_kind' in allowed.commands(run)['train']
  assert '--allow' not in finished.commands(run)['train']


def test_a_missing_history_is_written_again(finished):
  path = finished.path(finished.runs[0]) / 'history.json'
  whole = path.read_text()
  path.unlink()
  assert states.read_state(finished, finished.runs[0]).missing == ('train',)
  assert _run(finished) == {}
  assert path.read_text() == whole


def test_a_measurement_of_another_step_is_made_again(finished):
  """What a study wants is one checkpoint; and it ends."""
  run = finished.runs[0]
  path = finished.path(run)
  wanted = states.read_state(finished, run).wanted
  names = 'digits-test', 'transfer-digits-holdout'
  before = [_metrics(path, name) for name in names]
  assert {record['step'] for record in before} == {wanted.step}
  assert {r['checkpoint'] for r in before} == {wanted.fingerprint}
  [other] = {20, 40} - {wanted.step}
  evaluation.evaluate_checkpoint(str(path), step=str(other), ood=False)
  assert states.read_state(finished, run).missing == ('evaluate',)
  transfer_checkpoint(str(path), 'digits', split='holdout', step=str(other))
  assert states.read_state(finished, run).missing == (
    'evaluate',
    'transfer digits:holdout',
  )
  assert _metrics(path, names[0])['step'] == other
  assert _run(finished) == {}
  assert [_metrics(path, name) for name in names] == before
  # Of one split alone, beside an evaluation.json of the wanted step.
  evaluation.evaluate_checkpoint(str(path), step=str(other), split='test')
  assert states.read_state(finished, run).missing == ('evaluate',)
  assert _run(finished) == {}
  assert _metrics(path, names[0]) == before[0]


@pytest.mark.parametrize(
  'change', [{'checkpoint': '00000000'}, {'compute_dtype': 'bfloat16'}]
)
def test_a_measurement_of_other_parameters_or_in_another_dtype_is_none(
  finished, change
):
  """As of a run made again, or by evaluate's --compute_dtype: of equal step."""
  run = finished.runs[0]
  path = finished.path(run)
  [comparison] = finished.comparisons
  compared = states.comparison_path(finished, comparison.name)
  for file, missing in (
    (path / 'eval/evaluation.json', ('evaluate',)),
    (path / 'eval/digits-test/metrics.json', ('evaluate',)),
    (
      path / 'eval/transfer-digits-holdout/metrics.json',
      ('transfer digits:holdout',),
    ),
  ):
    whole = file.read_text()
    write_json(file, read_json(file) | change)
    assert states.read_state(finished, run).missing == missing
    file.write_text(whole)
  file = compared / 'comparison.json'
  whole, record = file.read_text(), read_json(file)
  assert states.is_compared(finished, comparison)
  record['runs'][0] |= change
  write_json(file, record)
  assert not states.is_compared(finished, comparison)
  file.write_text(whole)


def test_representations_of_training_images_are_a_stage(finished):
  """Of the very images that the run was trained on, or of some of them."""
  run = finished.runs[0]
  metrics = _metrics(finished.path(run), 'digits-training')
  assert {m['n'] for m in metrics['metrics'] if m['name'] == 'nc1'} == {1300}
  assert metrics['num_wanted'] == 50_000
  some = dataclasses.replace(run, num_train_examples=300)
  assert states.read_state(finished, some).missing == ('evaluate training',)
  none = dataclasses.replace(run, num_train_examples=0)
  assert states.read_state(finished, none).done
  assert 'evaluate training' not in finished.commands(none)


def test_fine_tuning_is_a_stage(finished, tiny_study_file):
  tuned = _build(
    tiny_study_file,
    finished.workdir,
    finetune=('digits_high',),
    finetune_learning_rates=(0.02,),
    finetune_weight_decays=(0.0,),
    finetune_epochs=1,
    finetune_batch_size=64,
  )
  run = tuned.runs[0]
  assert states.read_state(tuned, run).missing == ('finetune digits_high',)
  assert _run(tuned, only=[run.name]) == {}
  assert states.read_state(tuned, run).done
  write_study(tuned)
  [records] = [
    r for r in reading.load_study(tuned.workdir).runs if r.name == run.name
  ]
  metrics = _metrics(tuned.path(run), 'finetune-digits_high')
  [accuracy] = [
    m['value'] for m in metrics['metrics'] if m['name'] == 'top1_accuracy'
  ]
  assert records.finetuned['digits_high'].value == accuracy
  # Another grid wants another fine-tuning, another checkpoint too.
  grid = run.finetune.grid | {'learning_rates': [0.02, 0.03]}
  finetune = dataclasses.replace(run.finetune, grid=grid)
  other = dataclasses.replace(run, finetune=finetune)
  assert states.read_state(tuned, other).missing == ('finetune digits_high',)
  path = tuned.path(run) / 'eval/finetune-digits_high/metrics.json'
  write_json(path, metrics | {'checkpoint': '00000000'})
  assert states.read_state(tuned, run).missing == ('finetune digits_high',)
  study_record.write_study(finished)


def test_transfers_without_neighbours_are_made_again(finished):
  run = finished.runs[0]
  path = finished.path(run) / 'eval/transfer-digits-holdout/metrics.json'
  whole, record = path.read_text(), read_json(path)
  metrics = [m for m in record['metrics'] if m['name'] != 'num_neighbours']
  write_json(path, record | {'metrics': metrics})
  state = states.read_state(finished, run)
  assert state.missing == ('transfer digits:holdout',)
  path.write_text(whole)


def test_half_an_evaluation_is_none(finished, monkeypatch):
  """Sets of another step may lie beside it, so evaluation.json goes first."""
  run = finished.runs[0]
  path = finished.path(run)

  def stop(*args, **kwargs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(evaluation, '_evaluate_own', stop)
    with pytest.raises(KeyboardInterrupt):
      evaluation.evaluate_checkpoint(str(path), ood=False)
  assert states.read_state(finished, run).missing == ('evaluate',)
  assert _run(finished) == {}


def test_replaced_parameters_are_measured_and_compared_again(
  finished, tiny_study_file, tmp_path
):
  # A copy: what is done here must not be what other tests compare with.
  shutil.copytree(finished.workdir, tmp_path / 's')
  finished = _build(tiny_study_file, tmp_path / 's')
  run = finished.runs[1]
  path = finished.path(run)
  [comparison] = finished.comparisons
  compared = states.comparison_path(finished, comparison.name)
  before = json.loads((compared / 'comparison.json').read_text())
  names = [record['name'] for record in before['runs']]
  assert names == [r.name for r in finished.runs]
  old = states.read_state(finished, run).wanted
  config = read_json(path / 'config.json')
  shutil.rmtree(path / 'checkpoints')
  shutil.rmtree(path / 'eval')
  (path / 'config.json').unlink()
  (path / 'run.json').unlink()
  (path / 'history.json').unlink()
  other = ml_collections.ConfigDict(config | {'seed': 7})
  loop.train(other, workdir=str(path))
  (path / 'config.json').write_text(json.dumps(config))
  state = states.read_state(finished, run)
  assert state.wanted != old
  assert state.missing == (
    'evaluate',
    'evaluate training',
    'transfer digits:holdout',
  )
  # Even by hand, before the study is run again.
  evaluation.evaluate_checkpoint(str(path), ood=False)
  assert not states.is_compared(finished, comparison)
  assert _run(finished) == {}
  assert states.is_compared(finished, comparison)
  after = json.loads((compared / 'comparison.json').read_text())
  assert after['runs'][1]['checkpoint'] == state.wanted.fingerprint
  assert after['agreement'] != before['agreement']


def test_records_of_version_0_1_are_told_by_their_step(finished):
  run = finished.runs[0]
  path = finished.path(run)
  [comparison] = finished.comparisons
  compared = states.comparison_path(finished, comparison.name)
  files = {
    file: file.read_text()
    for file in (
      path / 'eval' / 'evaluation.json',
      path / 'eval' / 'digits-test' / 'metrics.json',
      path / 'eval' / 'transfer-digits-holdout' / 'metrics.json',
      compared / 'comparison.json',
    )
  }
  for file in files:
    record = read_json(file)  # without its checksum, which they lack too
    record.pop('checkpoint', None)
    for of_run in record.get('runs', []):
      del of_run['checkpoint']
      of_run['name'] = of_run['name'].rpartition('/')[2]
    file.write_text(json.dumps(record))
  assert states.read_state(finished, run).done
  # Which runs were compared it does not say.
  assert not states.is_compared(finished, comparison)
  for file, text in files.items():
    file.write_text(text)


def test_a_stage_that_leaves_no_record_is_an_error(finished, monkeypatch):
  run = finished.runs[0]
  record = finished.path(run) / 'eval' / 'evaluation.json'
  [comparison] = finished.comparisons
  compared = states.comparison_path(finished, comparison.name)
  result = compared / 'comparison.json'
  kept = {file: file.read_text() for file in (record, result)}
  for file in kept:
    file.unlink()
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, 'evaluate_checkpoint', lambda *a, **k: [])
    patch.setattr(comparison_runs, 'compare_runs', lambda *args, **kwargs: {})
    errors = _run(finished)
  assert sorted(errors) == ['tiny', run.name]
  step = states.read_state(finished, run).wanted.step
  assert f'no record of it for step {step} (checkpoint ' in errors[run.name]
  assert 'no record of the checkpoints' in errors['tiny']
  assert states.read_state(finished, run).describe().startswith('failed: eval')
  for file, text in kept.items():
    file.write_text(text)
  for path in (finished.path(run), compared):
    states.error_path(path).unlink()


def test_study_json_says_what_is_wanted(finished):
  write_study(finished)
  written = read_json(finished.workdir / 'study.json')
  for record, run in zip(written['runs'], finished.runs, strict=True):
    wanted = states.read_state(finished, run).wanted
    assert record['step'] == 'best'
    assert record['wanted'] == {
      'step': wanted.step,
      'checkpoint': wanted.fingerprint,
      'compute_dtype': 'float32',
    }
    assert record['model'] == 'digits_cnn'
    assert record['settings'].keys() == {
      override.partition('=')[0] for override in run.overrides
    }
    assert record['settings']['num_epochs'] == run.config.num_epochs
    assert record['stop_epoch_from'] == ''


def test_runs_of_another_configuration_are_refused(finished, tiny_study_file):
  states.check_runs(finished)
  changed = _build(
    tiny_study_file, finished.workdir, overrides=('model.width=8',)
  )
  study_record.write_study(finished)
  with pytest.raises(
    ValueError, match=r'model\.width: 4 there, 8 in the study'
  ):
    states.check_runs(changed)


def test_a_run_that_fails_does_not_stop_the_others(tiny_study_file, tmp_path):
  study = _build(
    tiny_study_file,
    tmp_path / 's',
    objectives=('softmax',),
    compare=False,
    transfer=(),
  )
  bad = study.path(study.runs[0])
  bad.mkdir(parents=True)
  (bad / 'config.json').write_text('{')
  (bad / 'checkpoints' / '000000001').mkdir(parents=True)
  errors = _run(study)
  assert list(errors) == ['tiny/softmax/seed0']
  assert 'not valid JSON' in errors['tiny/softmax/seed0']
  state = states.read_state(study, study.runs[0])
  assert state.describe().startswith('failed: train: ')
  assert states.read_state(study, study.runs[1]).done
  # Mended, it is tried again.
  shutil.rmtree(bad)
  assert _run(study) == {}
  assert not states.error_path(bad).exists()


def test_final_runs_stop_where_their_holdout_runs_say(
  tiny_study_file, tmp_path
):
  config = configuration.load_config_fn(str(tiny_study_file))()
  tiny = config.groups.tiny
  tiny.update({'evaluate': False, 'compare': False})
  tiny.objectives = ('sigmoid',)
  final = tiny.copy_and_resolve_references()
  final.num_seeds, final.evaluate, final.transfer = 1, True, ()
  final.overrides = (*final.overrides, 'num_holdout=0')
  final.stop_epoch_from = 'tiny'
  tiny.num_seeds = 1
  tiny.variants = (('learning_rate=1e-6',), ('learning_rate=0.2',))
  config.groups.final = final
  study = configuration.build_study(
    config, config_file='x.py', workdir=tmp_path / 's'
  )
  [run] = study.runs_of('final')
  assert states.resolve_config(study, run) is None
  assert states.read_state(study, run).describe() == 'waits for tiny'
  assert _run(study) == {}
  histories = [
    json.loads((study.path(r) / 'history.json').read_text())
    for r in study.runs_of('tiny')
  ]
  # Of the variant that is better; averages over seeds: test_early_stopping.
  worse, better = (
    [entry['top1_accuracy'] for entry in history] for history in histories
  )
  assert max(better) > max(worse)
  found = read_json(study.path(run) / 'config.json')
  assert found['stop_epoch'] == 1.0 + int(np.argmax(better))
  assert found['learning_rate'] == 0.2 != run.config.learning_rate
  states.check_runs(study)
  assert found['num_epochs'] == 2.0
  # Their features are transferred though nobody asked to evaluate them.
  for source in study.runs_of('tiny'):
    assert not (study.path(source) / 'eval' / 'evaluation.json').exists()
    metrics = _metrics(study.path(source), 'transfer-digits-holdout')
    assert metrics['num_seen_by_network'] == 0


def _start(file, workdir, *more):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'lossbench.study',
      f'--config={file}',
      f'--workdir={workdir}',
      *more,
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def _wait_for(pattern, workdir, process):
  deadline = time.monotonic() + 120
  while not list(workdir.glob(pattern)):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _worker_of(process):
  children = subprocess.run(
    ['pgrep', '-P', str(process.pid), '-f', 'spawn_main'],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(children.stdout.split()[0])


def _is_running(pid):
  found = subprocess.run(
    ['ps', '-o', 'stat=', '-p', str(pid)],
    capture_output=True,
    text=True,
    check=False,
  )
  return found.stdout.strip()[:1] not in ('', 'Z')


@pytest.mark.slow
def test_killed_twice_the_tables_are_the_same(
  tiny_study_file, finished, tmp_path
):
  workdir = tmp_path / 's'
  # The study without its worker, which ends too and has not failed.
  process = _start(tiny_study_file, workdir, '--num_workers=1')
  _wait_for('runs/tiny/softmax/seed0/checkpoints/*', workdir, process)
  second = _start(tiny_study_file, workdir)
  assert second.wait(60) == 1
  assert f'is in use by process {process.pid} on' in second.stdout.read()
  worker = _worker_of(process)
  process.kill()  # in the middle of training
  process.wait()
  while _is_running(worker):
    time.sleep(0.1)
  assert not list(workdir.rglob('error.json'))
  # A worker alone: its run is reported, and the study goes on.
  process = _start(tiny_study_file, workdir, '--num_workers=1')
  _wait_for('runs/tiny/sigmoid/seed0/checkpoints/*', workdir, process)
  os.kill(_worker_of(process), signal.SIGKILL)
  output = process.communicate(timeout=200)[0]
  assert process.returncode == 1
  assert 'the worker died with exit code -9' in output
  assert _run(_build(tiny_study_file, workdir)) == {}
  tables = [
    {
      spec.name: rendering.to_csv(spec.build(study))
      for spec in TABLES
      if spec.name in ('table_1', 'table_2', 'table_3', 'table_b3')
    }
    for study in map(reading.load_study, (finished.workdir, workdir))
  ]
  assert len(tables[0]) == 4
  assert tables[0] == tables[1]


def test_table_counts_and_estimates(finished):
  now = [0.0]
  output = rich.console.Console(width=100, record=True, file=io.StringIO())
  missing = {
    run.name: states.RunState(('train', 'evaluate'), 0, None)
    for run in finished.runs
  }
  view = table.StudyTable(
    finished,
    missing,
    num_comparisons=0,
    num_workers=1,
    console=output,
    clock=lambda: now[0],
  )
  first, second = (run.name for run in finished.runs[:2])
  view.update(Event(0, first, 'train', 'step 1'))
  assert view.eta() == 'ETA ?'
  now[0] = 10
  view.update(Event(0, first, 'evaluate', ''))
  assert view.eta() == 'ETA 1m10s'  # evaluations taken for as long
  now[0] = 14
  view.update(Event(0, first, '', ''))
  assert view.eta() == 'ETA 42s'  # three runs of 10 + 4 s
  view.update(Event(0, second, 'train', ''))
  view.update(Event(0, second, '', 'train: no disk'))
  assert view.eta() == 'ETA 18s'  # medians of 10 and 0, and 4 s
  output.print(view.render())
  text = output.export_text()
  assert '1/4 runs, 1 failed' in text
  assert '●✗' in text


def test_brackets_in_errors_are_no_markup(finished, capsys):
  error = 'train: [/data] holds no [train]'
  output = console.output()
  table.print_errors({'a/run': error}, output)
  run = finished.runs[0]
  view = table.StudyTable(
    finished,
    {run.name: states.RunState(('train',), 0, None)},
    num_comparisons=0,
    num_workers=1,
    console=output,
  )
  view.update(Event(0, run.name, 'train', '[/data] [train]'))
  output.print(view.render())
  view.update(Event(0, run.name, '', error))
  printed = capsys.readouterr().out
  assert printed.count(error) == 2
  assert '[/data] [train]' in printed


@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_missing_accelerator_is_one_line_before_anything_is_made(
  tiny_study_file, tmp_path, num_workers
):
  """The line of a training: tests/test_main.py."""
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'lossbench.study',
      f'--config={tiny_study_file}',
      f'--workdir={tmp_path}/s',
      f'--num_workers={num_workers}',
    ],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cuda'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  (line,) = result.stderr.strip().splitlines()
  assert line.startswith('Error: With JAX_PLATFORMS=cuda JAX finds no device')
  assert not list(tmp_path.iterdir())
