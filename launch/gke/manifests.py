"""From commands to JobSets: one run is one JobSet of one slice."""

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from launch.gke.slices import TpuSlice

# What main.py exits with once it has saved; see lossbench/train/preemption.py.
PREEMPTED = 75
# SIGTERM comes this long before SIGKILL; GKE gives spot nodes less.
_GRACE_SECS = 120
_PORT = 8471


@dataclasses.dataclass(frozen=True)
class Target:
  """Where and how jobs run.

  Attributes:
    tpu: the slice of every job.
    image: with lossbench installed, its checkout the working directory.
    queue: Kueue's LocalQueue.
    namespace: of the jobs and the queue.
    service_account: of Kubernetes, that may use the bucket; '' for the default.
    spot: on spot nodes.
    max_restarts: of a job that fails by itself; preemptions do not count.
    priority: Kueue's WorkloadPriorityClass, or ''.
  """

  tpu: TpuSlice
  image: str
  queue: str = 'lossbench'
  namespace: str = 'default'
  service_account: str = ''
  spot: bool = False
  max_restarts: int = 3
  priority: str = ''


def job_name(text: str) -> str:
  """A name that Kubernetes takes, unique for a text: at most 40 characters.

  JobSet appends to it for jobs and pods, whose names have 63.
  """
  plain = re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')
  digest = hashlib.sha256(text.encode()).hexdigest()[:6]
  plain = plain if plain[:1].isalpha() else f'run-{plain}'
  return f'{plain[:33].rstrip("-")}-{digest}'


def job_set(
  name: str, commands: Sequence[str], target: Target
) -> dict[str, Any]:
  """A JobSet that runs commands one after the other on all hosts of a slice.

  Pods that exit with PREEMPTED, or are evicted with their node, are started
  again without counting as failures, and main.py resumes; other failures
  restart the whole set at most `max_restarts` times.

  Args:
    name: of the run; becomes a label and, shortened, the JobSet's name.
    commands: shell commands, the first of which fails ending the pod.
    target: where.

  Raises:
    ValueError: if there are no commands.
  """
  if not commands:
    raise ValueError(f'There are no commands to run for {name!r}.')
  short = job_name(name)
  labels = {
    'app.kubernetes.io/name': 'lossbench',
    'kueue.x-k8s.io/queue-name': target.queue,
  }
  if target.priority:
    labels['kueue.x-k8s.io/priority-class'] = target.priority
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': short,
      'namespace': target.namespace,
      'labels': labels,
      'annotations': {
        'lossbench/run': name,
        # A slice is one placement: all pods of a job on one node pool.
        'alpha.jobset.sigs.k8s.io/exclusive-topology': (
          'cloud.google.com/gke-nodepool'
        ),
      },
    },
    'spec': {
      'failurePolicy': {
        'maxRestarts': target.max_restarts,
        'rules': [
          {
            'name': 'preempted',
            'action': 'RestartJobSetAndIgnoreMaxRestarts',
            'onJobFailureReasons': ['PodFailurePolicy'],
          }
        ],
      },
      'network': {'enableDNSHostnames': True},
      'replicatedJobs': [
        {
          'name': 'slice',
          'replicas': 1,
          'template': {'spec': _job(name, short, commands, target)},
        }
      ],
    },
  }


def _job(name, short, commands, target: Target) -> dict[str, Any]:
  tpu = target.tpu
  return {
    'parallelism': tpu.num_hosts,
    'completions': tpu.num_hosts,
    'completionMode': 'Indexed',
    # A pod alone cannot rejoin the others: the set restarts as a whole.
    'backoffLimit': 0,
    'podFailurePolicy': {
      'rules': [
        {
          'action': 'FailJob',
          'onExitCodes': {
            'containerName': 'lossbench',
            'operator': 'In',
            'values': [PREEMPTED],
          },
        },
        {
          'action': 'FailJob',
          'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
        },
      ]
    },
    'template': {
      'metadata': {'annotations': {'lossbench/run': name}},
      'spec': _pod(short, commands, target),
    },
  }


