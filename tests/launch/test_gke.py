"""Manifests: structure, names, and what their scripts do."""

import json
import math
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch.gke import manifests
from launch.gke.__main__ import study_job_sets
from launch.gke.slices import SLICES, get_slice
from lossbench.study import states
from lossbench.train.preemption import EXIT_STATUS

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = 'python main.py --config=configs/imagenet_resnet50.py:sigmoid'


def _target(tpu='v5e-64', **fields):
  return manifests.Target(tpu=get_slice(tpu), image='image:1', **fields)


@pytest.mark.parametrize(
  ('name', 'topology', 'chips_per_host', 'num_hosts'),
  [
    # From Google's table of TPU slices in GKE.
    ('v3-32', '4x4', 4, 4),
    ('v4-8', '2x2x1', 4, 1),
    ('v5e-4', '2x2', 4, 1),
    ('v6e-4', '2x2', 4, 1),
    ('v4-32', '2x2x4', 4, 4),
    ('v5e-16', '4x4', 4, 4),
    ('v5e-64', '8x8', 4, 16),
    ('v6e-256', '16x16', 4, 64),
  ],
)
def test_slices(name, topology, chips_per_host, num_hosts):
  tpu = get_slice(name)
  assert tpu.topology == topology
  assert (tpu.chips_per_host, tpu.num_hosts) == (chips_per_host, num_hosts)


@pytest.mark.parametrize('tpu', SLICES.values(), ids=lambda tpu: tpu.name)
def test_hosts_make_up_the_topology(tpu):
  chips = math.prod(map(int, tpu.topology.split('x')))
  assert tpu.chips_per_host * tpu.num_hosts == chips


def test_unknown_slice():
  with pytest.raises(ValueError, match=r"Unknown TPU 'v5-64'. Known: v3-32"):
    get_slice('v5-64')


def test_one_run_is_one_queued_slice():
  job_set = manifests.job_set('r50/Sigmoid,a=0.1', [COMMAND], _target())
  # Kueue suspends it; said here, applying again would stop what runs.
  assert 'suspend' not in job_set['spec']
  labels = job_set['metadata']['labels']
  assert labels['kueue.x-k8s.io/queue-name'] == 'lossbench'
  [replicated] = job_set['spec']['replicatedJobs']
  job = replicated['template']['spec']
  assert job['parallelism'] == job['completions'] == 16
  assert job['completionMode'] == 'Indexed'
  pod = job['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '8x8',
  }
  [container] = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert COMMAND in container['command'][-1]
  assert pod['restartPolicy'] == 'Never'  # as podFailurePolicy demands


