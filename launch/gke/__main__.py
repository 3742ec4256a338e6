"""Prints manifests of a run or a whole study: python -m launch.gke.

  python -m launch.gke --tpu=v5e-64 --image=IMAGE --study=configs/studies/paper.py --workdir=gs://BUCKET/paper | kubectl apply -f -
  python -m launch.gke --tpu=v5e-4 --image=IMAGE --study=configs/studies/paper.py --only=cifar10_all_cnn/ --runs_per_program=4 --workdir=gs://BUCKET/paper | kubectl apply -f -
  python -m launch.gke --tpu=v5e-64 --image=IMAGE --name=r50 -- python main.py --config=configs/imagenet_resnet50.py:sigmoid --workdir=gs://BUCKET/r50
  python -m launch.gke --tpu=v5e-64 --num_slices=4 --queues | kubectl apply -f -

Every run is one JobSet on its own TPU slice, or several are, each on a device of
one host. Kueue queues them and starts as many as there is room for. See launch/README.md.
"""

import json
import shlex
import sys

from absl import app, flags

from launch.gke import manifests
from launch.gke.slices import SLICES, TpuSlice, get_slice

_TPU = flags.DEFINE_string('tpu', None, 'Slice of every run, e.g. v5e-64.')
_IMAGE = flags.DEFINE_string('image', None, 'Container with lossbench in it.')
_STUDY = flags.DEFINE_string('study', None, 'Configuration of a study.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the study.')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'TFDS directory of its runs.')
_ONLY = flags.DEFINE_multi_string(
  'only', [], 'Only runs whose names contain this; repeat for several.'
)
_RUNS_PER_PROGRAM = flags.DEFINE_integer(
  'runs_per_program',
  1,
  'Runs of a study that share a slice of one host and are trained at once, each '
  'on one device; 1 gives each run a slice.',
  lower_bound=1,
)
_NAME = flags.DEFINE_string('name', None, 'Of a single command.')
_QUEUES = flags.DEFINE_bool('queues', False, "Print Kueue's queues instead.")
_NUM_SLICES = flags.DEFINE_integer(
  'num_slices', 1, 'Of --queues: slices in use at a time.', lower_bound=1
)
_QUEUE = flags.DEFINE_string('queue', 'lossbench', "Kueue's LocalQueue.")
_NAMESPACE = flags.DEFINE_string('namespace', 'default', 'Of the jobs.')
_SERVICE_ACCOUNT = flags.DEFINE_string(
  'service_account', '', "Kubernetes' account that may use the bucket."
)
_SPOT = flags.DEFINE_bool('spot', False, 'Run on spot nodes.')
_MAX_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 3, 'Of a run that fails by itself.', lower_bound=0
)
_PRIORITY = flags.DEFINE_string('priority', '', "Kueue's priority class.")


def study_job_sets(
  config_file: str,
  *,
  workdir: str,
  data_dir: str,
  only: list[str],
  target: manifests.Target,
  runs_per_program: int = 1,
) -> list[dict]:
  """A JobSet for every run of a study: train, evaluate, transfer.

  Comparisons need finished runs: `python -m lossbench.study --commands` prints
  their commands.

  Args:
    config_file: of the study.
    workdir: of the study.
    data_dir: of its runs; '' for their recipes'.
    only: words that names of runs must contain; [] for all.
    target: where.
    runs_per_program: of one JobSet, which trains them at once.

  Raises:
    ValueError: if the study is refused, or one of the runs has to wait for
      others, which a job cannot, or a host has fewer devices.
  """
  _check_group(runs_per_program, target.tpu)
  from lossbench.study import configuration, plan, states

  config = configuration.load_config_fn(config_file)()
  if data_dir:
    config.data_dir = data_dir
  study = configuration.build_study(
    config, config_file=config_file, workdir=workdir
  )
  runs = plan.select_runs(study.runs, only)
  configs = [states.resolve_config(study, run) for run in runs]
  for run, resolved in zip(runs, configs, strict=True):
    if resolved is None:
      raise ValueError(
        f'{run.name} stops where the runs of {run.stop_epoch_from} say, which '
        f'are not all trained in {workdir}. Launch those first, with '
        f'--only={run.stop_epoch_from}/, and these when they are over.'
      )
  if runs_per_program > 1:
    return [
      _group_job_set(
        study,
        runs[first : first + runs_per_program],
        data_dir,
        target,
        runs_per_program,
      )
      for first in range(0, len(runs), runs_per_program)
    ]
  return [
    manifests.job_set(
      f'{study.name}/{run.name}',
      list(study.commands(run, resolved).values()),
      target,
    )
    for run, resolved in zip(runs, configs, strict=True)
  ]


