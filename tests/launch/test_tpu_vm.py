"""The shell script: lint, the commands it would run, its refusals."""

import os
import pathlib
import shutil
import stat
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'launch' / 'tpu_vm.sh'
FLAGS = ('--config=configs/imagenet_resnet50.py:sigmoid', '--workdir=gs://b/r')


def _run(*arguments, **environment):
  return subprocess.run(
    [SCRIPT, *arguments],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )


@pytest.mark.skipif(
  shutil.which('shellcheck') is None, reason='shellcheck is not installed'
)
def test_shellcheck_has_nothing_to_say():
  result = subprocess.run(
    ['shellcheck', SCRIPT], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stdout


def test_dry_run_prints_every_command_in_order():
  result = _run(
    'run',
    'r50',
    '--zone=europe-west4-a',
    '--accelerator=v3-32',
    '--project=p',
    '--spot',
    '--dry-run',
    '--',
    *FLAGS,
  )
  assert result.returncode == 0, result.stderr
  commands = [
    line for line in result.stderr.splitlines() if line.startswith('+')
  ]
  verbs = [
    'queued-resources create r50 --node-id=r50 --accelerator-type=v3-32',
    'queued-resources describe r50',
    'archive',
    'tpu-vm scp',
    'tpu-vm ssh r50 --worker=all',
    'tpu-vm ssh r50 --worker=all',
    'tpu-vm ssh r50 --worker=0',
    'queued-resources delete r50 --force --quiet',
  ]
  assert len(commands) == len(verbs)
  for command, verb in zip(commands, verbs, strict=True):
    assert verb in command
    if 'gcloud' in command:
      assert command.endswith('--zone=europe-west4-a --project=p')
  assert '--spot' in commands[0]
  assert FLAGS[0] in commands[5]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['run', 'a'], 'give --zone=ZONE'),
    (['run', 'a', '--zone=z', '--dry-run'], "run needs main.py's flags"),
    (
      ['run', 'a', '--zone=z', '--dry-run', '--', *FLAGS],
      'create needs --accelerator',
    ),
    (
      ['run', 'a', '--zone=z', '--', FLAGS[0], '--workdir=runs/a'],
      'run needs --workdir=gs://',
    ),
    (['start', 'a', '--zone=z', '--dry-run'], "start needs main.py's flags"),
    (['launch', 'a', '--zone=z'], "unknown command 'launch'"),
    (['run', 'a', '--zone=z', '--sport'], "unknown option '--sport'"),
    (['run', 'a', '--zone=z', '--max-restarts=x'], 'is not a number'),
    ([], 'Usage'),
  ],
)
def test_refusals(arguments, message):
  result = _run(*arguments)
  assert result.returncode == 2
  assert message in result.stderr


# A gcloud that keeps a diary; the run is preempted once, then over.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$DIARY"
case "$*" in
  *describe*) echo ACTIVE ;;
  *scp*) [ "$FIRST" != scp ] || exit 1 ;;
  *'queued-resources create'*) [ "$FIRST" != create ] || exit 1 ;;
  *'ssh r50 --worker=0'*)
    [ "$(grep -c 'worker=0' "$DIARY")" = 1 ] || { echo 0; exit; }
    [ "$FIRST" != lost ] || exit 255
    echo "$FIRST" ;;
esac
"""


def _with_gcloud(tmp_path, first):
  gcloud = tmp_path / 'bin' / 'gcloud'
  gcloud.parent.mkdir()
  gcloud.write_text(GCLOUD)
  gcloud.chmod(gcloud.stat().st_mode | stat.S_IEXEC)
  diary = tmp_path / 'diary'
  result = _run(
    'run',
    'r50',
    '--zone=z',
    '--accelerator=v3-32',
    '--',
    *FLAGS,
    PATH=f'{gcloud.parent}:{os.environ["PATH"]}',
    DIARY=str(diary),
    POLL_SECS='0',
    FIRST=first,
  )
  return result, diary.read_text().splitlines()


@pytest.mark.parametrize('status', ['75', '134'])
def test_a_preempted_run_is_started_again(tmp_path, status):
  result, diary = _with_gcloud(tmp_path, first=status)
  assert result.returncode == 0, result.stderr
  assert 'preempted, restart 1 of 20' in result.stderr
  assert sum('queued-resources create' in line for line in diary) == 2
  assert sum('queued-resources delete' in line for line in diary) == 2
  assert 'the run is over' in result.stderr


def test_a_lost_connection_is_no_preemption(tmp_path):
  result, diary = _with_gcloud(tmp_path, first='lost')
  assert result.returncode == 0, result.stderr
  assert 'the connection is lost, the run goes on' in result.stderr
  assert sum('queued-resources create' in line for line in diary) == 1
  assert sum('worker=0' in line for line in diary) == 2


def test_a_slice_that_cannot_be_installed_is_deleted(tmp_path):
  result, diary = _with_gcloud(tmp_path, first='scp')
  assert result.returncode != 0
  assert 'queued-resources delete' in diary[-1]


def test_a_slice_of_somebody_else_is_not_deleted(tmp_path):
  result, diary = _with_gcloud(tmp_path, first='create')
  assert result.returncode != 0
  assert not any('queued-resources delete' in line for line in diary)


@pytest.mark.parametrize(
  ('accelerator', 'runtime'),
  [
    ('v3-32', 'tpu-ubuntu2204-base'),
    ('v5litepod-64', 'v2-alpha-tpuv5-lite'),
    ('v6e-16', 'v2-alpha-tpuv6e'),
  ],
)
def test_every_accelerator_has_its_runtime(accelerator, runtime):
  result = _run(
    'create', 'a', '--zone=z', f'--accelerator={accelerator}', '--dry-run'
  )
  assert f'--runtime-version={runtime} ' in result.stderr


def test_a_failed_run_is_not(tmp_path):
  result, diary = _with_gcloud(tmp_path, first='1')
  assert result.returncode == 2
  assert 'ended with status 1' in result.stderr
  assert sum('queued-resources create' in line for line in diary) == 1
  assert 'queued-resources delete' in diary[-1]  # nothing left that costs