def _pod(short, commands, target: Target) -> dict[str, Any]:
  tpu = target.tpu
  selector = {
    'cloud.google.com/gke-tpu-accelerator': tpu.accelerator,
    'cloud.google.com/gke-tpu-topology': tpu.topology,
  }
  tolerations = [
    {'key': 'google.com/tpu', 'operator': 'Equal', 'value': 'present',
     'effect': 'NoSchedule'}
  ]  # fmt: skip
  if target.spot:
    selector['cloud.google.com/gke-spot'] = 'true'
    tolerations.append(
      {'key': 'cloud.google.com/gke-spot', 'operator': 'Equal', 'value': 'true',
       'effect': 'NoSchedule'}
    )  # fmt: skip
  chips = {'google.com/tpu': tpu.chips_per_host}
  pod = {
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': _GRACE_SECS,
    'nodeSelector': selector,
    'tolerations': tolerations,
    'containers': [
      {
        'name': 'lossbench',
        'image': target.image,
        # exec, so that SIGTERM reaches Python.
        'command': ['bash', '-euo', 'pipefail', '-c', _script(commands)],
        'ports': [{'containerPort': _PORT}],
        'resources': {'requests': chips, 'limits': chips},
      }
    ],
  }
  if target.service_account:
    pod['serviceAccountName'] = target.service_account
  return pod


def _script(commands: Sequence[str]) -> str:
  """Commands in turn; SIGTERM is passed on to the one that runs."""
  lines = [
    'child=0',
    'trap \'[ "$child" = 0 ] || kill -TERM "$child"\' TERM',
    # The second wait gets the status after the trap has interrupted the first.
    'run() { "$@" & child=$!; local status=0; wait "$child" || status=$?; '
    'if kill -0 "$child" 2>/dev/null; then status=0; wait "$child" || status=$?; '
    'fi; child=0; return "$status"; }',
  ]
  for command in commands:
    lines.append(f'run {shlex.join(shlex.split(command))}')
  return '\n'.join(lines)


def queues(
  target: Target, *, num_slices: int, cluster_queue: str = 'tpus'
) -> list[dict[str, Any]]:
  """What an administrator applies once: Kueue's flavor and queues.

  Args:
    target: whose slice is shared out.
    num_slices: that may be in use at a time.
    cluster_queue: name of the ClusterQueue.
  """
  tpu = target.tpu
  flavor = f'{tpu.name}{"-spot" if target.spot else ""}'
  labels = {
    'cloud.google.com/gke-tpu-accelerator': tpu.accelerator,
    'cloud.google.com/gke-tpu-topology': tpu.topology,
  }
  if target.spot:
    labels['cloud.google.com/gke-spot'] = 'true'
  quota = num_slices * tpu.num_hosts * tpu.chips_per_host
  api = 'kueue.x-k8s.io/v1beta2'
  return [
    {
      'apiVersion': api,
      'kind': 'ResourceFlavor',
      'metadata': {'name': flavor},
      'spec': {'nodeLabels': labels},
    },
    {
      'apiVersion': api,
      'kind': 'ClusterQueue',
      'metadata': {'name': cluster_queue},
      'spec': {
        'namespaceSelector': {},
        'queueingStrategy': 'BestEffortFIFO',
        'resourceGroups': [
          {
            'coveredResources': ['google.com/tpu'],
            'flavors': [
              {
                'name': flavor,
                'resources': [
                  {'name': 'google.com/tpu', 'nominalQuota': quota}
                ],
              }
            ],
          }
        ],
      },
    },
    {
      'apiVersion': api,
      'kind': 'LocalQueue',
      'metadata': {'name': target.queue, 'namespace': target.namespace},
      'spec': {'clusterQueue': cluster_queue},
    },
  ]