def _check_group(runs_per_program: int, tpu: TpuSlice):
  if runs_per_program == 1:
    return
  if tpu.num_hosts > 1:
    one_host = [t.name for t in SLICES.values() if t.num_hosts == 1]
    raise ValueError(
      f'--runs_per_program={runs_per_program} is for slices of one host, but '
      f'{tpu.name} has {tpu.num_hosts}. Give --tpu={" or ".join(one_host)}.'
    )
  if runs_per_program > tpu.chips_per_host:
    raise ValueError(
      f'--runs_per_program={runs_per_program} is more than the '
      f'{tpu.chips_per_host} devices of {tpu.name}.'
    )


def _group_job_set(
  study, runs, data_dir: str, target, runs_per_program: int
) -> dict:
  """A JobSet that does all of some runs in one program, each on one device."""
  names = [run.name for run in runs]
  command = ['python', '-m', 'lossbench.study', f'--config={study.config_file}']
  command += [f'--config.data_dir={data_dir}'] if data_dir else []
  command += [f'--workdir={study.workdir}', f'--runs={",".join(names)}']
  # Also of a last group of a single run, on one device like the others.
  command.append(f'--runs_per_program={runs_per_program}')
  name = f'{study.name}/{names[0]} to {names[-1]}'
  return manifests.job_set(name, [shlex.join(command)], target)


# What only one kind of output uses; elsewhere it would be ignored.
_OWN_FLAGS = {
  '--queues': ('num_slices',),
  '--study': ('workdir', 'data_dir', 'only', 'runs_per_program'),
  '--name': ('name',),
}
_RUN_FLAGS = ('image', 'service_account', 'max_restarts', 'priority')


def _check_flags(kind: str):
  """Raises ValueError for flags that this kind of output does not use."""
  for owner, names in (*_OWN_FLAGS.items(), ('runs', _RUN_FLAGS)):
    if owner == kind or (owner == 'runs' and kind != '--queues'):
      continue
    for name in names:
      if flags.FLAGS[name].present:
        raise ValueError(f'--{name} belongs to {owner}, and {kind} ignores it.')


def _check_in_bucket(workdir: str):
  if not workdir.startswith('gs://'):
    raise ValueError(
      f'--workdir={workdir} would lie in the container and be lost with it. '
      'Give one in a bucket, gs://BUCKET/...'
    )


def main(argv):
  try:
    kind = (
      '--queues' if _QUEUES.value else '--study' if _STUDY.value else '--name'
    )
    _check_flags(kind)
    target = manifests.Target(
      tpu=get_slice(_TPU.value),
      image=_IMAGE.value or '',
      queue=_QUEUE.value,
      namespace=_NAMESPACE.value,
      service_account=_SERVICE_ACCOUNT.value,
      spot=_SPOT.value,
      max_restarts=_MAX_RESTARTS.value,
      priority=_PRIORITY.value,
    )
    if _QUEUES.value:
      found = manifests.queues(target, num_slices=_NUM_SLICES.value)
    elif not target.image:
      raise ValueError('Give --image=IMAGE, a container with lossbench in it.')
    elif _STUDY.value:
      if not _WORKDIR.value:
        raise ValueError('--study needs --workdir, e.g. gs://BUCKET/paper.')
      _check_in_bucket(_WORKDIR.value)
      if len(argv) > 1:
        raise ValueError(f'--study takes no command; got {argv[1:]}.')
      found = study_job_sets(
        _STUDY.value,
        workdir=_WORKDIR.value,
        data_dir=_DATA_DIR.value,
        only=_ONLY.value,
        target=target,
        runs_per_program=_RUNS_PER_PROGRAM.value,
      )
    elif len(argv) > 1 and _NAME.value:
      for argument in argv[1:]:
        if argument.startswith('--workdir='):
          _check_in_bucket(argument.removeprefix('--workdir='))
      command = shlex.join(argv[1:])
      found = [manifests.job_set(_NAME.value, [command], target)]
    else:
      raise ValueError(
        'Give --study=FILE --workdir=DIR, or --name=NAME -- COMMAND.'
      )
  except (ValueError, OSError) as error:
    sys.exit(f'Error: {error}')
  # JSON is YAML, and kubectl takes a list of objects.
  print(
    json.dumps({'apiVersion': 'v1', 'kind': 'List', 'items': found}, indent=2)
  )


if __name__ == '__main__':
  flags.mark_flag_as_required('tpu')
  app.run(main)