def test_preemption_restarts_without_counting():
  assert manifests.PREEMPTED == EXIT_STATUS
  spec = manifests.job_set('a', [COMMAND], _target(max_restarts=2))['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  exit_rule, disruption_rule = job['podFailurePolicy']['rules']
  assert exit_rule['onExitCodes']['values'] == [75]
  assert disruption_rule['onPodConditions'][0]['type'] == 'DisruptionTarget'
  assert spec['failurePolicy'] == {
    'maxRestarts': 2,
    'rules': [
      {
        'name': 'preempted',
        'action': 'RestartJobSetAndIgnoreMaxRestarts',
        'onJobFailureReasons': ['PodFailurePolicy'],
      }
    ],
  }


def test_spot_and_accounts():
  target = _target(spot=True, service_account='trainer', priority='high')
  job_set = manifests.job_set('a', [COMMAND], target)
  pod = job_set['spec']['replicatedJobs'][0]['template']['spec']['template']
  assert pod['spec']['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert len(pod['spec']['tolerations']) == 2
  assert pod['spec']['serviceAccountName'] == 'trainer'
  labels = job_set['metadata']['labels']
  assert labels['kueue.x-k8s.io/priority-class'] == 'high'


@pytest.mark.parametrize(
  'text',
  [
    'digits/digits_cnn/sigmoid/seed0',
    'A' * 200,
    '50 epochs, τ = 0.05',
    '---',
  ],
)
def test_names_are_kubernetes_names(text):
  name = manifests.job_name(text)
  assert re.fullmatch('[a-z]([-a-z0-9]*[a-z0-9])?', name)
  assert len(name) <= 40
  assert name != manifests.job_name(text + 'x')


def test_a_study_is_one_job_set_a_run(monkeypatch):
  monkeypatch.chdir(ROOT)
  found = study_job_sets(
    'configs/studies/digit_pairs.py',
    workdir='gs://bucket/pairs',
    data_dir='gs://bucket/tfds',
    only=[],
    target=_target('v5e-8'),
  )
  assert len(found) == 27
  assert len({job_set['metadata']['name'] for job_set in found}) == 27
  last = json.dumps(found[-1])
  assert (
    '--workdir=gs://bucket/pairs/runs/digit_pairs_cnn/squared_error' in last
  )
  assert '--config.data_dir=gs://bucket/tfds' in last
  script_order = [
    last.index(verb) for verb in ('main.py', 'evaluate', 'transfer')
  ]
  assert script_order == sorted(script_order)


def test_a_group_is_one_program_of_a_device_a_run(monkeypatch):
  """Which the study's own command takes."""
  monkeypatch.chdir(ROOT)

  def launch(tpu, runs_per_program):
    return study_job_sets(
      'configs/studies/digit_pairs.py',
      workdir='gs://bucket/pairs',
      data_dir='gs://bucket/tfds',
      only=['digit_pairs_cnn/'],
      target=_target(tpu),
      runs_per_program=runs_per_program,
    )

  found = launch('v5e-4', 4)
  names = []
  for job_set in found:
    [replicated] = job_set['spec']['replicatedJobs']
    pod = replicated['template']['spec']['template']['spec']
    [command] = [
      line.removeprefix('run ')
      for line in pod['containers'][0]['command'][-1].splitlines()
      if line.startswith('run python')
    ]
    words = shlex.split(command)
    assert words[:3] == ['python', '-m', 'lossbench.study']
    given = dict(word.split('=', 1) for word in words[3:])
    assert given.pop('--workdir') == 'gs://bucket/pairs'
    assert given.pop('--config') == 'configs/studies/digit_pairs.py'
    assert given.pop('--config.data_dir') == 'gs://bucket/tfds'
    assert given.pop('--runs_per_program') == '4'
    names.append(given.pop('--runs').split(','))
    assert not given
  assert [len(group) for group in names] == [4, 4, 4, 4, 4, 4, 3]
  assert len({name for group in names for name in group}) == 27
  assert len({job_set['metadata']['name'] for job_set in found}) == 7
  with pytest.raises(ValueError, match=r'one host, but v5e-8 has 2. .*v5e-4'):
    launch('v5e-8', 4)
  with pytest.raises(
    ValueError, match='=5 is more than the 4 devices of v5e-4'
  ):
    launch('v5e-4', 5)


def test_final_runs_are_launched_when_their_stop_epoch_is_known(
  monkeypatch, tmp_path
):
  monkeypatch.chdir(ROOT)

  def launch():
    return study_job_sets(
      'configs/studies/paper.py',
      workdir=str(tmp_path),
      data_dir='',
      only=['imagenet_resnet50/'],
      target=_target(),
    )

  with pytest.raises(ValueError, match='are not all trained in'):
    launch()

  def resolved(study, run):
    del study
    config = run.config.copy_and_resolve_references()
    config.stop_epoch = 123.0
    return config

  monkeypatch.setattr(states, 'resolve_config', resolved)
  found = launch()
  assert len(found) == 72
  for job_set in found:
    assert '--config.stop_epoch=123' in json.dumps(job_set)


def test_queues_share_out_whole_slices():
  flavor, cluster_queue, local_queue = manifests.queues(_target(), num_slices=3)
  [group] = cluster_queue['spec']['resourceGroups']
  [offered] = group['flavors']
  assert offered['name'] == flavor['metadata']['name'] == 'v5e-64'
  assert offered['resources'][0]['nominalQuota'] == 3 * 64
  assert local_queue['spec']['clusterQueue'] == 'tpus'


def _bash(commands, tmp_path):
  script = manifests._script(commands)
  return subprocess.Popen(
    ['bash', '-euo', 'pipefail', '-c', script],
    cwd=tmp_path,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_scripts_stop_at_the_first_failure(tmp_path):
  process = _bash(['echo one', "sh -c 'exit 3'", 'echo two'], tmp_path)
  assert process.communicate(timeout=20)[0] == 'one\n'
  assert process.returncode == 3


def test_sigterm_reaches_the_command_and_its_status_comes_back(tmp_path):
  program = (
    'import pathlib, signal, sys, time; '
    'signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)));'
    " pathlib.Path('ready').touch(); time.sleep(30)"
  )
  process = _bash([f'{sys.executable} -c "{program}"', 'echo two'], tmp_path)
  while not (tmp_path / 'ready').exists():
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  assert process.communicate(timeout=20)[0] == ''
  assert process.returncode == 75


def _gke(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'launch.gke', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command():
  result = _gke(
    '--tpu=v5e-64', '--image=image:1', '--name=r50', '--', *COMMAND.split()
  )
  assert result.returncode == 0, result.stderr
  assert json.loads(result.stdout)['items'][0]['kind'] == 'JobSet'
  for arguments, message in (
    (['--tpu=v5e-63'], 'Unknown TPU'),
    (['--tpu=v5e-64'], 'Give --image=IMAGE'),
    (['--tpu=v5e-64', '--image=i'], 'Give --study=FILE'),
    (
      ['--tpu=v5e-64', '--image=i', '--study=configs/studies/digits.py'],
      '--study needs --workdir',
    ),
    (
      [
        '--tpu=v5e-64',
        '--image=i',
        '--study=configs/studies/digits.py',
        '--workdir=runs/local',
      ],
      '--workdir=runs/local would lie in the container',
    ),
    (
      ['--tpu=v5e-64', '--image=i', '--name=n', '--', 'x', '--workdir=r'],
      '--workdir=r would lie in the container',
    ),
    (
      ['--tpu=v5e-64', '--image=i', '--name=n', '--data_dir=gs://b', '--', 'x'],
      '--data_dir belongs to --study, and --name ignores it',
    ),
    (
      ['--tpu=v5e-64', '--queues', '--max_restarts=9'],
      '--max_restarts belongs to runs, and --queues ignores it',
    ),
  ):
    result = _gke(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(f'Error: {message}')
