"""A study of runs that are imported: every stage but training."""

import io
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
import rich.console

from configs.studies import default
from lossbench.interop import formats
from lossbench.report import reading
from lossbench.study import configuration, states
from lossbench.study.driver import check_configs, run_study, write_study
from tests.interop import arrays

ROOT = pathlib.Path(__file__).parents[2]
# What `python -m lossbench.import_checkpoint` does, with the format of tests.
PROGRAM = """
import runpy
from lossbench.interop import formats
from tests.interop import arrays
formats._FORMATS = (arrays.FORMAT,)
runpy.run_module('lossbench.import_checkpoint', run_name='__main__')
"""


@pytest.fixture(scope='module')
def study(digits_dir, tmp_path_factory):
  """Three seeds, the last of which is not there."""
  workdir = tmp_path_factory.mktemp('imports')
  for seed in (0, 1):
    arrays.write(workdir / f'theirs/softmax/{seed}.npz', seed=seed)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    patch.setattr(formats, '_FORMATS', (*formats._FORMATS, arrays.FORMAT))
    config = default.get_default_study()
    config.data_dir = digits_dir
    config.groups.digits_cnn = default.group(
      'configs/digits_cnn.py',
      objectives=('softmax',),
      # The last, of the recipe alone, is nothing that the checkpoint says.
      overrides=(
        'num_holdout=0',
        f'model.width={arrays.WIDTH}',
        'batch_size=64',
      ),
      import_format='arrays',
      import_from=f'{workdir}/theirs/{{objective}}/{{seed}}.npz',
      num_train_examples=0,
      ood=False,
      cka=False,
    )
    default.check_study(config)
    built = configuration.build_study(
      config, config_file='x.py', workdir=workdir / 's'
    )
    check_configs(built)
    yield built


def _run(study):
  output = rich.console.Console(file=io.StringIO())
  errors = run_study(study, only=[], num_workers=0, output=output)
  write_study(study)
  return errors


def test_everything_is_imported_measured_and_compared(study):
  assert states.read_state(study, study.runs[0]).describe() == 'waiting'
  errors = _run(study)
  [(name, error)] = errors.items()
  assert name == 'digits_cnn/softmax/seed2'
  assert error.startswith('import: There is no checkpoint --source=')
  found = [states.read_state(study, run) for run in study.runs]
  assert [state.missing for state in found] == [
    (),
    (),
    ('import', 'evaluate'),
  ]
  [comparison] = study.comparisons
  assert states.is_compared(study, comparison)
  records = reading.load_study(study.workdir)
  measured = [run.measured('top1_accuracy') is not None for run in records.runs]
  assert measured == [True, True, False]
  assert not records.problems


def test_a_failed_import_is_tried_again_and_all_else_left(study):
  before = (study.path(study.runs[0]) / 'run.json').stat()
  arrays.write(pathlib.Path(study.runs[2].source.path), seed=2)
  assert _run(study) == {}
  assert (study.path(study.runs[0]) / 'run.json').stat() == before


def test_a_damaged_import_is_made_again(study):
  run = study.runs[1]
  path = study.path(run)
  wanted = states.read_state(study, run).wanted
  for file in (path / 'checkpoints/000000000/state').rglob('*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-9])
  for stored in path.glob('eval/digits-test/*'):
    stored.unlink()
  assert _run(study) == {}
  assert states.read_state(study, run).wanted == wanted


def test_the_printed_command_makes_the_run_that_the_study_wants(study):
  run = study.runs[1]
  shutil.rmtree(study.path(run), ignore_errors=True)
  python, m, module, *words = shlex.split(study.commands(run)['import'])
  assert (python, m, module) == ('python', '-m', 'lossbench.import_checkpoint')
  subprocess.run([sys.executable, '-c', PROGRAM, *words], check=True, cwd=ROOT)
  states.check_runs(study)
  assert states.read_state(study, run).missing == ('evaluate',)


def test_a_network_of_torchvision_is_what_recipe_and_overrides_say(
  tmp_path, monkeypatch
):
  torch = pytest.importorskip('torch', reason='torch is not there: .[torch]')
  from tests.interop import torch_networks

  monkeypatch.chdir(ROOT)
  state = torch_networks.create('resnet18').state_dict()
  torch.save(state, tmp_path / 'softmax.pth')
  config = default.get_default_study()
  config.groups.theirs = default.group(
    'configs/imagenet_resnet50.py',
    objectives=('softmax',),
    num_seeds=1,
    overrides=(
      'num_holdout=0',
      'compute_dtype=float32',
      'model.depth=18',
      'model.max_pool_padding=symmetric',
      'eval_crop=resize_then_crop',
      'resize_method=bilinear',
      'resize_antialias=True',
    ),
    import_format='torchvision',
    import_from=f'{tmp_path}/{{objective}}.pth',
    import_options=('weights=IMAGENET1K_V1',),
    evaluate=False,
  )
  default.check_study(config)
  built = configuration.build_study(
    config, config_file='x.py', workdir=tmp_path / 's'
  )
  check_configs(built)
  assert _run(built) == {}
  assert states.read_state(built, built.runs[0]).done
